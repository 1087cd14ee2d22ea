"""Tables and figures of the scale study, from a small one."""

import argparse

import pytest
import toy_records

from ladder.report import cells, frames, scale_figures, scale_tables, svg
from ladder.simulate import crossings
from ladder.simulate.calibration import load
from ladder.simulate.study import add_arguments, asked, study


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


@pytest.mark.parametrize("make", scale_tables.TABLES)
def test_tables_hold_simulated_numbers_and_say_so(make, small, tmp_path):
    table = make(small)
    assert table.name.startswith("scale_")
    assert len(table.rows) > 1
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert set(table.tidy()["origin"].dropna()) == {"simulated"}
    assert any(column.group.startswith("simulated") for column in table.columns)
    cells.write(table, tmp_path, "http://127.0.0.1")


@pytest.mark.parametrize("make", scale_figures.FIGURES)
def test_figures_draw_every_panel(make, small, tmp_path):
    figure = make(small)
    assert len(figure.panels) == 2
    assert all("llama" in panel.alt for panel in figure.panels)
    assert set(figure.data["origin"]) == {"simulated"}
    written = svg.write_all([figure], tmp_path)
    assert sum(path.suffix == ".svg" for path in written) == 2


@pytest.mark.parametrize("make", [*scale_tables.TABLES, *scale_figures.FIGURES])
def test_without_a_study_each_says_so(make, bare):
    assert "no scale study" in make(bare).caption


@pytest.mark.parametrize(
    "words",
    [
        ("--models", "llama-3-8b", "--links", "ethernet-100g", "--tp", "16", "--batches", "2"),
        ("--models", "llama-3.1-405b", "--links", "nvlink", "--tp", "8", "--batches", "1", "--hardware", "l4"),
    ],
)
def test_a_study_of_little_or_of_nothing_that_fits_is_shown_too(words, tmp_path, published):
    data = made(tmp_path, published, *words)
    for make in scale_tables.TABLES:
        cells.write(make(data), tmp_path / "tables", "http://127.0.0.1")
    for make in scale_figures.FIGURES:
        svg.write_all([make(data)], tmp_path / "figures")


def column(table, name, group=""):
    at = next(i for i, c in enumerate(table.columns) if c.name == name and c.group.endswith(group))
    return [row[at] for row in table.rows]


def test_winners_add_up_to_the_settings(small):
    table = scale_tables.scale_winners(small)
    done, _ = scale_tables.study(small)
    for contest in done["contests"]:
        at = [i for i, c in enumerate(table.columns) if c.group.endswith(contest) or c.name == "nothing to gain"]
        for row in [row for row in table.rows if not row[2].reason]:
            assert sum(row[i].sort for i in at) == row[2].sort
    assert "Ethernet: parallel wins" in table.caption


def test_crossovers_name_what_is_assumed(small):
    table = scale_tables.scale_crossovers(small)
    said = {(row[1].text, row[2].text): row[-1].text for row in table.rows}
    assert said["NVLink", "8"] == "–"
    assert "efficiencies" in said["NVL72", "8"]
    for cell in column(table, "ladder, batch 1"):
        assert cell.reason or "[" in cell.text


def test_captions_are_computed(small):
    done, _ = scale_tables.study(small)
    leaders = [cell["leaders"][next(iter(done["contests"]))] for cell in done["cells"] if cell["fits"]]
    caption = scale_figures.winners(small).caption
    assert f"of {len(leaders)} settings that fit" in caption
    assert f"ladder wins {leaders.count(['ladder'])}" in caption
    assert "parallel stands for spd and desync-2x" in caption
