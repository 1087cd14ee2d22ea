"""The simulator's derived tables are what its record holds."""

import argparse

import pytest

from ladder.analysis import build, frames, simulator
from ladder.simulate import published as points
from ladder.simulate import validate
from ladder.simulate.scores import FIT, LINK

KEPT = "paper-1b-8l-tp8-b1-p16-n200-fp32-rho0.4.json"
TABLES = ("prediction_groups", "predictions", "prediction_winners", "calibration", "own_predictions")


@pytest.fixture(scope="module")
def read(published, request, tmp_path_factory):
    """Frames of a validation of the committed calibration."""
    folder = tmp_path_factory.mktemp("simulated")
    points.main(argparse.Namespace(published=published, out=folder / "rows.csv"))
    kept = request.config.rootpath / "reports" / "measured" / "epyc-2-cores" / KEPT
    parser = argparse.ArgumentParser()
    validate.add_arguments(parser)
    words = ["--rows", folder / "rows.csv", "--record", folder / "record.json", "--bench", kept]
    validate.main(parser.parse_args(list(map(str, words))))
    return frames.read([folder], published)


@pytest.fixture(scope="module")
def record(read):
    return simulator.record_of(read)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_full_and_empty_without_a_record(read, bare, name):
    assert len(build.TABLES[name](read)) > 1
    assert build.TABLES[name](bare).empty


def test_the_groups_are_those_of_the_record(read, record):
    table = simulator.groups(read)
    assert len(table) == len(record["groups"]) + len(record["noise"])
    assert table["error_median"][0] == record["groups"][0]["median"]
    assert set(table["origin"]) == {"simulated", "published"}


def test_every_published_number_is_scored_or_says_why_not(read, record):
    table = simulator.predictions(read)
    assert len(table) == len(record["validation"])
    scored = table[table["kind"] != "not scored"]
    assert (scored["kind"] == "fitted").equals(scored["group"].isin([FIT, LINK]))
    assert len(scored.drop_duplicates(["wiring", "model", "tp", "batch", "link", "source", "table"])) >= 28 + 8 + 108
    assert table[table["kind"] == "not scored"]["reason"].notna().all()
    error = scored["simulated"] / scored["published"] - 1
    assert error.tolist() == pytest.approx(scored["error"].tolist())


def test_parameters_have_standard_errors_or_were_held(read, record):
    table = simulator.calibration(read)
    assert len(table) == len(record["calibration"]["parameters"])
    assert (table["origin"] == "fitted").equals(table["relative_stderr"].notna())
    assert 46.5 in set(table["in_links"])


def test_own_timings_stand_beside_the_schedule(read):
    table = simulator.own(read)
    assert table["wiring"].tolist() == ["standard", "parallel", "ladder", "upper_bound"]
    assert set(table["origin"]) == {"emulated"}
    assert table["simulated_decode_s"].isna().all()  # no calibration of that machine was given
    assert table["decode_hidden_schedule"].notna().any()
