"""Every wiring has a row in the table of the site, and a look of its own."""

import itertools

from ladder.looks import LOOKS, family, look, order
from ladder.wiring import FAMILIES, PATTERNS


def test_every_wiring_has_a_row(tables):
    rows = tables["wirings"].set_index("wiring")
    assert set(PATTERNS) <= set(rows.index)
    assert list(rows.index) == sorted(rows.index, key=order)
    depends = {"partial", "dtp-1", "spd", "desync-2x", "desync-4x", "desync-nx", "upper_bound"}
    assert set(rows.index[rows["tied"]]) == depends
    assert rows["all_reduces"][["standard", "spd", "desync-nx", "dtp-1", "fal"]].tolist() == [16, 8, 1, 15, 9]
    assert rows["row_joint"]["parallel"] == "yes, no"


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
