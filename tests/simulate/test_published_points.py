"""The published speed numbers as points: what calibrates, what validates, what is never scored."""

from collections import Counter
from itertools import product

import pytest

from ladder.errors import UserError
from ladder.simulate import published
from ladder.simulate.calibration import load
from ladder.simulate.points import read


@pytest.fixture(scope="module")
def folder(request):
    return request.config.rootpath / "reports" / "published"


@pytest.fixture(scope="module")
def rows(folder):
    return published.rows(folder)


def cell(row):
    return row["wiring"], row["tp"], row["batch"], row["link"]


def test_the_calibration_rows_are_the_28_that_were_named(rows):
    chosen = [row for row in rows if row["use"] == "calibration"]
    fits = {(2, 1), (4, 1), (8, 1), (2, 4), (4, 4), (8, 4), (4, 64), (8, 64)}  # batch 64 does not fit on two GPUs
    expected = {("standard", *at, link) for at, link in product(fits, ("nvlink", "nvlink-p2p-off"))}
    expected |= {("upper_bound", *at, "nvlink") for at in fits}
    expected |= {("ladder", 8, batch, link) for batch, link in product((1, 64), ("nvlink", "nvlink-p2p-off"))}
    assert len(chosen) == 28
    assert {cell(row) for row in chosen} == expected
    assert {(row["model"], row["set"]) for row in chosen} == {("llama-3-70b", "70B, Figure 2")}


def test_the_two_node_link_comes_from_the_upper_bound_of_405b(rows):
    chosen = [row for row in rows if row["use"] == "link"]
    assert len(chosen) == 8
    assert {(row["model"], row["wiring"], row["tp"]) for row in chosen} == {("llama-3.1-405b", "upper_bound", 16)}
    assert {row["link"] for row in chosen} == {"ib-ndr-2node", "ib-ndr-2node-p2p-off"}


def test_what_contradicts_other_data_is_excluded_with_its_reason(rows):
    out = [row for row in rows if row["use"] == "excluded"]
    assert all(row["reason"] for row in out)
    assert {row["use"] for row in rows if row["model"] == "codellama-34b"} == {"excluded"}
    assert {row["use"] for row in rows if row["set"] == "by size, blog" and row["model"].startswith("paper")} == {
        "excluded"
    }
    assert sum(row["reason"] == published.COMPILING for row in out) == 2
    assert not any(row["reason"] == published.REPEAT and row["model"] != "llama-3-70b" for row in out)
    (odd,) = [row for row in rows if row.get("tokens_per_s") == 82.59]  # the authors' logs say 77.5 and 78.3
    assert odd["use"] == "calibration"


def test_every_row_has_a_source_and_its_use(rows):
    assert {row["use"] for row in rows} == set(published.USES)
    assert all(row["source"] and row["set"] for row in rows)
    assert Counter(row["use"] for row in rows) == {"calibration": 28, "link": 8, "validation": 108, "excluded": 141}


def test_the_runs_of_the_logs_stay_apart(rows):
    sets = {row["set"] for row in rows if "logs" in row["set"]}
    assert sets == {"70B, logs/arxiv", "70B, logs/final", "8B, logs/arxiv", "8B, logs/11_25"}
    for name in sets:
        cells = [cell(row) for row in rows if row["set"] == name]
        assert len(cells) == len(set(cells))


def test_what_is_written_is_read_back(folder, rows, tmp_path):
    class Args:
        published, out = folder, tmp_path / "rows.csv"

    published.main(Args)
    lines = read(Args.out, load(), published.VALUES)
    assert len(lines) == len(rows)
    assert [line["tokens_per_s"] for _, line in lines] == [row.get("tokens_per_s") for row in rows]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"author_logs.csv: no such file"):
        published.rows(tmp_path)
