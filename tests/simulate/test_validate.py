"""How far the committed calibration is from what was published: the bars that it must meet, and how it is counted."""

import argparse
import csv
import json
from dataclasses import replace

import pytest

from ladder import records
from ladder.devices import Device
from ladder.errors import UserError
from ladder.simulate import published, scores, validate
from ladder.simulate.calibration import DEFAULT, load
from ladder.simulate.points import read
from ladder.simulate.published import VALUES
from ladder.simulate.scores import FIT, GROUPS, HELD_OUT, UNSEEN

KEPT = "reports/measured/epyc-2-cores/paper-1b-8l-tp8-b1-p16-n200-fp32-rho0.4.json"


@pytest.fixture(scope="module")
def csv_rows(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("validate") / "rows.csv"
    published.main(argparse.Namespace(published=request.config.rootpath / "reports" / "published", out=out))
    return out


@pytest.fixture(scope="module")
def entries(csv_rows):
    return validate.compare(read(csv_rows, load(), VALUES), load())


@pytest.fixture(scope="module")
def errors(entries):
    found = {(row["group"], row["what"]): row for row in scores.statistics(entries)}
    assert {group for group, _ in found} == set(GROUPS)
    return found


def parsed(*words):
    parser = argparse.ArgumentParser()
    validate.add_arguments(parser)
    return parser.parse_args(list(map(str, words)))


# The bars of acceptance: median and 90th percentile of the relative error.
@pytest.mark.parametrize(
    ("group", "what", "median", "p90"),
    [
        (HELD_OUT, "speedup", 0.025, 0.06),
        (HELD_OUT, "tokens_per_s", 0.04, 0.08),
        (UNSEEN, "speedup", 0.03, 0.07),
    ],
)
def test_held_out_speed_is_predicted(errors, group, what, median, p90):
    row = errors[group, what]
    assert row["n"] >= 15
    assert row["median"] <= median
    assert row["p90"] <= p90


def test_prefill_is_predicted(errors):
    for group in (HELD_OUT, UNSEEN):
        assert errors[group, "prefill_s"]["median"] <= 0.10


def test_a_model_never_fitted_is_told_apart_and_beats_the_rule_of_thumb(errors):
    row = errors[UNSEEN, "speedup"]
    assert row["r2"] >= 0.75
    assert row["ladder_median"] < row["rule_median"]
    assert row["ladder_p90"] < row["rule_p90"]


def test_intervals_cover_what_they_say(errors):
    for group, what in ((HELD_OUT, "speedup"), (HELD_OUT, "tokens_per_s"), (UNSEEN, "speedup")):
        assert 0.8 <= errors[group, what]["inside"] <= 1.0


def test_interference_is_needed(errors):
    row = errors[HELD_OUT, "speedup"]
    assert row["without_p90"] > 2 * row["p90"]


def test_errors_are_not_below_what_repeats_differ_by(entries, errors):
    """Less would mean that the test rows leaked into the fit."""
    noise = scores.repeats(entries)
    assert noise["speedup"]["pairs"] > 50
    assert noise["speedup"]["median"] < errors[HELD_OUT, "speedup"]["median"]


def test_nothing_fitted_or_excluded_is_in_a_held_out_group(entries):
    for entry in entries:
        held = entry["group"] not in (None, FIT, scores.LINK)
        assert held == (entry["use"] == "validation")
    assert not any(entry["published"] == 82.59 for entry in entries if entry["use"] == "validation")


def test_a_number_and_its_rounding_count_once(entries):
    copies = [entry for entry in entries if entry["copy"] and entry["use"] == "validation"]
    assert {(entry["set"], entry["model"]) for entry in copies} == {
        ("Table 1", "llama-3-8b"),
        ("Table 1", "llama-3.1-405b"),
    }
    made = {key: entries[0][key] for key in scores.POINT} | {"what": "speedup", "group": UNSEEN}
    found = scores.once([made | {"published": value} for value in (1.46, 1.4623, 1.447, 1.447)])
    assert [entry["copy"] for entry in found] == [True, False, False, True]


def test_speedups_are_of_one_source(entries, csv_rows):
    with csv_rows.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    cell = {"model": "llama-3-8b", "tp": "8", "batch": "4", "link": "nvlink", "set": "8B, logs/arxiv"}
    speed = {
        line["wiring"]: float(line["tokens_per_s"]) for line in lines if all(line[k] == v for k, v in cell.items())
    }
    (entry,) = [
        e
        for e in entries
        if e["what"] == "speedup" and e["wiring"] == "ladder" and all(str(e[k]) == v for k, v in cell.items())
    ]
    assert entry["published"] == pytest.approx(speed["ladder"] / speed["standard"])


def test_the_winner_is_named_where_wirings_are_apart(entries):
    found = scores.winners(entries)
    assert found["far"]["n"] >= 10
    assert found["far"]["right"] >= 0.9 * found["far"]["n"]


def test_the_record_holds_each_prediction_once(csv_rows, tmp_path, request):
    out = tmp_path / "record.json"
    validate.main(parsed("--rows", csv_rows, "--record", out, "--bench", request.config.rootpath / KEPT))
    record = records.read(out)
    told = [row for row in record["rows"] if "task" not in row]
    keys = [(*(row[key] for key in scores.POINT), row["metric"]) for row in told]
    assert len(keys) == len(set(keys))
    assert {row["origin"] for row in record["rows"]} == {"simulated"}
    assert all(row["low"] < row["value"] < row["high"] for row in told
               if row["metric"] == "tokens_per_second")  # fmt: skip
    assert record["calibration"]["difference"] == 0
    assert all("cannot fit" in row["reason"] for row in record["own"])
    assert len(record["validation"]) > 500


def test_a_file_that_is_no_list_of_published_rows_is_refused(csv_rows, tmp_path):
    plain = tmp_path / "points.csv"
    plain.write_text("\n".join(",".join(line.split(",")[:8]) for line in csv_rows.read_text().splitlines()[:3]))
    with pytest.raises(UserError, match=r"points.csv: use = None: not a file of `ladder simulate rows`"):
        validate.main(parsed("--rows", plain, "--record", tmp_path / "record.json"))
    assert not (tmp_path / "record.json").exists()


@pytest.fixture
def kept(request):
    path = request.config.rootpath / KEPT
    return path, records.read(path)


def test_own_records_are_held_against_the_schedule_and_a_calibration(kept):
    path, record = kept
    name = "amd-epyc-2-cores"
    own = replace(
        load(), name="own, on paper-1b-8l", hardware=name, device=Device(name, name, 1e15, 8e9, 1e11, "a test")
    )
    found = {entry["wiring"]: entry for entry in validate.against(path, record, {name: own}, load())}
    assert {wiring: entry["use"] for wiring, entry in found.items()} == {
        "standard": "calibration",
        "parallel": "validation",
        "ladder": "validation",
        "upper_bound": "calibration",
    }
    ladder = found["ladder"]
    assert ladder["origin"] == "emulated"
    assert 0 < ladder["predicted_hidden"] <= 1
    assert ladder["low"] < ladder["predicted_speedup"] < ladder["high"]
    assert ladder["hidden"] == pytest.approx(ladder["hidden_schedule"], abs=0.2)
    timed = next(
        row["value"]
        for row in record["rows"]
        if (row["metric"], row.get("phase"), row.get("wiring")) == ("seconds", "decode", "ladder")
        and row["compute"] == "compiled"
    )
    assert ladder["step_s"] == pytest.approx(timed)


def test_a_gpu_of_the_table_of_devices_is_predicted_with_the_published_calibration(kept):
    path, record = kept
    record["provenance"]["hardware"] = "1 x NVIDIA H200"
    for entry in validate.against(path, record, {}, load()):
        assert entry["calibration"] == load().name
        assert entry["use"] == "validation"


def test_a_record_without_timings_of_wirings_gives_nothing(kept):
    path, record = kept
    assert validate.against(path, {key: record[key] for key in ("schema", "provenance", "rows")}, {}, load()) == []


def test_the_calibration_is_described_with_standard_errors():
    found = validate.described(DEFAULT)
    content = json.loads(DEFAULT.read_text(encoding="utf-8"))
    by_name = {row["name"]: row for row in found["parameters"]}
    assert by_name.keys() == content["parameters"].keys()
    for name, error in content["stderr"].items():
        assert by_name[name]["stderr"] == pytest.approx(error, rel=1e-3)
