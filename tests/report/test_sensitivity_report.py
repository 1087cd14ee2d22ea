"""The scan of `ladder sensitivity` on its page."""

import pytest
import toy_records

from ladder.report import frames
from ladder.report.sensitivity import figure, sensitivity


@pytest.fixture
def scanned(tmp_path, published):
    """Frames of scans of the tiny model at the seeds given."""

    def read(*seeds: int) -> frames.Frames:
        toy_records.sensitivity(tmp_path, seeds)
        return frames.read([tmp_path], published)

    return read


def test_the_table_has_every_point_and_what_is_free(scanned):
    table = sensitivity(scanned(0))
    assert [row[0].text for row in table.rows] == ["parallel-2norm", "ladder", "spd (T = 2)", "desync-2x (T = 2)"]
    assert len(table.columns) == 4 + toy_records.LAYERS
    ladder = table.rows[1]
    assert ladder[2].text == "3"
    assert ladder[3].text.startswith("221.4")
    assert ladder[4].text == "+0.0009 [−0.0031, +0.0049]"
    assert "3 for ladder" in table.caption
    assert "10 layers of tiny" in table.caption


def test_seeds_are_averaged(scanned):
    row = sensitivity(scanned(0, 1)).rows[1]
    assert row[4].text == "+0.0019 [+0.0009, +0.0029]"  # mean, lowest and highest
    assert "mean of 2 seeds" in row[4].rows[-1]["note"]


def test_the_figure_draws_one_line_a_wiring(scanned):
    from matplotlib.figure import Figure as Canvas

    axes = Canvas().add_subplot()
    figure(scanned(0)).panels[0].draw(axes)
    assert len(axes.containers) == len(toy_records.SCANNED)  # lines with error bars
    assert {text.get_text() for text in axes.texts} >= {"ladder", "spd (T = 2)"}


def test_without_a_scan_table_and_figure_say_so(bare):
    assert "scanned no model" in sensitivity(bare).caption
    assert "scanned no model" in figure(bare).caption
