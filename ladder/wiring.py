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
diagrams all run the operations that ladder.residual compiles from these rows. This module needs no torch.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

from ladder.errors import UserError, unknown_name
from ladder.residual import Row, Table


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


DEEPEST = 10_000  # layers: no decoder has more, and a mistyped range must not fill the memory


@dataclass(frozen=True)
class Wiring:
    """A wiring by name, of all layers of a model or of some: ``ladder``, ``ladder@16-31``, ``spd@8-15`` at ``tp`` 2.

    name: a row of PATTERNS or a member of FAMILIES. layers: those that have it, in order, the others being standard;
    None: all. tp: the number of ranks T, for a wiring that depends on it.
    """

    name: str
    layers: tuple[int, ...] | None = None
    tp: int | None = None

    @classmethod
    def parse(cls, text: str, tp: int | None = None) -> "Wiring":
        """The wiring that ``text`` spells. Raises UserError for an unknown name and for layers that cannot be read."""
        if not isinstance(text, str):
            raise UserError(f"wiring {text!r} is not a name; write one like 'ladder' or 'ladder@16-31'")
        name, chosen = split_name(text)
        _pattern(name)
        return cls(name, parse_layers(chosen) if "@" in text else None, tp)

    def __str__(self) -> str:
        return self.name if self.layers is None else f"{self.name}@{spell_layers(self.layers)}"

    @property
    def summary(self) -> str:
        return _pattern(self.name).summary

    @property
    def timing_only(self) -> bool:
        """Whether no trained model computes it at more than one rank."""
        return _pattern(self.name).timing_only

    @property
    def tied(self) -> bool:
        """Whether the function depends on the number of ranks T, so that a checkpoint belongs to one T."""
        return _table(Wiring(self.name, tp=2), 2).shares

    def of_model(self, layers: int | None = None) -> "Wiring":
        """This wiring, if a model (of so many ``layers``) can have it. Raises UserError for one that is for timing
        only, for a degree that is missing or too much, and for a layer outside the model."""
        if self.timing_only:
            raise UserError(f"wiring {self.name!r} is for timing only: no model computes it; `ladder bench` takes it")
        if self.tied and self.tp is None:
            raise UserError(
                f"wiring {self.name!r} lets a rank read its own un-reduced share, so it is another function at every "
                "tensor-parallel degree; say which (--tp, or tp in the configuration)"
            )
        if self.tied and self.tp < 1:
            raise UserError(f"tensor-parallel degree {self.tp} must be at least 1")
        if not self.tied and self.tp is not None:
            raise UserError(f"wiring {self.name!r} is the same function at every tensor-parallel degree; drop --tp")
        if layers is not None:
            self.members(layers)
        return self

    def members(self, layers: int) -> tuple[int, ...]:
        """Which of the ``layers`` of a model have this wiring. Raises UserError for a layer outside it."""
        if self.layers is None:
            return tuple(range(layers))
        if self.layers[-1] >= layers:
            outside = f"layer {self.layers[-1]} in {spell_layers(self.layers)!r} is outside the model"
            raise UserError(f"{outside}, which has layers 0 to {layers - 1}")
        return self.layers

    def table(self, layers: int) -> Table:
        """The rows of the 2 x ``layers`` modules. Raises UserError where T is missing, or for a layer outside."""
        if self.tied and self.tp is None and not self.timing_only:
            self.of_model(layers)
        return _table(self, layers)


def split_name(text: str) -> tuple[str, str]:
    """``"ladder@16-31"`` -> ("ladder", "16-31"); the layers are empty where it is of all."""
    name, _, chosen = text.partition("@")
    return name, chosen


def table(wiring: str, layers: int, tp: int | None = None) -> Table:
    """The rows of the wiring spelled so; ``tp`` may be given for every wiring."""
    return Wiring.parse(wiring, tp).table(layers)


@cache
def _table(wiring: Wiring, layers: int) -> Table:
    inside, members = _pattern(wiring.name), wiring.members(layers)
    rows: list[Row] = [*STANDARD] * layers
    for start, stop in _runs(members):
        for layer in range(start, stop):
            place = Place(layer, layers, layer - start, stop - 1 - layer, wiring.tp or 1)
            rows[2 * layer : 2 * layer + 2] = inside.at(place)
    chosen, ahead = set(members), len(rows)
    for n in reversed(range(len(rows))):  # a row ahead of a standard output also reads its rank's share of it
        if n >= ahead and n // 2 not in chosen:
            rows[n] = replace(rows[n], own=1)
        if rows[n].own and rows[n].lag:
            ahead = min(ahead, n - rows[n].lag)
    return Table(rows)


def _pattern(name: str) -> Pattern:
    """Raises UserError with the known names."""
    if name in PATTERNS:
        return PATTERNS[name]
    for form, least, step, build in FAMILIES:
        before, after = map(re.escape, form.split("<k>"))
        number = re.fullmatch(f"{before}(0|[1-9][0-9]{{0,3}}){after}", name)
        if number and int(number[1]) >= least and (int(number[1]) - least) % step == 0:
            return build(int(number[1]))
    numbers = (f"{form} (k = {least}, {least + step}, ...)" for form, least, step, _ in FAMILIES)
    raise unknown_name("wiring", name, [*PATTERNS, *numbers])


def parse_layers(text: str) -> tuple[int, ...]:
    """``"4-7"`` -> (4, 5, 6, 7); ``"1,4"`` -> (1, 4). Raises UserError for what cannot be layers of a model."""
    if not re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*", text):
        raise UserError(f"cannot read the layers {text[:80]!r}; write them like '4-7' or '1,4'")
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        first, last = int(first), int(last or first)
        if first > last:
            raise UserError(f"the layers {part!r} run backwards; write '{last}-{first}'")
        if last >= DEEPEST:
            raise UserError(f"layer {last} in {text[:80]!r} is outside every model; layers count from 0")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def spell_layers(layers: tuple[int, ...]) -> str:
    """(4, 5, 6, 9) -> ``"4-6,9"``."""
    return ",".join(str(start) if stop - start == 1 else f"{start}-{stop - 1}" for start, stop in _runs(layers))


def _runs(layers: tuple[int, ...]) -> list[tuple[int, int]]:
    """(first, last + 1) of each run of neighbours."""
    firsts = [layer for k, layer in enumerate(layers) if k == 0 or layers[k - 1] != layer - 1]
    lasts = [layer for k, layer in enumerate(layers) if k == len(layers) - 1 or layers[k + 1] != layer + 1]
    return [(first, last + 1) for first, last in zip(firsts, lasts, strict=True)]
