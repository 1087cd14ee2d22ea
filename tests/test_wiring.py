"""The table, its spelling, and the one loop that runs it."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladder.errors import UserError
from ladder.residual import Module, Row, Table, run
from ladder.wiring import PATTERNS, STANDARD, Pattern, Wiring, parse_layers, table

NAMES = [*PATTERNS, "ladder-2", "ladder-3", "dtp-1", "dtp-2", "desync-2x", "desync-4x"]
NAMES += ["ladder@1-2", "parallel@0,3", "ladder@3", "spd@2-3", "desync-4x@1-3", "fal@2", "dtp-1@3", "partial@0"]
LAYERS = 4


@pytest.mark.parametrize(("text", "layers"), [("3", (3,)), ("1-3", (1, 2, 3)), ("1,4-5", (1, 4, 5)), ("2,2", (2,))])
def test_layers_are_read(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize(
    ("wiring", "words"),
    [
        ("laddr", "unknown wiring 'laddr'; known: desync-<k>x (k = 2, 4, ...),"),
        ("ladder-1", "unknown wiring"),
        ("desync-3x", "unknown wiring 'desync-3x'"),
        ("desync-02x", "unknown wiring"),
        ("spd", "another function at every tensor-parallel degree; say which (--tp"),
        ("ladder@2-4", "layer 4 in '2-4' is outside the model, which has layers 0 to 3"),
        ("ladder@3-1", "run backwards"),
        ("ladder@a", "cannot read the layers 'a'"),
        ("ladder@", "cannot read the layers ''"),
    ],
)
def test_a_wrong_spelling_is_one_sentence(wiring, words):
    with pytest.raises(UserError) as error:
        table(wiring, LAYERS)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_hybrid_is_standard_outside():
    assert table("ladder@1-2", 4) == table("standard", 1) + table("ladder", 2) + table("standard", 1)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [("ladder", "ladder"), ("ladder@3,1-2,7", "ladder@1-3,7"), ("spd@0", "spd@0"), ("fal@2,2", "fal@2")],
)
def test_a_wiring_is_parsed_once_and_spelled_in_one_way(text, spelled):
    wiring = Wiring.parse(text, 2)
    assert str(wiring) == spelled
    assert wiring == Wiring.parse(spelled, 2)
    assert hash(wiring) == hash(Wiring.parse(spelled, 2))
    assert wiring != Wiring.parse(spelled, 4)


@pytest.mark.parametrize(
    "text", ["ladder@0-99999999999", "ladder@0-999999999", "ladder@٣", "ladder-99999999", "x" * 10**6, 5]
)
def test_what_no_model_has_is_refused_before_anything_is_built(text):
    with pytest.raises(UserError) as error:
        Wiring.parse(text)
    assert len(str(error.value)) < 500


def kinds(wiring, layers=2):
    return [f"{event.kind} {event.index}" for event in table(wiring, layers).events]


def test_standard_waits_at_once():
    assert kinds("standard", 1) == ["compute 0", "launch 0", "wait 0", "compute 1", "launch 1", "wait 1"]


def test_ladder_computes_a_whole_module_between_launch_and_wait():
    assert kinds("ladder") == [
        *("compute 0", "launch 0", "compute 1", "launch 1"),
        *("wait 0", "compute 2", "launch 2", "wait 1", "compute 3", "launch 3", "wait 2", "wait 3"),
    ]


def test_parallel_reduces_once_a_layer():
    assert kinds("parallel") == [
        *("compute 0", "compute 1", "launch 0", "wait 0"),
        *("compute 2", "compute 3", "launch 1", "wait 1"),
    ]
    launch = [event.modules for event in table("parallel", 2).events if event.kind == "launch"]
    assert launch == [{0, 1}, {2, 3}]


def test_upper_bound_never_communicates():
    assert all(event.kind == "compute" for event in table("upper_bound", 3).events)


def reads(wiring, layers):
    return [set(event.modules) for event in table(wiring, layers).events if event.kind == "compute"]


def test_both_boundaries_of_a_hybrid():
    """Layer 0 standard, 1 ladder, 2 standard: the first ladder attention misses the MLP before it; a standard layer
    after ladder sees everything."""
    assert reads("ladder@1", 3) == [set(), {0}, {0}, {0, 1}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}]


def test_the_first_ladder_layer_reads_the_embedding_twice():
    assert reads("ladder", 2) == [set(), set(), {0}, {0, 1}]


def launches(wiring, layers=LAYERS):
    return [set(event.modules) for event in table(wiring, layers, 2).events if event.kind == "launch"]


def own_shares(wiring, layers=LAYERS):
    return [set(event.own) for event in table(wiring, layers, 2).events if event.kind == "compute"]


def test_desync_reduces_once_a_group_and_at_the_end():
    assert launches("desync-2x") == launches("spd") == [{0, 1}, {2, 3}, {4, 5}, {6, 7}]
    assert launches("desync-4x") == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert launches("desync-6x") == [{0, 1, 2, 3, 4, 5}, {6, 7}]
    assert launches("desync-nx") == [set(range(8))]
    assert launches("desync-4x@1-3") == [{0}, {1}, {2, 3, 4, 5}, {6, 7}]  # groups are counted from a run's start
    assert own_shares("desync-4x")[3:5] == [{0, 1, 2}, set()]


def test_partial_reads_its_own_share_of_the_newest_output():
    assert launches("partial") == launches("ladder")
    assert own_shares("partial") == [set(), {0}, {1}, {2}, {3}, {4}, {5}, {6}]


def test_the_last_outputs_of_dtp_never_land():
    assert launches("dtp-2") == [{0}, {1}, {2}, {3}, {4}, {5}]
    assert own_shares("dtp-2", 2) == [set(), {0}, {0, 1}, {1, 2}]
    assert [row.own for row in table("dtp-1", 2, 4)] == [2, 1, 1, 2]
    assert table("dtp-1", 2, 4).ends_apart
    assert not table("partial", 2, 4).ends_apart


def test_the_signal_is_the_first_attention():
    assert [row.signal for row in table("fal", 3)] == [False] * 3 + [True, False, True]
    assert launches("fal") == [{0}, {1}, {2, 3}, {4, 5}, {6, 7}]
    assert table("fal", 3)[:2] == STANDARD


@pytest.mark.parametrize("wiring", ["partial", "spd@1-2", "dtp-1", "desync-4x", "desync-nx"])
def test_a_tied_wiring_needs_its_degree(wiring):
    assert Wiring.parse(wiring).tied
    assert Wiring.parse(wiring, 2).of_model().tp == 2
    with pytest.raises(UserError, match="say which"):
        Wiring.parse(wiring, None).of_model()
    with pytest.raises(UserError, match="at least 1"):
        Wiring.parse(wiring, 0).of_model()


@pytest.mark.parametrize("wiring", ["standard", "ladder@1-2", "ladder-2", "parallel", "fal"])
def test_an_untied_wiring_has_no_degree(wiring):
    assert Wiring.parse(wiring, None).of_model().tp is None
    with pytest.raises(UserError, match="is the same function at every tensor-parallel degree; drop --tp"):
        Wiring.parse(wiring, 2).of_model()


@given(st.lists(st.builds(Row, lag=st.integers(0, 5), own=st.sampled_from([0.0, 1.0])), min_size=1, max_size=12))
def test_every_output_is_launched_and_waited_for_once_and_in_order(table_):
    events = Table(table_).events
    for kind in ("compute", "launch", "wait"):
        assert [event.index for event in events if event.kind == kind] == list(range(len(table_)))
    for n, event in enumerate(event for event in events if event.kind == "compute"):
        landed = max([0, *(k - row.lag for k, row in enumerate(table_[: n + 1]))])  # what once landed stays
        assert event.modules == set(range(landed))
        assert event.own == {m for m in set(range(n)) - event.modules if table_[m].own}


class Ranks:
    """T ranks in lockstep on plain numbers: a value is a tuple, one number a rank."""

    def __init__(self, values):
        self.values = tuple(values)

    def __add__(self, other):
        return Ranks(a + b for a, b in zip(self.values, other.values, strict=True))

    def __rmul__(self, weight):
        return Ranks(Fraction(weight) * a for a in self.values)

    def wait(self):
        return self


HEADS = 4  # that a module's output is the sum of, split over the ranks


def stream(table_, size, gain=1):
    """The ranks' final streams: module n is a sum of nonlinear heads, of which a rank has HEADS / size."""

    def module(n):
        def compute(x):
            def head(h, v):
                return ((n + 2) * v + (h + 1) * v * v) % 97

            count = HEADS // size
            return Ranks(sum(head(r * count + h, v) for h in range(count)) for r, v in enumerate(x.values))

        return Module(lambda x: x, compute)

    def all_reduce(partial):
        return Ranks([sum(partial.values)] * size)

    modules = [module(n) for n in range(len(table_))]
    return run(Ranks([3] * size), modules, Table(table_), all_reduce, lambda x: gain * x).values


def signals_after_the_first(table_):
    """A signal can be read once the first output has landed by itself."""
    fixed = []
    for n, row in enumerate(table_):
        row = replace(row, joint=row.joint and n > 0, shared_norm=False)
        fixed.append(row if n > row.lag else replace(row, signal=False))
    return fixed


tables = st.lists(
    st.builds(Row, lag=st.integers(0, 4), joint=st.booleans(), signal=st.booleans()), min_size=1, max_size=10
).map(signals_after_the_first)


@given(tables, st.sampled_from([2, 4]))
def test_without_own_shares_a_table_is_the_same_function_at_every_degree(table_, size):
    assert set(stream(table_, size)) == set(stream(table_, 1))


@given(tables)
def test_at_one_rank_the_own_share_is_the_whole(table_):
    rows = [replace(row, own=1, signal=False) for row in table_]
    assert stream(rows, 1) == stream([Row()] * len(rows), 1)


@given(tables, st.sampled_from([1, 2, 4]))
def test_ranks_agree_at_the_end_whatever_they_read_on_the_way(table_, size):
    assert len(set(stream([replace(row, own=2) for row in table_], size))) == 1


@given(tables, st.sampled_from([1, 4]))
def test_without_lag_a_joint_reduction_is_only_a_cheaper_one(table_, size):
    rows = [replace(row, lag=0, signal=False) for row in table_]
    assert stream(rows, size) == stream([Row()] * len(rows), size)


@given(st.integers(1, 10), st.integers(0, 5))
def test_a_lag_beyond_the_model_reads_the_start(count, more):
    rows = [Row(count + more)] * count
    assert all(not event.modules for event in Table(rows).events if event.kind == "compute")
    assert stream([Row(count - 1)] * count, 1) == stream(rows, 1)


@settings(max_examples=30)
@given(tables, st.sampled_from([1, 2]))
def test_a_signal_without_gain_is_none(table_, size):
    assert stream(table_, size, gain=0) == stream([replace(row, signal=False) for row in table_], size)


def without_own(wiring, size):
    return tuple(replace(row, own=0) for row in table(wiring, LAYERS, size))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_limits_of_named_wirings(size):
    assert without_own("partial", size) == table("ladder", LAYERS)
    assert without_own("spd", size) == table("parallel-2norm", LAYERS)
    assert stream(table("dtp-0", LAYERS, size), size) == stream(table("standard", LAYERS), size)
    assert stream(table("fal", LAYERS), size, 0) == stream(table("parallel-2norm@1-3", LAYERS), size)
    assert stream(table("fal+", LAYERS), size, 0) == stream(table("standard", LAYERS), size)
    assert table("desync-8x", LAYERS, size) == table("desync-nx", LAYERS, size)


@pytest.mark.parametrize("wiring", NAMES)
def test_tied_or_the_same_at_every_degree(wiring):
    if Wiring.parse(wiring).tied:
        standard = stream(table("standard", LAYERS), 1)[0]
        assert float(stream(table(wiring, LAYERS, 1), 1)[0]) == standard
    else:
        ends = {end for size in (1, 2, 4) for end in stream(table(wiring, LAYERS), size)}
        assert len(ends) == 1


def test_a_made_up_wiring_takes_one_row(monkeypatch):
    """The attention lags by two, the MLP reads everything but its own layer's attention of other ranks."""
    monkeypatch.setitem(PATTERNS, "mine", Pattern((Row(2), Row(1, own=1)), "made up"))
    assert Wiring.parse("mine@1-2").summary == "made up"
    assert Wiring.parse("mine").tied
    assert table("mine@1", 2, 2) == (*STANDARD, Row(2), Row(1, own=1))
    assert len(set(stream(table("mine", LAYERS, 4), 4))) == 1
