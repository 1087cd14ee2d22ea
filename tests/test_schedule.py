"""The schedule on two resources: closed forms, order, interference; tests/bench has the emulated link beside it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladder.schedule import length, letters, order, seconds, timeline
from ladder.wiring import table

LAYERS = 8
TIMES = st.floats(0.01, 10)
WIRINGS = [
    "standard",
    "parallel",
    "ladder",
    "ladder-2",
    "ladder@2-5",
    "spd",
    "desync-2x",
    "dtp-2",
    "fal",
    "upper_bound",
]


def took(wiring, attention, mlp, reduce, **how):
    return float(seconds(order(wiring, LAYERS), (attention, mlp), reduce, **how))


def test_order_of_a_layer():
    assert order("standard", 2) == "clw" * 4
    assert order("ladder", 2) == "clcl" + "wcl" * 2 + "ww"
    assert order("parallel", 2) == "cclw" * 2
    assert order("upper_bound", 2) == "c" * 4


@given(attention=TIMES, mlp=TIMES, reduce=TIMES)
def test_closed_forms_without_interference(attention, mlp, reduce):
    both = attention + mlp
    assert took("upper_bound", attention, mlp, reduce) == pytest.approx(LAYERS * both)
    assert took("standard", attention, mlp, reduce) == pytest.approx(LAYERS * (both + 2 * reduce))
    assert took("parallel", attention, mlp, reduce) == pytest.approx(LAYERS * (both + reduce))
    # ladder: the first attention has nothing beside it, the last sum nothing before it
    middle = (LAYERS - 1) * (max(reduce, attention) + max(reduce, mlp)) + max(reduce, mlp)
    assert took("ladder", attention, mlp, reduce) == pytest.approx(attention + middle + reduce)


@given(attention=TIMES, mlp=TIMES, reduce=TIMES, slowdown=st.floats(0, 2))
def test_a_steady_layer_of_ladder_takes_the_closed_form(attention, mlp, reduce, slowdown):
    """U(w) = max(c, w + s * overlap), where the overlap ends with the shorter of the two."""

    def beside(work):
        return max(reduce, work + slowdown * min(work, reduce / (1 + slowdown)))

    more, fewer = (seconds(order("ladder", n), (attention, mlp), reduce, slowdown) for n in (12, 8))
    assert float(more - fewer) / 4 == pytest.approx(beside(attention) + beside(mlp))


@pytest.mark.parametrize("wiring", WIRINGS)
@given(attention=TIMES, mlp=TIMES, reduce=TIMES, slowdown=st.floats(0, 1))
def test_resources_are_used_one_at_a_time_and_sum_to_the_total(wiring, attention, mlp, reduce, slowdown):
    rows = table(wiring, LAYERS, 2)
    spans = timeline(rows, lambda n: (attention, mlp)[n % 2], reduce, slowdown=slowdown)
    total = length(spans)
    assert total == pytest.approx(took(wiring, attention, mlp, reduce, slowdown=slowdown))
    for lane in ("compute", "communication"):
        mine = [span for span in spans if span["lane"] == lane]
        assert all(a["end"] <= b["start"] + 1e-9 for a, b in pairwise(mine))
        idle = sum(b["start"] - a["end"] for a, b in pairwise(mine))
        if mine:
            ends = mine[0]["start"] + total - mine[-1]["end"]
            assert sum(span["end"] - span["start"] for span in mine) + idle + ends == pytest.approx(total)


@given(attention=TIMES, mlp=TIMES, reduce=TIMES)
def test_more_in_flight_never_hurts_and_interference_never_helps(attention, mlp, reduce):
    for wiring in WIRINGS:
        base = took(wiring, attention, mlp, reduce)
        assert took(wiring, attention, mlp, reduce, in_flight=2) <= base + 1e-9
        assert took(wiring, attention, mlp, reduce, slowdown=0.5) >= base - 1e-9


def test_arrays_are_scheduled_like_their_elements():
    attention, reduce, slow = np.array([1.0, 2.0, 3.0]), np.array([0.5, 4.0, 0.0]), np.array([0.0, 0.3, 1.0])
    found = seconds(order("ladder@1-4", 6), (attention, 2.0), reduce, slow, in_flight=2)
    for n in range(3):
        alone = seconds(order("ladder@1-4", 6), (attention[n], 2.0), reduce[n], slow[n], in_flight=2)
        assert found[n] == pytest.approx(float(alone))


def test_any_table_can_be_scheduled():
    assert letters(table("ladder-3", 2)).count("l") == 4
