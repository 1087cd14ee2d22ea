"""How a converted model is adapted: methods are rows; what a row says becomes the objective that the loop minimises.

    sft           cross-entropy of the assistant's tokens (the paper's)
    distill       KL divergence to the original, on every token; nothing is learnt that the original does not know
    progressive   layers are rewired a group at a time, the last ones first, while training goes on

The weights have the same names under every wiring, so a group of layers is rewired by exchanging the table of rows.
Which table is in force is a function of the step, hence a resumed run has the right one.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ladder import records
from ladder.errors import UserError, known
from ladder.outputs import path_or_name
from ladder.residual import Table
from ladder.wiring import Wiring, parse_layers


class Method(NamedTuple):
    """``variant``: what a checkpoint that it made is called. ``teacher``: it has one (True), may have (None), has none.
    ``grouped``: layers are rewired while it trains."""

    variant: str
    summary: str
    teacher: bool | None = False
    grouped: bool = False


METHODS = {
    "sft": Method("adapted", "cross-entropy of the assistant's tokens"),
    "distill": Method("distilled", "KL divergence to the original, on every token but padding", teacher=True),
    "progressive": Method(
        "progressive",
        "layers rewired a group at a time; by distillation if it has a teacher",
        teacher=None,
        grouped=True,
    ),
}


def method(name: str) -> Method:
    if name not in METHODS:
        raise known("method", name, METHODS)
    return METHODS[name]


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
    patience: validations of the last phase without a better one, after which the run ends with its best weights.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"loss": 1.0})
    teacher: object = None
    temperature: float = 1.0
    phases: tuple[Phase, ...] = ()
    patience: int | None = None

    def enter(self, model, step: int) -> None:
        """Rewire ``model`` as it is in step 1, 2, ...; 0 stands for the validation before the first."""
        if self.phases:
            from ladder.model.rewire import set_table

            set_table(model, self.phase(step).rows)

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
        points = [point for point in validation if point["step"] > last]
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


@dataclass(frozen=True)
class Recipe:
    """The flags of a method. Raises UserError where they contradict each other."""

    method: str = "sft"
    teacher: str | None = None
    temperature: float = 1.0
    sft_weight: float = 0.0
    hidden_weight: float = 0.0
    group: int | None = None
    order: Path | None = None
    patience: int | None = None

    def __post_init__(self):
        row = method(self.method)
        if row.teacher and self.teacher is None:
            raise UserError(f"--method {self.method} needs --teacher: the original that was converted")
        if row.teacher is False and self.teacher is not None:
            raise UserError(f"--method {self.method} has no teacher; drop --teacher, or use --method distill")
        for flag in ("temperature", "sft_weight", "hidden_weight"):
            if getattr(self, flag) != getattr(Recipe, flag) and self.teacher is None:
                raise UserError(f"--{flag.replace('_', '-')} is of distillation, which needs --teacher")
        if not row.grouped:
            for flag in ("group", "order"):
                if getattr(self, flag) is not None:
                    raise UserError(f"--{flag} is of --method progressive; --method {self.method} takes none")
        if not self.temperature > 0:
            raise UserError(f"--temperature {self.temperature} must be above 0")
        for flag in ("sft_weight", "hidden_weight"):
            if not getattr(self, flag) >= 0:
                raise UserError(f"--{flag.replace('_', '-')} {getattr(self, flag)} must be at least 0")
        for flag in ("group", "patience"):
            if getattr(self, flag) is not None and getattr(self, flag) < 1:
                raise UserError(f"--{flag} {getattr(self, flag)} must be at least 1")

    @property
    def variant(self) -> str:
        return METHODS[self.method].variant

    def settings(self) -> dict:
        """What changes a run's numbers: the flags that differ from finetuning's, less the files that are named."""
        plain = Recipe()
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("teacher", "order")}
        return {name: value for name, value in chosen.items() if value != getattr(plain, name)}

    def objective(self, wiring: str, layers: int, tp: int | None, steps: int, teacher=None) -> Objective:
        """``teacher``: the model, loaded; the wiring is the checkpoint's."""
        weights = {"loss": 1.0}
        if self.teacher is not None:
            weights = {"loss": self.sft_weight, "kl": 1.0}
            weights |= {"hidden": self.hidden_weight} if self.hidden_weight else {}
        phases = ()
        if METHODS[self.method].grouped:
            chosen = in_order(self.order, wiring, layers, tp)
            phases = split(chosen, self.group or 1, wiring, layers, tp, steps)
        return Objective(weights, teacher, self.temperature, phases, self.patience)


def in_order(record: Path | None, wiring: str, layers: int, tp: int | None) -> list[int]:
    """The layers that ``wiring`` rewires, in the order of rewiring: from the last to the first, or from the one that
    the record of a scan says costs least. Raises UserError for a record of another scan."""
    chosen = Wiring.parse(wiring, tp)
    if chosen.name == "standard":
        raise UserError("the checkpoint's wiring is 'standard': there is no layer to rewire; convert it first")
    members = chosen.members(layers)
    if record is None:
        return sorted(members, reverse=True)
    content = records.read(record)
    if not (content.get("settings") or {}).get("each"):
        raise UserError(f"{record}: not a scan of single layers; make it with `ladder sensitivity --each`")
    rows = [row for row in content["rows"] if row["metric"] == "loss_change" and row.get("converted")]
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    said = "; ".join(f"{name}: {row.summary}" for name, row in METHODS.items())
    group.add_argument("--method", default="sft", help=f"{said} (default: sft)")
    group.add_argument("--teacher", type=path_or_name, help="distillation: the original, which is not changed")
    group.add_argument("--temperature", type=float, default=1.0, help="of teacher and model in the KL (default: 1)")
    group.add_argument(
        "--sft-weight", type=float, default=0.0, help="of the cross-entropy beside the KL's 1 (default: 0, KL alone)"
    )
    group.add_argument(
        "--hidden-weight",
        type=float,
        default=0.0,
        help="of the mean squared difference of the final normed hidden states (default: 0)",
    )
    group.add_argument("--group", type=int, help="progressive: layers rewired at a time (default: 1)")
    group.add_argument(
        "--order",
        type=Path,
        metavar="RECORD",
        help="progressive: of `ladder sensitivity --each`; the layer that costs least first (default: the last first)",
    )
    group.add_argument(
        "--patience", type=int, help="stop after so many validations without a better one, and keep the best weights"
    )


def of(args: argparse.Namespace) -> Recipe:
    return Recipe(**{name: getattr(args, name) for name in (f.name for f in fields(Recipe))})
