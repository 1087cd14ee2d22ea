"""Wirings are data: a decoder's architecture is a table of rows, one per module, run by one loop.

A decoder with L layers is a sequence of 2L modules (even = attention, odd = MLP). The architectures differ only in
when a module's output becomes visible to later modules:

    standard    x ─┬─ attn ─ AR ─⊕─┬─ mlp ─ AR ─⊕─ ...      each all-reduce (AR) is waited for at once
                   └─────────────┘ └───────────┘
    ladder      x ─┬─ attn ───AR────⊕─┬─ ...                attn's AR runs while mlp computes: mlp does not
                   ├─ mlp ────AR──────┴─⊕─ ...              read attn's output, the next attn does
    parallel    x ─┬─ attn ─┐
                   └─ mlp ──┴─ AR ─⊕─ ...                   one AR for both, waited for at once

Nothing else in the code base knows what "ladder" means: the model, the tensor-parallel engine, the benchmark and the
diagrams all run :func:`run` over a table. This module needs neither torch nor a process group.
"""

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ladder.errors import UserError, known


@dataclass(frozen=True)
class Row:
    """How one module reads from and writes to the residual stream.

    lag:    how many of the latest outputs its input does not contain yet
    joint:  its output is held back and reduced together with the next module's
    own:    weight with which a rank adds its own un-reduced partial at once
    weight: weight of its partial in the reduced sum; with 0 it is never reduced
    shared_norm: it reads the normed input of the module before it (which has the same stream), not its own norm
    """

    lag: int = 0
    joint: bool = False
    own: float = 0.0
    weight: float = 1.0
    shared_norm: bool = False


@dataclass(frozen=True)
class Pattern:
    """The two rows (attention, MLP) that a wiring repeats in every layer."""

    attention: Row
    mlp: Row
    summary: str
    timing_only: bool = False  # not a function that a trained model computes at more than one rank


PATTERNS = {
    "standard": Pattern(Row(), Row(), "each module waits for the all-reduce of the one before"),
    "ladder": Pattern(Row(1), Row(1), "each all-reduce runs behind the next module (Ladder Residual, 2501.06589)"),
    "parallel": Pattern(
        Row(joint=True), Row(1, shared_norm=True), "attention and MLP share one input, one norm and one all-reduce"
    ),
    "parallel-2norm": Pattern(Row(joint=True), Row(1), "parallel, but each module keeps its own norm"),
    "upper_bound": Pattern(
        Row(own=1, weight=0), Row(own=1, weight=0), "no communication at all: a bound on speed, not a model", True
    ),
}
# Numbered families: name-k for k = 2, 3, ...
FAMILIES = {
    "ladder": lambda k: Pattern(Row(k), Row(k), f"each all-reduce runs behind the next {k} modules"),
}


def pattern(name: str) -> Pattern:
    """The pattern called ``name``. Raises UserError with the known names."""
    if name in PATTERNS:
        return PATTERNS[name]
    family, _, k = name.rpartition("-")
    if family in FAMILIES and re.fullmatch("[2-9]|[1-9][0-9]+", k):
        return FAMILIES[family](int(k))
    raise known("wiring", name, [*PATTERNS, *(f"{family}-<k> (k >= 2)" for family in FAMILIES)])


def parse_layers(text: str, layers: int) -> tuple[int, ...]:
    """``"4-7"`` -> (4, 5, 6, 7); ``"1,4"`` -> (1, 4). Raises UserError for a layer outside the model."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise UserError(f"cannot read the layers {text!r}; write them like '4-7' or '1,4'")
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        first, last = int(first), int(last or first)
        if first > last:
            raise UserError(f"the layers {part!r} run backwards; write '{last}-{first}'")
        chosen.update(range(first, last + 1))
    if max(chosen) >= layers:
        raise UserError(f"layer {max(chosen)} in {text!r} is outside the model, which has layers 0 to {layers - 1}")
    return tuple(sorted(chosen))


def table(wiring: str, layers: int) -> tuple[Row, ...]:
    """The 2 x ``layers`` rows of a wiring: ``standard``, ``ladder``, ``ladder@16-31`` (the other layers standard)."""
    name, at, chosen = wiring.partition("@")
    inside, outside = pattern(name), PATTERNS["standard"]
    members = set(parse_layers(chosen, layers) if at else range(layers))
    patterns = [inside if layer in members else outside for layer in range(layers)]
    return tuple(row for p in patterns for row in (p.attention, p.mlp))


class Module(NamedTuple):
    """One attention or MLP: ``norm(x)`` is what it reads, ``compute(normed)`` its (partial) output."""

    norm: Callable
    compute: Callable


def run(x, modules: Sequence[Module], rows: Sequence[Row], all_reduce: Callable):
    """Run the modules over the residual stream ``x``, each reading and writing as its row says; return the stream.

    ``all_reduce(partial)`` launches a sum over ranks and returns an object whose ``wait()`` gives it. Each sum is
    waited for as late as its readers allow, which is all there is to Ladder Residual (paper section 3, equations 3-4).
    Only ``+``, ``-`` and ``*`` by a number are used of ``x``, so the loop runs on tensors and on symbols alike.
    """
    in_flight: deque[_Output] = deque()
    for module, row in zip(modules, rows, strict=True):
        while len(in_flight) > row.lag:
            x = in_flight.popleft().land(x)
        if not row.shared_norm:
            normed = module.norm(x)
        partial = module.compute(normed)
        if row.own:
            x = x + _times(row.own, partial)
        if not row.weight:
            continue
        own = _times(row.own, partial) if row.own else None
        partial = _times(row.weight, partial)
        if in_flight and in_flight[-1].held is not None:  # the module before waits for this one's reduction
            before = in_flight.pop()
            partial = before.held + partial
            own = own if before.own is None else before.own if own is None else before.own + own
        in_flight.append(_Output(partial, None, own) if row.joint else _Output(None, all_reduce(partial), own))
    for output in in_flight:
        x = output.land(x)
    return x


@dataclass
class _Output:
    held: object  # a partial that is not launched yet, or
    pending: object  # the launched sum
    own: object  # what the rank has added of it already

    def land(self, x):
        x = x + self.pending.wait()
        return x if self.own is None else x - self.own


def _times(weight: float, value):
    return value if weight == 1 else weight * value


class Event(NamedTuple):
    """``compute``: module ``index`` runs, reading the outputs of ``modules``; ``launch`` / ``wait``: the all-reduce
    number ``index``, which carries the outputs of ``modules``."""

    kind: str
    index: int
    modules: frozenset[int]


def trace(rows: Sequence[Row]) -> list[Event]:
    """The order of computing, launching and waiting under ``rows``, found by running :func:`run` on symbols."""
    events: list[Event] = []

    def module(n: int) -> Module:
        def compute(seen: _Symbol) -> _Symbol:
            events.append(Event("compute", n, seen.modules))
            return _Symbol(frozenset({n}))

        return Module(lambda x: x, compute)

    launched = 0

    def all_reduce(partial: _Symbol) -> _Pending:
        nonlocal launched
        events.append(Event("launch", launched, partial.modules))
        launched += 1
        return _Pending(launched - 1, partial, events)

    run(_Symbol(frozenset()), [module(n) for n in range(len(rows))], rows, all_reduce)
    return events


@dataclass(frozen=True)
class _Symbol:
    """Stands for a tensor: the set of module outputs that it contains."""

    modules: frozenset[int]

    def __add__(self, other: "_Symbol") -> "_Symbol":
        return _Symbol(self.modules | other.modules)

    def __sub__(self, other: "_Symbol") -> "_Symbol":
        return self

    def __rmul__(self, weight: float) -> "_Symbol":
        return self


@dataclass
class _Pending:
    index: int
    value: _Symbol
    events: list[Event]

    def wait(self) -> _Symbol:
        self.events.append(Event("wait", self.index, self.value.modules))
        return self.value
