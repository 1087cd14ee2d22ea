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

import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ladder.errors import UserError, known


@dataclass(frozen=True)
class Row:
    """How one module reads from and writes to the residual stream.

    lag:    how many of the latest outputs its input does not contain yet
    joint:  its output is held back and reduced together with the next module's
    own:    weight with which a rank reads its own un-reduced partial until the reduced sum lands (for good, if it is
            never reduced); with it the function depends on the number of ranks T
    weight: weight of its partial in the reduced sum; with 0 it is never reduced
    shared_norm: it reads the normed input of the module before it (which has the same stream), not its own norm
    signal: the first module's output, through a norm of its own, is added to its normed input
    """

    lag: int = 0
    joint: bool = False
    own: float = 0.0
    weight: float = 1.0
    shared_norm: bool = False
    signal: bool = False


class Place(NamedTuple):
    """Where a layer stands: ``layer`` of ``layers``; ``nth`` of its run of neighbours with the same wiring, ``left`` of
    them after it; ``tp`` ranks."""

    layer: int
    layers: int
    nth: int
    left: int
    tp: int


Pair = tuple[Row, Row]  # of attention and MLP


@dataclass(frozen=True)
class Pattern:
    """A wiring: the rows of attention and MLP in every layer, or a function that gives them for a layer's place."""

    rows: Pair | Callable[[Place], Pair]
    summary: str
    timing_only: bool = False  # not a function that a trained model computes at more than one rank

    def at(self, place: Place) -> Pair:
        return self.rows(place) if callable(self.rows) else self.rows


STANDARD = (Row(), Row())


def first_attention(attention: Row, mlp: Row) -> Callable[[Place], Pair]:
    """A standard first layer, whose attention is the signal of the later layers' MLPs."""
    return lambda at: (attention, mlp) if at.layer else STANDARD


def delayed(delta: int) -> Callable[[Place], Pair]:
    """Delayed Tensor Parallelism: the last ``delta`` outputs never land; own shares there, and in the first ``delta``
    modules, stand for T partials of which the others are missing, hence the square root."""

    def rows(at: Place) -> Pair:
        def row(n: int) -> Row:
            last = n >= 2 * at.layers - delta
            return Row(delta, own=math.sqrt(at.tp) if last or n < delta else 1, weight=0 if last else 1)

        return row(2 * at.layer), row(2 * at.layer + 1)

    return rows


def desynchronised(group: float) -> Callable[[Place], Pair]:
    """One all-reduce per ``group`` layers: X <- R(p + X / T), the mean of the ranks' streams plus the fresh sum."""

    def rows(at: Place) -> Pair:
        i = at.nth if math.isinf(group) else int(at.nth % group)
        apart = {"joint": True, "own": 1, "weight": 1 / at.tp}
        ends = at.left == 0 or i + 1 == group
        return Row(2 * i, **apart), Row(2 * i + 1) if ends else Row(2 * i + 1, **apart)

    return rows


PATTERNS = {
    "standard": Pattern(STANDARD, "each module waits for the all-reduce of the one before"),
    "ladder": Pattern((Row(1), Row(1)), "each all-reduce runs behind the next module (Ladder Residual, 2501.06589)"),
    "parallel": Pattern(
        (Row(joint=True), Row(1, shared_norm=True)), "attention and MLP share one input, one norm and one all-reduce"
    ),
    "parallel-2norm": Pattern((Row(joint=True), Row(1)), "parallel, but each module keeps its own norm"),
    "partial": Pattern(
        (Row(1, own=1), Row(1, own=1)), "ladder, but a rank reads its own share at once (FarSkip's partial)"
    ),
    "spd": Pattern(
        (Row(joint=True, own=1), Row(1)),
        "a rank's MLP reads its own share of the attention (Sync-Point Drop, 2502.20727)",
    ),
    "desync-nx": Pattern(desynchronised(math.inf), "the ranks' streams run apart until one all-reduce at the end"),
    "fal": Pattern(
        first_attention(Row(joint=True), Row(1, signal=True)),
        "parallel-2norm whose MLPs also read the first layer's attention (First Attentions Last)",
    ),
    "fal+": Pattern(
        first_attention(Row(), Row(signal=True)), "standard whose MLPs also read the first layer's attention"
    ),
    "upper_bound": Pattern(
        (Row(own=1, weight=0), Row(own=1, weight=0)), "no communication at all: a bound on speed, not a model", True
    ),
}
# Numbered families: (form of the name, least number, step of the number, pattern of the number)
FAMILIES = (
    ("ladder-<k>", 2, 1, lambda k: Pattern((Row(k), Row(k)), f"each all-reduce runs behind the next {k} modules")),
    (
        "dtp-<k>",
        0,
        1,
        lambda k: Pattern(
            delayed(k),
            f"each all-reduce may take {k} more modules' time; until it lands they read the rank's own share",
        ),
    ),
    (
        "desync-<k>x",
        2,
        2,
        lambda k: Pattern(
            desynchronised(k // 2), f"one all-reduce for {k} modules; until then a rank reads its own shares"
        ),
    ),
)


def pattern(name: str) -> Pattern:
    """The pattern called ``name``, which may have a hybrid's ``@layers``. Raises UserError with the known names."""
    name = name.partition("@")[0]
    if name in PATTERNS:
        return PATTERNS[name]
    for form, least, step, build in FAMILIES:
        before, after = map(re.escape, form.split("<k>"))
        found = re.fullmatch(f"{before}(0|[1-9][0-9]{{0,8}}){after}", name)
        if found and int(found[1]) >= least and (int(found[1]) - least) % step == 0:
            return build(int(found[1]))
    numbers = (f"{form} (k = {least}, {least + step}, ...)" for form, least, step, _ in FAMILIES)
    raise known("wiring", name, [*PATTERNS, *numbers])


def tied(wiring: str) -> bool:
    """Whether the function depends on the number of ranks T, so that a checkpoint belongs to one T."""
    return any(row.own for layer in range(2) for row in pattern(wiring).at(Place(layer, 2, layer, 1 - layer, 2)))


def check_model(wiring: str) -> None:
    """Refuse a wiring that is unknown, or that no trained model computes."""
    name = wiring.partition("@")[0]
    if pattern(name).timing_only:
        raise UserError(f"wiring {name!r} is for timing only: no model computes it; `ladder bench` takes it")


def check_tp(wiring: str, tp: int | None) -> int | None:
    """``tp`` if the wiring needs one and it is given, or needs none and it is not. Raises UserError otherwise."""
    name = wiring.partition("@")[0]
    if tied(name) and not pattern(name).timing_only:
        if tp is None:
            raise UserError(
                f"wiring {name!r} lets a rank read its own un-reduced share, so it is another function at every "
                "tensor-parallel degree; say which (--tp, or tp in the configuration)"
            )
        if tp < 1:
            raise UserError(f"tensor-parallel degree {tp} must be at least 1")
    elif tp is not None:
        raise UserError(f"wiring {name!r} is the same function at every tensor-parallel degree; drop --tp")
    return tp


def parse_layers(text: str, layers: int) -> tuple[int, ...]:
    """``"4-7"`` -> (4, 5, 6, 7); ``"1,4"`` -> (1, 4). Raises UserError for a layer outside the model."""
    shown = text if len(text) <= 80 else text[:77] + "..."
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", text):
        raise UserError(f"cannot read the layers {shown!r}; write them like '4-7' or '1,4'")
    chosen: set[int] = set()
    for part in text.split(","):
        ends = [end.lstrip("0") or "0" for end in part.split("-")]
        # Before anything is made of them: two numbers can stand for more layers than any memory holds.
        if outside := next((end for end in ends if len(end) > 9 or int(end) >= layers), None):
            raise UserError(
                f"layer {outside[:20]} in {shown!r} is outside the model, which has layers 0 to {layers - 1}"
            )
        first, last = int(ends[0]), int(ends[-1])
        if first > last:
            raise UserError(f"the layers {part!r} run backwards; write '{last}-{first}'")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def table(wiring: str, layers: int, tp: int | None = None) -> tuple[Row, ...]:
    """The 2 x ``layers`` rows of a wiring: ``standard``, ``ladder``, ``ladder@16-31`` (the other layers standard).

    ``tp``: the number of ranks T, for a wiring that depends on it. Raises UserError if it does and T is missing.
    """
    name, at, chosen = wiring.partition("@")
    inside = pattern(name)
    if tp is None:
        check_tp(name, tp)
    members = set(parse_layers(chosen, layers) if at else range(layers))
    nth, left = [0] * layers, [0] * layers  # neighbours of the same wiring before and after each layer
    for layer in range(1, layers):
        nth[layer] = nth[layer - 1] + 1 if layer - 1 in members else 0
    for layer in reversed(range(layers - 1)):
        left[layer] = left[layer + 1] + 1 if layer + 1 in members else 0
    rows: list[Row] = []
    for layer in range(layers):
        place = Place(layer, layers, nth[layer], left[layer], tp or 1)
        rows += inside.at(place) if layer in members else STANDARD
    ahead = len(rows)  # the first module of which a later one also reads its rank's share, because it is ahead of it
    for n in reversed(range(len(rows))):
        if n >= ahead and n // 2 not in members:
            rows[n] = replace(rows[n], own=1)
        if rows[n].own and rows[n].lag:
            ahead = min(ahead, n - rows[n].lag)
    return tuple(rows)


def ends_apart(rows: Sequence[Row]) -> bool:
    """Whether the ranks' final streams differ: some output is read by its own rank only, for good."""
    return any(row.own and not row.weight for row in rows)


class Module(NamedTuple):
    """One attention or MLP: ``norm(x)`` is what it reads, ``compute(normed)`` its (partial) output."""

    norm: Callable
    compute: Callable


def run(x, modules: Sequence[Module], rows: Sequence[Row], all_reduce: Callable, signal_norm: Callable | None = None):
    """Run the modules over the residual stream ``x``, each reading and writing as its row says; return the stream.

    ``all_reduce(partial)`` launches a sum over ranks, may overwrite ``partial``, and returns an object whose ``wait()``
    gives the sum. Each sum is waited for as late as its readers allow, which is all there is to Ladder Residual (paper
    section 3, equations 3-4). ``signal_norm``: norm of the first module's output, for rows that read it.
    ``x`` holds what has landed, the same on all ranks; a rank's own shares are added where they are read, not to the
    stream, so that nothing has to be taken back. Only ``+`` and ``*`` by a number are used of ``x``, so the loop runs
    on tensors and on symbols alike.
    """
    in_flight: deque[_Output] = deque()
    signal, signal_norm = None, signal_norm if any(row.signal for row in rows) else None
    for n, (module, row) in enumerate(zip(modules, rows, strict=True)):
        while in_flight and in_flight[0].first < n - row.lag:
            x, signal = _land(x, in_flight.popleft(), all_reduce, signal, signal_norm)
        if not row.shared_norm:
            read = x
            for output in in_flight:
                read = read if output.own is None else read + output.own
            normed = module.norm(read)
        partial = module.compute(normed + signal if row.signal else normed)
        own = row.own * partial if row.own else None
        if not row.weight:
            x = x if own is None else x + own
            continue
        partial, first = _times(row.weight, partial), n
        if in_flight and in_flight[-1].held is not None:  # the module before waits for this one's reduction
            before = in_flight.pop()
            partial, first = before.held + partial, before.first
            own = own if before.own is None else before.own if own is None else before.own + own
        output = _Output(first, partial, None, own) if row.joint else _Output(first, None, all_reduce(partial), own)
        in_flight.append(output)
    for output in in_flight:
        x, signal = _land(x, output, all_reduce, signal, signal_norm)
    return x


class _Output(NamedTuple):
    first: int  # the oldest module in it
    held: object  # a partial that is not launched yet, or
    pending: object  # the launched sum
    own: object  # what the rank reads of it meanwhile


def _land(x, output: _Output, all_reduce: Callable, signal, signal_norm):
    landed = (all_reduce(output.held) if output.pending is None else output.pending).wait()
    if output.first == 0 and signal_norm is not None:
        signal = signal_norm(landed)
    return x + landed, signal


def _times(weight: float, value):
    return value if weight == 1 else weight * value


class Event(NamedTuple):
    """``compute``: module ``index`` runs, reading the reduced outputs of ``modules`` and its rank's share of those of
    ``own``; ``launch`` / ``wait``: the all-reduce number ``index``, which carries the outputs of ``modules``."""

    kind: str
    index: int
    modules: frozenset[int]
    own: frozenset[int] = frozenset()


def trace(rows: Sequence[Row]) -> list[Event]:
    """The order of computing, launching and waiting under ``rows``, found by running :func:`run` on symbols."""
    events: list[Event] = []

    def module(n: int) -> Module:
        def compute(seen: _Symbol) -> _Symbol:
            events.append(Event("compute", n, seen.modules, seen.own))
            return _Symbol(own=frozenset({n}))

        return Module(lambda x: x, compute)

    launched = 0

    def all_reduce(partial: _Symbol) -> _Pending:
        nonlocal launched
        events.append(Event("launch", launched, partial.own))
        launched += 1
        return _Pending(launched - 1, _Symbol(modules=partial.own), events)

    run(_Symbol(), [module(n) for n in range(len(rows))], rows, all_reduce, lambda signal: signal)
    return events


@dataclass(frozen=True)
class _Symbol:
    """Stands for a tensor: the modules whose reduced outputs it contains, and those of which a rank's share only."""

    modules: frozenset[int] = frozenset()
    own: frozenset[int] = frozenset()

    def __add__(self, other: "_Symbol") -> "_Symbol":
        return _Symbol(self.modules | other.modules, self.own | other.own)

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
