"""The scale study's derived tables and its page, from a small one."""

import argparse

import pandas as pd
import pytest
import toy_records

from ladder.analysis import build, frames, scale
from ladder.pages.page import Sources
from ladder.pages.scale import PAGE
from ladder.simulate import crossings
from ladder.simulate.calibration import load
from ladder.simulate.study import add_arguments, asked, study

TABLES = {name: make for name, make in build.TABLES.items() if name.startswith("scale_")}


def made(folder, published, *words):
    """Frames with the record of a small study."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    found = study(asked(parser.parse_args([*words, "--record", "study.json"]), load()), load())
    rows = [{"stage": "simulate", "run": "study", "origin": "simulated", **row} for row in crossings.rows(found)]
    toy_records.write(folder, "study", rows, study=found)
    return frames.read([folder], published)


@pytest.fixture(scope="module")
def small(tmp_path_factory, published):
    words = ["--models", "llama-3-8b", "llama-3-70b", "--tp", "2", "8", "16", "--batches", "1", "16", "256"]
    words += ["--links", "nvlink", "nvl72", "ib-ndr", "ethernet-100g"]
    return made(tmp_path_factory.mktemp("study"), published, *words)


@pytest.mark.parametrize("name", TABLES)
def test_tables_hold_simulated_numbers_and_say_so(name, small):
    table = TABLES[name](small)
    assert len(table) > 1
    assert name == "scale_about" or set(table["origin"]) == {"simulated"}


@pytest.mark.parametrize("name", TABLES)
def test_without_a_study_each_is_empty(name, bare):
    assert TABLES[name](bare).empty


@pytest.mark.parametrize(
    "words",
    [
        ("--models", "llama-3-8b", "--links", "ethernet-100g", "--tp", "16", "--batches", "2"),
        ("--models", "llama-3.1-405b", "--links", "nvlink", "--tp", "8", "--batches", "1", "--hardware", "l4"),
    ],
)
def test_a_study_of_little_or_of_nothing_that_fits_is_shown_too(words, tmp_path, published):
    data = made(tmp_path, published, *words)
    found = build.write(data, tmp_path / "analysis")
    assert found
    PAGE.write(Sources(build.read(tmp_path / "analysis")), tmp_path / "pages")


def test_outcomes_add_up_to_the_settings(small):
    done, _ = scale.study(small)
    cells = scale.cells(small)
    assert len(cells) == len(done["cells"]) * len(done["contests"])
    for contest, rows in cells.groupby("contest"):
        won = [cell["leaders"][contest] for cell in done["cells"] if cell["fits"]]
        assert (rows["outcome"] == "won").sum() == sum(len(leaders) == 1 for leaders in won)
        assert (rows["outcome"] == "does not fit").sum() == len(done["cells"]) - len(won)


def test_crossovers_name_what_is_assumed(small):
    rows = scale.crossovers(small).set_index(["network", "tp"])
    assert set(rows["assumed"]["NVLink", 8]) == {""}
    assert rows["assumed"]["NVL72", 8].str.contains("efficiencies").all()


def test_a_cost_is_over_standards_within_the_same_time(small):
    rows = scale.cost(small)
    assert (rows[rows["wiring"] == "standard"]["over_standard"] == 1).all()
    assert pd.api.types.is_numeric_dtype(rows["within_ms"])
