"""Fitting: made-up rows give their parameters back, rows that leave one open are refused by name."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ladder.cli import main
from ladder.errors import UserError
from ladder.simulate.calibrate import held, read_rows
from ladder.simulate.calibration import DEFAULT, load, protocols
from ladder.simulate.fit import Row, fit
from ladder.simulate.model import Scenario, predict
from ladder.simulate.records import bench_rows

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "reports/published"
KEPT = sorted((ROOT / "reports/measured").rglob("paper-1b-8l-tp8*rho0.*.json"))
TRUE = load()


@pytest.fixture(scope="module")
def csv_rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    assert main(["simulate", "rows", "--published", str(PUBLISHED), "--out", str(path)]) == 0
    return path


def points(batches=(1, 4, 64), tps=(2, 4, 8)):
    return [
        Scenario("llama-3-70b", wiring, tp, batch, 1024, 512, "h100", "nvlink")
        for batch in batches
        for tp in tps
        for wiring in ("standard", "ladder", "upper_bound")
    ]


def made(which, prefill=True):
    """Rows exactly as the committed calibration has them."""
    done = predict(which, TRUE)
    return [
        Row(point, tokens_per_s=tokens, prefill_s=first if prefill else None)
        for point, tokens, first in zip(which, done.tokens_per_s, done.prefill, strict=True)
    ]


def test_made_up_rows_give_their_parameters_back():
    found = fit(made(points()), "again")
    for name in found.calibration.fitted:
        assert found.calibration.parameters[name] == pytest.approx(TRUE.parameters[name], rel=0.02), name
    assert max(found.calibration.residual.values()) < 1e-3


def test_without_prefill_its_parameters_are_kept():
    found = fit(made(points(), prefill=False), "again", TRUE)
    assert "only prefill_s" in found.kept["matmul"]
    assert found.calibration.parameters["matmul"] == TRUE.parameters["matmul"]


def test_rows_that_do_not_identify_a_parameter_are_refused_by_name():
    noisy = [
        replace(row, tokens_per_s=row.tokens_per_s * (1 + 0.02 * (-1) ** n))
        for n, row in enumerate(made(points(batches=(1, 16)), prefill=False))
    ]
    with pytest.raises(UserError, match=r"do not identify .*kv_stream.* \(standard error .*add rows of a large batch"):
        fit(noisy, "too little")


def test_too_few_rows_and_mixed_hardware_are_refused():
    with pytest.raises(UserError, match=r"6 measured values cannot fit \d+ parameters"):
        fit(made(points(batches=(1,), tps=(8,))), "few")
    rows = made(points())
    other = replace(rows[0], point=rows[0].point._replace(hardware="h200"))
    with pytest.raises(UserError, match="one hardware at a time"):
        fit([*rows, other], "mixed")


def test_the_default_calibration_is_fitted_from_the_28_rows(csv_rows, tmp_path, capsys):
    """The committed file is what the commands of the pipeline make of the published numbers."""
    first, second = tmp_path / "first.json", tmp_path / "published.json"
    assert main(["calibrate", str(csv_rows), "--out", str(first)]) == 0
    links = ["ib-ndr-2node", "ib-ndr-2node-p2p-off"]
    hold = [f"{link}.switch=2" for link in links]
    words = ["calibrate", str(csv_rows), "--start", str(first), "--links", *links, "--hold", *hold]
    assert main([*words, "--out", str(second)]) == 0
    assert "standard error" in capsys.readouterr().out
    mine, committed = load(second), TRUE
    assert mine.fitted == committed.fitted
    assert mine.parameters == pytest.approx(committed.parameters, rel=0.01)
    assert mine.residual == pytest.approx(committed.residual, rel=0.02)
    rows = json.loads(first.read_text())["rows"]
    assert len({tuple(row[key] for key in ("wiring", "tp", "batch", "link")) for row in rows}) == 28
    assert len([row for row in rows if row["what"] == "tokens_per_s"]) == 28


def test_fitted_values_make_sense():
    prm = TRUE.parameters
    assert 15 < prm["nvlink.latency_us.8"] < 30  # NCCL on 8 H100: 19 to 25 us
    (start, each), _ = protocols("ib-ndr-2node", 16, prm)
    assert 40e-6 < start + 2 * 16384 * each < 50e-6  # 405B at batch 1; public figures are 46 to 48 us
    assert 0.6 < prm["stream_many"] < 0.95
    assert 0.8 < prm["stream_one"] < 1.05
    assert 0.3 < prm["matmul"] < 0.7
    assert prm["interference_small"] < prm["interference_large"]
    assert DEFAULT.exists()


def test_records_of_the_benchmark_calibrate_their_own_machine(tmp_path, capsys):
    """Records of one point leave parameters open, and the command says so; their rows are read right."""
    rows = [row for path in KEPT for row in bench_rows(path, json.loads(path.read_text()))]
    assert {row.point.wiring for row in rows} == {"standard", "upper_bound"}
    assert {row.point.implementation for row in rows} >= {"ladder-fp32"}
    assert all(row.decode_s > row.prefill_s for row in rows)
    out = tmp_path / "own.json"
    assert main(["calibrate", *map(str, KEPT), "--out", str(out)]) == 1
    assert "cannot fit" in (said := capsys.readouterr().err) or "do not identify" in said
    assert not out.exists()


def test_held_parameters():
    assert held(["kernel_us=2.5"]) == {"kernel_us": 2.5}
    for word in ("kernel_us", "kernel_us=x", "kernel_us=-1"):
        with pytest.raises(UserError, match="kernel_us"):
            held([word])
    with pytest.raises(UserError, match="unknown parameter to hold 'kernels'"):
        fit(made(points()), "x", hold={"kernels": 1.0})


def test_a_csv_without_measured_values_is_refused(tmp_path):
    path = tmp_path / "points.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Scenario._fields)
        writer.writerow(points()[0])
    with pytest.raises(UserError, match="no row to fit"):
        read_rows([path])
    path = tmp_path / "record.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="not a record"):
        read_rows([path])
