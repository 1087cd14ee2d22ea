"""How a converted model is adapted: methods are rows; what a row says becomes the objective that the loop minimises.

    sft           cross-entropy of the assistant's tokens (the paper's), or of all tokens of plain text
    distill       KL divergence to the original, on every token; nothing is learnt that the original does not know
    lora          the same, of a low-rank change to the converted layers' matrices, which is added to them in the end
    anneal        the same, while the lag is brought in: what is read goes from the standard stream to the wiring's
    progressive   layers are rewired a group at a time, the last ones first, while training goes on

The weights have the same names under every wiring, so a group of layers is rewired by exchanging the table of rows.
Which table is in force is a function of the step and of the validations before it, hence a resumed run has the right
one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ladder import options, records
from ladder.errors import UserError
from ladder.options import COUNT, POSITIVE, option
from ladder.outputs import path_or_name
from ladder.residual import Table
from ladder.wiring import Wiring, parse_layers

RAMP = 0.75  # of an annealed run's steps bring the lag in; the rest trains under the wiring
GATE = 0.5  # it waits while the KL is above this share of what so much of the lag cost untrained


class Method(NamedTuple):
    """``variant``: what a checkpoint that it made is called. ``lr``: where none is given. ``teacher``: it has one
    (True), may have (None), has none. ``grouped``: layers are rewired while it trains. ``rank``: of its change to the
    matrices, None: any. ``anneals``: the lag is brought in while it trains."""

    variant: str
    summary: str
    lr: float
    teacher: bool | None = False
    grouped: bool = False
    rank: int | None = None
    anneals: bool = False


METHODS = {
    "sft": Method("adapted", "cross-entropy of the assistant's tokens", 2e-4),
    "distill": Method("distilled", "KL divergence to the original, on every token but padding", 3e-4, teacher=True),
    "lora": Method("lora", "distillation into low-rank changes of the converted layers", 3e-3, teacher=True, rank=32),
    "anneal": Method("annealed", "distillation while the lag is brought in", 3e-4, teacher=True, anneals=True),
    "progressive": Method(
        "progressive",
        "layers rewired a group at a time; by distillation if it has a teacher",
        3e-4,
        teacher=None,
        grouped=True,
    ),
}


class Phase(NamedTuple):
    """Training begins it after ``start`` steps: under ``wiring``, whose table is ``rows``."""

    start: int
    wiring: str
    rows: Table


@dataclass(frozen=True)
class Objective:
    """What a run minimises, under which wirings, and when it may stop early.

    weights: of the terms of :func:`ladder.train.losses.measure`, per token that a term counts.
    phases: of a run that rewires its model; the last is the wiring of the checkpoint.
    anneals: the one phase is annealed: its lag is brought in.
    patience: validations of the last phase without a better one, after which the run ends with its best weights.
    layers: the only ones that are trained, if any are named; rank: of the change to their matrices, None: any.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"loss": 1.0})
    teacher: object = None
    temperature: float = 1.0
    phases: tuple[Phase, ...] = ()
    anneals: bool = False
    patience: int | None = None
    layers: tuple[int, ...] | None = None
    rank: int | None = None

    def prepare(self, model) -> None:
        """Freeze what is not trained, and put low-rank changes beside what is, if they have a ``rank``."""
        if self.layers is not None:
            from ladder.train.low_rank import add_low_rank, freeze

            freeze(model, self.layers)
            if self.rank:
                add_low_rank(model, self.layers, self.rank)

    def enter(self, model, step: int, steps: int = 0, validation: Sequence[dict] = ()) -> dict:
        """Rewire ``model`` as it is in step 1, 2, ... of ``steps``, after the ``validation`` so far; 0 stands for the
        validation before the first. Returns what a validation should say of it."""
        if not self.phases:
            return {}
        from ladder.model.rewire import set_table

        rows = self.phase(step).rows
        if not self.anneals:
            set_table(model, rows)
            return {}
        late = self.late(step, steps, validation)
        set_table(model, rows.annealed(late))
        return {"late": late}

    def late(self, step: int, steps: int, validation: Sequence[dict]) -> float:
        """How much of the lag is in force: from 0 to 1 in a straight line over RAMP x ``steps``, steeper after each
        time that it waited; it waits from a validation whose KL is too high to the next. 1 before the first step, where
        the converted model is measured."""
        end = RAMP * steps
        if step == 0 or step >= end:
            return 1.0
        first, last = validation[0], validation[-1]
        late = last["late"] if last["step"] else 0.0
        if last["kl"] > GATE * late * first["kl"] and last["step"]:
            return late
        return late + (1 - late) * (step - last["step"]) / (end - last["step"])

    def phase(self, step: int) -> Phase:
        return next(phase for phase in reversed(self.phases) if phase.start < max(1, step))

    def scales(self, dataset, rows: np.ndarray) -> dict[str, float]:
        """The weight of one token of a batch, by term: so that its sum over the whole batch is a mean."""
        from ladder.train.losses import tokens

        scored = max(1, dataset.supervised(rows))  # of all ranks and micro-batches
        counted = scored if self.teacher is None else max(1, int(tokens(dataset.rows(rows)).sum()))
        return {term: w / (scored if term == "loss" else counted) for term, w in self.weights.items() if w}

    def value(self, point: dict) -> float:
        """What is minimised, of a validation's means."""
        return sum(weight * point[term] for term, weight in self.weights.items())

    def best(self, validation: list[dict]) -> dict | None:
        """The validation with the lowest objective, of those under the checkpoint's own wiring."""
        last = self.phases[-1].start if self.phases else -1
        points = [point for point in validation if point["step"] > last and point.get("late", 1) == 1]
        return min(points, key=self.value, default=None)

    def improved(self, validation: list[dict]) -> bool:
        """Whether the last validation is the best so far, in a run that keeps the best."""
        return self.patience is not None and self.best(validation) is validation[-1]

    def kept(self, validation: list[dict]) -> dict:
        """The validation of the weights that a run ends with."""
        return (self.patience and self.best(validation)) or validation[-1]

    def exhausted(self, validation: list[dict]) -> bool:
        """Whether the last ``patience`` validations brought nothing better."""
        best = self.best(validation)
        if self.patience is None or best is None:
            return False
        return sum(point["step"] > best["step"] for point in validation) >= self.patience


SFT = Objective()

FILE = {"numeric": False, "profile": False}  # its content changes a run's numbers, its name does not


@dataclass(frozen=True)
class Recipe:
    """The options of a method. Raises UserError where they contradict each other."""

    method: str = option("sft", "; ".join(f"{name}: {row.summary}" for name, row in METHODS.items()), enum=(*METHODS,))
    teacher: str | None = option(
        None,
        "distillation: the original (default, and for the checkpoint itself: its weights before their conversion)",
        **FILE,
        more={"type": path_or_name},
    )
    freeze: bool = option(False, "train nothing but the converted layers")
    rank: int | None = option(None, f"lora: of the change (default: {METHODS['lora'].rank})", **COUNT)
    temperature: float = option(1.0, "of teacher and model in the KL", **POSITIVE)
    sft_weight: float = option(0.0, "of the cross-entropy beside the KL's 1", minimum=0)
    hidden_weight: float = option(0.0, "of the mean squared difference of the final normed hidden states", minimum=0)
    group: int | None = option(None, "progressive: layers rewired at a time (default: 1)", **COUNT)
    order: Path | None = option(
        None,
        "progressive: record of `ladder sensitivity`, cheapest layer first (default: the last first)",
        **FILE,
    )
    patience: int | None = option(
        None, "stop after so many validations without a better one, and keep the best weights", **COUNT
    )

    def __post_init__(self):
        options.check(Recipe, self)
        row = METHODS[self.method]
        if row.teacher is False and self.teacher is not None:
            raise UserError(f"--method {self.method} has no teacher; drop --teacher, or use --method distill")
        for name in ("temperature", "sft_weight", "hidden_weight"):
            if getattr(self, name) != getattr(Recipe, name) and not self.taught:
                raise UserError(f"{options.flag(name)} is of distillation, which needs --teacher")
        for name, of in (("group", "progressive"), ("order", "progressive"), ("rank", "lora")):
            if getattr(self, name) is not None and self.method != of:
                raise UserError(f"{options.flag(name)} is of --method {of}; --method {self.method} takes none")

    @property
    def variant(self) -> str:
        return METHODS[self.method].variant

    @property
    def taught(self) -> bool:
        """Whether there is a teacher: a model that is named, or the one that was converted."""
        return METHODS[self.method].teacher is True or self.teacher is not None

    @property
    def marked(self) -> bool:
        """Whether it must be known which tokens are the assistant's."""
        return not self.taught or self.sft_weight > 0

    def settings(self) -> dict:
        """What changes a run's numbers: the flags that differ from finetuning's, less the files that are named."""
        return {name: v for name, v in options.numeric(Recipe, self).items() if v != getattr(Recipe, name)}

    def objective(self, wiring: str, layers: int, tp: int | None, steps: int, teacher=None) -> Objective:
        """``teacher``: the model, loaded; the wiring is the checkpoint's. Raises UserError where that does not fit."""
        row, weights, phases, trained = METHODS[self.method], {"loss": 1.0}, (), None
        if self.taught:
            weights = {"loss": self.sft_weight, "kl": 1.0}
            weights |= {"hidden": self.hidden_weight} if self.hidden_weight else {}
        if row.grouped:
            chosen = in_order(self.order, wiring, layers, tp)
            phases = split(chosen, self.group or 1, wiring, layers, tp, steps)
        if row.anneals:
            phases = (Phase(0, wiring, Wiring.parse(wiring, tp).table(layers)),)
            if wiring == "standard" or not phases[0].rows.only_delays:
                raise UserError(
                    f"--method anneal brings in a lag, but the wiring {wiring!r} is not one that only delays (ladder, "
                    "ladder-2, parallel-2norm); use --method distill"
                )
        if row.rank and tp:
            raise UserError(f"--method lora: not for wiring {wiring!r} at {tp} ranks; use --method distill --freeze")
        if self.freeze or row.rank:
            trained = tuple(converted(wiring, layers, tp))
        rank = self.rank or row.rank
        return Objective(weights, teacher, self.temperature, phases, row.anneals, self.patience, trained, rank)


def converted(wiring: str, layers: int, tp: int | None) -> list[int]:
    """The layers that ``wiring`` rewires. Raises UserError if there are none."""
    chosen = Wiring.parse(wiring, tp)
    if chosen.name == "standard":
        raise UserError("the checkpoint's wiring is 'standard': there is no layer to rewire; convert it first")
    return chosen.members(layers)


def in_order(record: Path | None, wiring: str, layers: int, tp: int | None) -> list[int]:
    """The layers that ``wiring`` rewires, in the order of rewiring: from the last to the first, or from the one that
    the record of a scan says costs least. Raises UserError for a record of another scan."""
    chosen, members = Wiring.parse(wiring, tp), converted(wiring, layers, tp)
    if record is None:
        return sorted(members, reverse=True)
    rows = [row for row in records.read(record)["rows"] if row["metric"] == "loss_change_alone"]
    rows = [row for row in rows if row.get("wiring") == chosen.name and row.get("tp") == tp]
    cost = {layer: row["value"] for row in rows for layer in parse_layers(row.get("layers", ""))}
    if missing := sorted(set(members) - set(cost)):
        layer = f"layer {missing[0]} under {chosen.name!r}" + (f" at --tp {tp}" if tp else "")
        raise UserError(f"{record}: holds no loss change of {layer}; scan that")
    return sorted(members, key=cost.get)


def split(order: list[int], group: int, wiring: str, layers: int, tp: int | None, steps: int) -> tuple[Phase, ...]:
    """``group`` more layers a phase; the phases have equal shares of the steps."""
    counts = [*range(group, len(order), group), len(order)]
    if len(counts) > steps:
        raise UserError(
            f"--steps {steps} are fewer than the {len(counts)} groups of layers; use more steps or a larger --group"
        )
    whole, phases = Wiring.parse(wiring, tp), []
    for k, count in enumerate(counts):
        chosen = whole if count == len(order) else replace(whole, layers=tuple(sorted(order[:count])))
        phases.append(Phase(k * steps // len(counts), str(chosen), chosen.table(layers)))
    return tuple(phases)
