"""The table, its spelling, and the one loop that runs it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladder.errors import UserError
from ladder.wiring import PATTERNS, Module, Row, parse_layers, run, table, trace

NAMES = [*PATTERNS, "ladder-2", "ladder-3", "ladder@1-2", "parallel@0,3", "ladder@3"]
LAYERS = 4


@pytest.mark.parametrize(("text", "layers"), [("3", (3,)), ("1-3", (1, 2, 3)), ("1,4-5", (1, 4, 5)), ("2,2", (2,))])
def test_layers_are_read(text, layers):
    assert parse_layers(text, 6) == layers


@pytest.mark.parametrize(
    ("wiring", "words"),
    [
        ("laddr", "unknown wiring 'laddr'; known: ladder,"),
        ("ladder-1", "unknown wiring"),
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


def kinds(wiring, layers=2):
    return [f"{event.kind} {event.index}" for event in trace(table(wiring, layers))]


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
    launch = [event.modules for event in trace(table("parallel", 2)) if event.kind == "launch"]
    assert launch == [{0, 1}, {2, 3}]


def test_upper_bound_never_communicates():
    assert all(event.kind == "compute" for event in trace(table("upper_bound", 3)))


def reads(wiring, layers):
    return [set(event.modules) for event in trace(table(wiring, layers)) if event.kind == "compute"]


def test_both_boundaries_of_a_hybrid():
    """Layer 0 standard, 1 ladder, 2 standard: the first ladder attention misses the MLP before it; a standard layer
    after ladder sees everything."""
    assert reads("ladder@1", 3) == [set(), {0}, {0}, {0, 1}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}]


def test_the_first_ladder_layer_reads_the_embedding_twice():
    assert reads("ladder", 2) == [set(), set(), {0}, {0, 1}]


rows = st.builds(Row, lag=st.integers(0, 5))


@given(st.lists(rows, min_size=1, max_size=12))
def test_every_output_is_launched_and_waited_for_once_and_in_order(table_):
    events = trace(table_)
    for kind in ("compute", "launch", "wait"):
        assert [event.index for event in events if event.kind == kind] == list(range(len(table_)))
    for n, event in enumerate(event for event in events if event.kind == "compute"):
        assert event.modules >= set(range(n - table_[n].lag))  # at most lag outputs are missing
        assert event.modules <= set(range(n))


class Ranks:
    """T ranks in lockstep on plain numbers: a value is a tuple, one number a rank."""

    def __init__(self, values):
        self.values = tuple(values)

    def __add__(self, other):
        return Ranks(a + b for a, b in zip(self.values, other.values, strict=True))

    def __sub__(self, other):
        return Ranks(a - b for a, b in zip(self.values, other.values, strict=True))

    def __rmul__(self, weight):
        return Ranks(weight * a for a in self.values)

    def wait(self):
        return self


def stream(wiring, size, layers=LAYERS):
    """The final stream under ``wiring`` at ``size`` ranks, modules being a nonlinear function split over the ranks."""

    def module(n):
        def compute(x):
            full = [((n + 2) * value + value * value) % 97 for value in x.values]
            parts = [value // size for value in full]
            return Ranks(p + (f - p * size if r == 0 else 0) for r, (p, f) in enumerate(zip(parts, full, strict=True)))

        return Module(lambda x: x, compute)

    def all_reduce(partial):
        return Ranks([sum(partial.values)] * size)

    return run(Ranks([3] * size), [module(n) for n in range(2 * layers)], table(wiring, layers), all_reduce).values


@pytest.mark.parametrize("wiring", [name for name in NAMES if name != "upper_bound"])
@pytest.mark.parametrize("size", [2, 4])
def test_a_wiring_is_the_same_function_at_every_degree(wiring, size):
    assert set(stream(wiring, size)) == set(stream(wiring, 1))


def test_upper_bound_is_standard_at_one_rank():
    assert stream("upper_bound", 1) == stream("standard", 1)


@given(st.lists(st.builds(Row, own=st.sampled_from([0.0, 1.0])), min_size=2, max_size=8))
def test_own_share_changes_nothing_when_it_is_the_whole(table_):
    """At one rank what is added at once is taken back when the sum lands."""

    def module(n):
        return Module(lambda x: x, lambda x: Ranks((n + 2) * v % 97 for v in x.values))

    modules = [module(n) for n in range(len(table_))]
    plain = [Row() for _ in table_]
    assert run(Ranks([3]), modules, table_, lambda p: p).values == run(Ranks([3]), modules, plain, lambda p: p).values
