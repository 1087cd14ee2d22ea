"""The table of wirings is read off the rows, and every wiring has a look of its own."""

import itertools

import pytest

from ladder.report.style import LOOKS, family, look, order
from ladder.report.wiring_tables import all_reduces, sequence, wirings
from ladder.wiring import FAMILIES, PATTERNS


@pytest.mark.parametrize(
    ("wiring", "field", "text"),
    [
        ("standard", "lag", "0"),
        ("ladder-2", "lag", "2"),
        ("parallel", "joint", "yes, no"),
        ("desync-4x", "lag", "0, 1, 2, 3"),
        ("desync-4x", "weight", "1/T, 1/T, 1/T, 1"),
        ("desync-nx", "lag", "0, 1, 2, …"),
        ("desync-nx", "weight", "1/T; last 1"),
        ("dtp-1", "own", "1; first √T; last √T"),
        ("dtp-2", "weight", "1; last 0"),
        ("fal", "joint", "yes, no; first no"),
        ("upper_bound", "weight", "0"),
    ],
)
def test_fields_are_said_in_short(wiring, field, text):
    assert sequence(wiring, field) == text


@pytest.mark.parametrize(
    ("wiring", "text"),
    {"standard": "2L", "spd": "L", "desync-4x": "L/2", "desync-nx": "1", "dtp-1": "2L − 1", "fal": "L + 1"}.items(),
)
def test_all_reduces_are_counted(wiring, text):
    assert all_reduces(wiring).text == text
    assert all_reduces("upper_bound").text == "0"


def test_every_wiring_has_a_row(full):
    table = wirings(full)
    names = [row[0].text for row in table.rows]
    assert set(PATTERNS) <= set(names)
    assert names == sorted(names, key=order)
    depends = {row[0].text for row in table.rows if row[3].text == "yes"}
    assert depends == {"partial", "dtp-1", "spd", "desync-2x", "desync-4x", "desync-nx", "upper_bound"}


def test_looks_differ_and_cover_all_wirings():
    assert set(LOOKS) == {*PATTERNS, *(form for form, *_ in FAMILIES)}
    for (a, one), (b, other) in itertools.combinations(LOOKS.items(), 2):
        assert one[2] != other[2], (a, b)  # markers
        assert one[1] != other[1] or one[3] != other[3], (a, b)  # colours, or dashes inside a family


def test_numbered_wirings_share_the_look_of_their_family():
    assert family("desync-4x") == family("desync-2x") == "desync-<k>x"
    assert look("dtp-3").label == "dtp-3"
    assert look("spd", 2).label == "spd (T = 2)"
    assert look("spd@5-9", 2).label == "spd, layers 5-9 (T = 2)"
    mixed = ["desync-nx", "ladder-10", "ladder-2", "made-up", "desync-2x", "standard", "ladder", "ladder@1"]
    ordered = ["standard", "ladder@1", "ladder", "ladder-2", "ladder-10", "desync-2x", "desync-nx", "made-up"]
    assert sorted(mixed, key=order) == ordered
