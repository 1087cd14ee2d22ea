"""Tables and figures of the simulator: what they show is what its record holds."""

import argparse

import pytest

from ladder.report import calibration_tables, frames, simulator_figures, simulator_tables
from ladder.simulate import published as points
from ladder.simulate import validate
from ladder.simulate.scores import FIT, HELD_OUT, LINK, WHAT

KEPT = "paper-1b-8l-tp8-b1-p16-n200-fp32-rho0.4.json"
TABLES = [*simulator_tables.TABLES, *calibration_tables.TABLES]


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
    return simulator_tables.validation(read)


def texts(table, name, group=""):
    at = next(i for i, c in enumerate(table.columns) if c.name == name and (not group or c.group == group))
    return [row[at].text for row in table.rows]


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_tables_are_full_and_say_the_origin_of_every_number(read, make):
    table = make(read)
    assert table.rows
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert set(table.tidy()["origin"]) <= {"published", "simulated", "emulated"}


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_without_a_record_a_table_says_so(bare, make):
    table = make(bare)
    assert table.caption == "This run holds no validation of the simulator."
    assert {cell.reason for row in table.rows for cell in row} == {simulator_tables.NOT_HERE}


def test_the_groups_are_those_of_the_record(read, record):
    table = simulator_tables.groups(read)
    assert len(table.rows) == len(record["groups"]) + len(record["noise"])
    held = simulator_tables.statistic(record, HELD_OUT, "speedup")
    assert texts(table, "median", "error, %")[0] == f"{100 * held['median']:.1f}"
    assert f"within {100 * held['median']:.1f} % (median)" in table.caption
    assert set(texts(table, "Origin")) == {"simulated", "published"}


def test_rows_are_those_scored_and_no_other(read, record):
    scored = [e for e in record["validation"] if e["group"]]
    table = simulator_tables.scored_rows(read)
    tidy = table.tidy()
    assert (tidy["origin"] == "published").sum() <= len(scored)
    assert len(table.rows) == 28 + 8 + 108
    assert texts(table, "Used").count("fitted") == 28
    assert sum(len(cells.rows) for cells in table.rows[0]) == 2 * len(WHAT)  # published and simulated of each


def test_every_excluded_row_has_its_reason_and_its_numbers(read):
    table = simulator_tables.excluded(read)
    assert all(texts(table, "Why"))
    assert sum(map(int, texts(table, "rows"))) == 141 + 2  # 176B has no shape here
    assert {"codellama-34b", "176B"} <= set(texts(table, "Model"))
    assert (table.tidy()["origin"] == "published").all()


def test_parameters_have_standard_errors_or_were_held(read, record):
    table = calibration_tables.calibration(read)
    assert len(table.rows) == len(record["calibration"]["parameters"])
    for origin, error in zip(texts(table, "Origin"), texts(table, "standard error, %"), strict=True):
        assert (origin == "fitted") == bool(error)
    assert "This is the committed calibration" in table.caption
    assert "46.5 (published)" in texts(table, "table of links")


def test_own_timings_stand_beside_the_schedule(read):
    table = calibration_tables.own(read)
    assert texts(table, "Wiring") == ["standard", "parallel", "ladder", "upper bound"]
    assert set(texts(table, "Origin")) == {"simulated against emulated"}
    assert texts(table, "simulated", "ms per step") == [""] * 4  # no calibration of that machine was given
    assert "points (median) off the share hidden" in table.caption


def test_figures_draw_the_speedups_once(read, record):
    for make in simulator_figures.FIGURES:
        figure = make(read)
        assert len(figure.panels) == 2
        assert {"published", "simulated"} == set(figure.data["origin"])
    counted = [e for e in record["validation"] if e["what"] == "speedup" and e["group"] and not e["copy"]]
    drawn = simulator_figures.speedup(read).data
    assert (drawn["origin"] == "simulated").sum() == sum(e["group"] != LINK for e in counted)
    assert FIT in " ".join(drawn["note"])


def test_without_a_record_a_figure_says_so(bare):
    for make in simulator_figures.FIGURES:
        assert make(bare).panels[0].alt == simulator_tables.NOT_HERE
