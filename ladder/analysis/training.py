"""Training: loss curves with their difference to standard; loss at equal training time beside loss at equal tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ladder.analysis.checkpoints import LOSS, OWN, POINT, degree, is_real, parameters, studies
from ladder.analysis.checkpoints import points as curve_points
from ladder.analysis.frames import Frames
from ladder.analysis.points import by
from ladder.analysis.quality import floor_of, verdict
from ladder.looks import hardware_words, order
from ladder.wiring import Wiring, table


def kind(wiring: str) -> str:
    """What sets a wiring apart, from its rows."""
    chosen = Wiring.parse(wiring)
    if chosen.tied:
        return "own shares"
    if chosen.timing_only or table(chosen.name, 2).has("hold"):
        return "shared all-reduces"
    return "late or repeated outputs"


def curves(frames: Frames) -> pd.DataFrame:
    """Points of every training curve; loss_difference: to standard's of the same model, variant, seed and step, for
    runs of the same length."""
    found = []
    for study, part in studies(frames):
        rows = curve_points(part)
        rows = rows if study == OWN else rows[rows["split"] == "validation"]
        if rows.empty:
            continue
        rows = rows.copy()
        rows["length"] = rows.groupby(["stage", "model", "wiring", "variant"])["step"].transform("max")
        key = ["stage", "model", "variant", "seed", "split", "step", "length"]
        base = rows[rows["wiring"] == "standard"].drop_duplicates(key).set_index(key)["loss"]
        rows = rows.join(base.rename("base"), on=key)
        rows["loss_difference"] = (rows["loss"] - rows["base"]).where(rows["wiring"] != "standard")
        pairs = rows[["wiring", "model"]].drop_duplicates().itertuples(index=False, name=None)
        degrees = {pair: degree(part, *pair) for pair in pairs}
        names = zip(rows["wiring"], rows["model"], strict=True)
        found.append(rows.drop(columns="base").assign(study=study, degree=[degrees[name] for name in names],
                     kind=rows["wiring"].map(kind), real=rows["model"].map(is_real)))  # fmt: skip
    if not found:
        return pd.DataFrame()
    return pd.concat(found)[["study", *POINT, "degree", "kind", "loss_difference", "real"]]


@dataclass(frozen=True)
class Run:
    """One training run. row: that of its tokens_per_second; tokens, losses: its validation curve, step 0 left out."""

    row: dict
    tokens: np.ndarray
    losses: np.ndarray
    settings: dict

    @property
    def name(self) -> tuple[str, str]:
        return self.row["model"], self.row["wiring"]

    @property
    def place(self) -> tuple[str, str | None]:
        """Hardware and digest of the tokens: only where both agree can two runs be compared."""
        return self.row["hardware"], self.settings.get("tokens")

    @cached_property
    def seconds(self) -> np.ndarray:
        """When the points of the curve were reached, in seconds of training."""
        return self.tokens / self.row["value"]

    def at(self, seconds: float) -> float | None:
        """The loss then, interpolated over the logarithm of the tokens; None before the first point and after the
        end."""
        tokens = seconds * self.row["value"]
        if not self.tokens[0] <= tokens <= self.tokens[-1] * (1 + 1e-9):
            return None
        return float(np.interp(np.log(tokens), np.log(self.tokens), self.losses))


def runs(frames: Frames) -> list[Run]:
    """Every pretraining run with a curve and a speed, small models first."""
    found = []
    for record in frames.with_extra("curves"):
        row = next((r for r in record["rows"] if r["metric"] == "tokens_per_second"), {})
        points = sorted((p["tokens"], p["loss"]) for p in record["curves"].get("validation", []) if p["tokens"] > 0)
        if row.get("stage") != "pretrain" or not points:
            continue
        tokens, losses = np.array(points, float).T
        hardware = {"hardware": record["provenance"].get("hardware")}
        found.append(Run(row | hardware, tokens, losses, record.get("settings", {})))
    return sorted(
        found, key=lambda run: (parameters(run.name[0]), run.name[0], order(run.name[1]), run.row.get("seed"))
    )


def pairs(found: list[Run]) -> list[tuple[list[Run], list[Run]]]:
    """The runs of each model and wiring on one hardware and corpus, and the standard runs to hold them against: of the
    same model, or of the largest smaller one that was trained with standard there; [] where there is none."""
    groups, made = by(found, lambda run: (*run.name, *run.place)), []
    for (model, _, *place), own in groups.items():
        bases = [m for m, wiring, *there in groups if wiring == "standard" and there == place]
        smaller = [m for m in bases if parameters(m) < parameters(model)]
        base = model if model in bases else max(smaller, key=parameters, default=None)
        made.append((own, groups.get((base, "standard", *place), [])))
    return made


def equal_tokens(run: Run, other: Run) -> float | None:
    return run.losses[-1] - other.losses[-1] if run.tokens[-1] == other.tokens[-1] else None


def equal_time(run: Run, other: Run) -> float | None:
    """At the end of the one that ends first."""
    end = min(run.seconds[-1], other.seconds[-1])
    losses = run.at(end), other.at(end)
    return None if None in losses else losses[0] - losses[1]


def at_its_end(run: Run, other: Run) -> float | None:
    """The loss at the time at which the standard run ends."""
    return run.at(other.seconds[-1])


READ: dict[str, Callable[[Run, Run], float | None]] = {
    "loss_when_standard_ends": at_its_end,
    "loss_at_equal_tokens": equal_tokens,
    "loss_at_equal_time": equal_time,
}


def over_seeds(name: str, values: list[float]) -> dict:
    return {name: float(np.mean(values)), f"{name}_low": min(values), f"{name}_high": max(values)} if values else {}


def training_time(frames: Frames) -> pd.DataFrame:
    """One row a model and wiring (seed empty: mean, lowest and highest over the seeds), then one a seed."""
    rows = []
    for own, base in pairs(runs(frames)):
        (model, wiring), others = own[0].name, {run.row.get("seed"): run for run in base}
        what = {"model": model, "wiring": wiring, "degree": degree(frames, wiring, model),
                "origin": own[0].row["origin"], "hardware": hardware_words(own[0].row["hardware"]),
                "tokens": own[0].tokens[-1],
                "against": base[0].name[0] if base else None}  # fmt: skip
        each = []
        for run in own:
            row = {"seed": run.row.get("seed"), "tokens_per_second": run.row["value"], "training_s": run.seconds[-1],
                   "loss": run.losses[-1]}  # fmt: skip
            other = others.get(run.row.get("seed"))
            if wiring != "standard" and other:
                row |= {name: value for name, read in READ.items() if (value := read(run, other)) is not None}
            each.append(row)
        total = what | {"seeds": len(own)}
        for name in ("tokens_per_second", "training_s", "loss", *READ):
            total |= over_seeds(name, [row[name] for row in each if name in row])
        if "loss_at_equal_time" in total:
            floor = floor_of(frames, LOSS, base[0].name[0], "pretrained")
            total["verdict"] = verdict({"value": total["loss_at_equal_time"]}, floor)
        rows += [total, *(what | row for row in each)]
    return pd.DataFrame(rows)


def timed_curves(frames: Frames) -> pd.DataFrame:
    """Validation loss against training time, a point a seed."""
    rows = []
    for run in runs(frames):
        what = {key: run.row.get(key) for key in ("model", "wiring", "seed", "origin")}
        what |= {"hardware": hardware_words(run.row["hardware"]), "tokens_per_second": run.row["value"]}
        for tokens, seconds, loss in zip(run.tokens, run.seconds, run.losses, strict=True):
            rows.append(what | {"tokens": tokens, "training_s": seconds, "loss": loss})
    return pd.DataFrame(rows)
