"""Diagrams are what the wiring table says."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from ladder import wiring as wirings
from ladder.pages.diagrams import ARROWS, DRAWN, Drawing, gallery, picture
from ladder.residual import Row
from ladder.wiring import FAMILIES, PATTERNS, Pattern, table


def arrows(svg: str) -> dict[str, int]:
    """How many arrows of each kind a drawing has."""
    found = [e for e in ElementTree.fromstring(svg) if e.get("marker-end")]
    return {
        kind: sum((e.get("stroke-dasharray") or "") == dashes for e in found) for kind, (dashes, _) in ARROWS.items()
    }


@pytest.mark.parametrize("wiring", [*DRAWN, "ladder-3", "ladder@0,2", "spd@1-2", "dtp-2"])
def test_every_wiring_can_be_drawn(wiring):
    svg, rows = Drawing(wiring).svg(), table(wiring, 3, 2)
    root = ElementTree.fromstring(svg)
    boxes = [e for e in root if e.tag.endswith("rect")]
    events = rows.events
    assert len(boxes) == 6 + sum(event.kind == "launch" for event in events)
    assert root.get("role") == "img"
    assert all(e.text for e in root if e.tag.endswith(("title", "desc")))
    width = float(root.get("viewBox").split()[2])
    assert all(float(box.get("x")) + float(box.get("width")) <= width for box in boxes)
    reads = [event for event in events if event.kind == "compute"]
    assert arrows(svg) == {
        "reduced": sum(bool(event.modules) for event in reads),
        "own": sum(bool(event.own) for event in reads),
        "signal": sum(row.signal for row in rows),
    }


def test_all_rows_and_all_families_are_drawn():
    assert set(PATTERNS) <= set(DRAWN)
    for form, *_ in FAMILIES:
        before, after = form.split("<k>")
        assert any(name.startswith(before) and name.endswith(after) and name not in PATTERNS for name in DRAWN), form


def test_reads_are_those_of_the_papers():
    def reads(wiring: str) -> dict:
        return {module: (set(seen), set(own)) for module, (seen, own) in Drawing(wiring, 2).reads.items()}

    nothing = set()
    assert reads("standard") == {
        0: (nothing, nothing),
        1: ({0}, nothing),
        2: ({0, 1}, nothing),
        3: ({0, 1, 2}, nothing),
    }
    assert reads("ladder") == {0: (nothing, nothing), 1: (nothing, nothing), 2: ({0}, nothing), 3: ({0, 1}, nothing)}
    assert reads("partial") == {0: (nothing, nothing), 1: (nothing, {0}), 2: ({0}, {1}), 3: ({0, 1}, {2})}
    assert reads("spd") == {0: (nothing, nothing), 1: (nothing, {0}), 2: ({0, 1}, nothing), 3: ({0, 1}, {2})}


def test_the_words_say_what_is_read_and_how_long_it_takes():
    def words(wiring: str) -> str:
        return Drawing(wiring).words()

    assert "MLP 0 reads the embedding, not the output of attention 0" in words("ladder")
    assert "attention 1 reads the embedding and every output before it except that of MLP 0" in words("ladder")
    assert "6 all-reduces" in words("ladder")
    assert "No all-reduce; 7.5 time units." in words("upper_bound")
    assert "3 all-reduces" in words("parallel")
    assert "MLP 1 reads the embedding, its own share of attention 1 and every other output before it" in words("spd")
    assert "MLP 2 reads the embedding, every output before it and attention 0 a second time" in words("fal+")


@pytest.mark.parametrize(
    ("wiring", "finding"),
    [
        ("standard", "Every module but the first waits for an all-reduce: 13.5 time units, 6 of them waiting."),
        ("parallel", "Attention 1 and attention 2 wait for an all-reduce: 10.5 time units, 3 of them waiting."),
        ("ladder", "No module waits for the link; only the end does: 8.5 time units, 1 of them waiting."),
        ("upper_bound", "Nothing is sent, so nothing waits: 7.5 time units, none of them waiting. Of what has"),
    ],
)
def test_the_finding_says_who_waits_for_what(wiring, finding):
    assert Drawing(wiring).finding().startswith(finding)


def test_the_finding_says_what_ranks_read_of_their_own():
    assert "own un-reduced share." in Drawing("partial").finding()
    assert "own un-reduced share; the ranks' streams end apart." in Drawing("dtp-1").finding()
    assert "own" not in Drawing("fal").finding()


def test_the_next_papers_wiring_is_one_row(monkeypatch):
    """Every second all-reduce is late: a row, and nothing else, makes its drawing."""
    late = Pattern((Row(), Row(1)), "only attention's all-reduce runs behind the next module (A Paper)")
    monkeypatch.setitem(wirings.PATTERNS, "half-late", late)
    assert "only attention&#x27;s all-reduce" in gallery(["half-late"])
    assert Drawing("half-late").finding().startswith("Attention 1 and attention 2 wait for an all-reduce")


def test_the_readmes_picture_is_drawn_from_the_table():
    """`python -m ladder.pages.diagrams > site/assets/overlap.svg` makes it again."""
    root = Path(__file__).parents[2]
    assert (root / "site" / "assets" / "overlap.svg").read_text() == picture()
