"""Diagrams are what the wiring table says."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from ladder.report.diagrams import alt, draw, picture, reads
from ladder.wiring import PATTERNS, table, trace

WIRINGS = [*PATTERNS, "ladder-2", "ladder-3", "ladder@1-2", "ladder@0,2"]


@pytest.mark.parametrize("wiring", WIRINGS)
def test_every_wiring_can_be_drawn(wiring):
    root = ElementTree.fromstring(draw(wiring))
    boxes = [e for e in root if e.tag.endswith("rect")]
    launches = sum(event.kind == "launch" for event in trace(table(wiring, 3)))
    assert len(boxes) == 6 + launches
    assert root.get("role") == "img"
    assert all(e.text for e in root if e.tag.endswith(("title", "desc")))
    width = float(root.get("viewBox").split()[2])
    assert all(float(box.get("x")) + float(box.get("width")) <= width for box in boxes)


def test_reads_are_those_of_the_paper():
    assert reads("standard", 2) == {0: set(), 1: {0}, 2: {0, 1}, 3: {0, 1, 2}}
    assert reads("ladder", 2) == {0: set(), 1: set(), 2: {0}, 3: {0, 1}}
    assert reads("parallel", 2) == {0: set(), 1: set(), 2: {0, 1}, 3: {0, 1}}


def test_the_words_say_what_is_not_read_and_how_long_it_takes():
    assert "MLP 0 reads the embedding, not the output of attention 0" in alt("ladder")
    assert "6 all-reduces" in alt("ladder")
    assert "No all-reduce; 7.5 time units." in alt("upper_bound")
    assert "3 all-reduces" in alt("parallel")


def test_the_readmes_picture_is_drawn_from_the_table():
    """`python -m ladder.report.diagrams > site/assets/overlap.svg` makes it again."""
    root = Path(__file__).parents[2]
    assert (root / "site" / "assets" / "overlap.svg").read_text() == picture()
