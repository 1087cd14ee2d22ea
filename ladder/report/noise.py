"""The noise floor: how far two standard models lie apart that differ in their seed alone, beside every comparison of
wirings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import pandas as pd

from ladder.report.cells import Cell, missing
from ladder.report.frames import Frames
from ladder.report.quality import (
    CLOZE,
    DONE,
    LOSS,
    PERPLEXITY,
    curves,
    difference,
    parameters,
    pooled,
    rows_of,
    seeds,
)
from ladder.report.style import loss_text, order, share_text, signed, signed_loss
from ladder.report.task_tables import ADAPTATION_TASKS, PRETRAINING_TASKS

OVER, UNCLEAR, WITHIN, UNKNOWN = "over", "unclear", "within", "no floor"
ONE_SEED = "standard has one seed only"
# (metric, task) -> its name
QUANTITIES = {LOSS: "validation loss, nats", PERPLEXITY: "byte perplexity", CLOZE: "cloze, points"}
for _name, (_task, _metric) in {**PRETRAINING_TASKS, **ADAPTATION_TASKS}.items():
    QUANTITIES[_metric, _task] = _name if "perplexity" in _metric else f"{_name}, points"
MEANING = (
    "Noise floor: the largest difference between two standard models that differ in their seed alone, over all pairs "
    "of seeds. over: the difference is larger, and its own 95 % interval (over documents and seeds) leaves out 0; "
    "unclear: larger, but its interval holds 0; within: not larger. Wirings are compared at equal seeds, so with the "
    "same batches. Other wirings: the largest difference between two seeds of one of them; where that is larger, "
    "the floor is low by luck, and a difference between the two is not more than seeds do."
)


@dataclass(frozen=True)
class Floor:
    value: float  # the largest absolute difference
    rows: tuple[dict, ...]  # every pair of seeds


@dataclass(frozen=True)
class Difference:
    """A wiring against the standard model that it is compared with, in one quantity."""

    model: str
    variant: str
    wiring: str
    metric: tuple[str, str | None]
    row: dict
    floor: Floor | None

    @property
    def verdict(self) -> str:
        return verdict(self.row, self.floor)


def form(metric: tuple[str, str | None]):
    """How a difference in this quantity is written."""
    return signed_loss if metric == LOSS or "perplexity" in metric[0] else signed


def size_text(metric: tuple[str, str | None]):
    """How the size of such a difference is written."""
    return loss_text if form(metric) is signed_loss else share_text


def verdict(row: dict, floor: Floor | None) -> str:
    if floor is None:
        return UNKNOWN
    if abs(row["value"]) <= floor.value:
        return WITHIN
    low, high = row.get("low"), row.get("high")
    return UNCLEAR if pd.notna(low) and pd.notna(high) and low <= 0 <= high else OVER


def apart(frames: Frames, metric: tuple[str, str | None], one: dict, other: dict) -> dict | None:
    """``one`` - ``other`` at the same seeds. A loss has no samples, so no interval: its mean over the seeds."""
    return losses_apart(frames, one, other) if metric == LOSS else pooled(frames, metric, one, other)


def losses_apart(frames: Frames, one: dict, other: dict) -> dict | None:
    first, second = (rows_of(frames, LOSS, **c).groupby("seed").last() for c in (one, other))
    gaps = (first["value"] - second["value"]).dropna()
    if gaps.empty:
        return None
    row = rows_of(frames, LOSS, **one).iloc[-1].to_dict()
    note = f"less that of {other['wiring']} ({other['variant']}); mean of {len(gaps)} seeds"
    what = {"metric": "validation_loss_difference", "value": float(gaps.mean()), "n": len(gaps), "note": note}
    return row | what | {"seed": None, "run": None, "mlflow_run_id": None, "low": None, "high": None, "stderr": None}


def floor_of(frames: Frames, metric: tuple[str, str | None], base: dict) -> Floor | None:
    """base: the columns (model, wiring, variant) of the checkpoint whose seeds are compared."""
    rows = []
    for low, high in combinations(seeds(frames, metric, base), 2):
        pair = base | {"seed": high}, base | {"seed": low}
        if metric == LOSS:
            values = [rows_of(frames, LOSS, **one)["value"].iloc[-1] for one in pair]
            row = rows_of(frames, LOSS, **pair[0]).iloc[-1].to_dict()
            row |= {"metric": "validation_loss_difference", "value": values[0] - values[1], "stderr": None, "n": None}
            row["note"] = f"less that of {base['wiring']} ({base['variant']}) of seed {low:g}"
        else:
            row = difference(frames, metric, [pair])
        rows += [row] if row else []
    return Floor(max(abs(row["value"]) for row in rows), tuple(rows)) if rows else None


def against(frames: Frames, metric: tuple[str, str | None], one: dict, base: dict, reason: str) -> Cell:
    """The difference ``one`` - ``base`` with its interval, and whether it is over the noise floor of base's
    model under standard."""
    row = apart(frames, metric, one, base)
    if row is None:
        return missing(reason)
    text, write = form(metric)(row["value"]), form(metric)
    if pd.notna(row["low"]):
        text += f" [{write(row['low'])}, {write(row['high'])}]"
    return Cell(f"{text} {verdict(row, floor_of(frames, metric, base | {'wiring': 'standard'}))}", row["value"], (row,))


def widest(frames: Frames, group: Sequence[Difference]) -> float | None:
    """The largest difference between two seeds of any wiring of the group; None where all have one seed."""
    found = []
    for one in group:
        rows = rows_of(frames, one.metric, model=one.model, wiring=one.wiring, variant=one.variant)
        values = rows.groupby("seed")["value"].last()
        found += [float(values.max() - values.min())] if len(values) > 1 else []
    return max(found, default=None)


def baseline(frames: Frames, model: str, variant: str) -> str:
    """Which standard checkpoint a rewired one is held against: the one treated the same way, else the original."""
    return variant if len(frames.own(model=model, wiring="standard", variant=variant)) else "pretrained"


@lru_cache(maxsize=4)
def differences(frames: Frames) -> tuple[Difference, ...]:
    """Every comparison with standard that the records allow, of runs of the same length."""
    own = frames.own(stage=["pretrain", "adapt", "evaluate"], variant=list(DONE))
    wanted = [m for m in QUANTITIES if len(rows_of(frames, m, variant=list(DONE)))]
    found = []
    checkpoints = own[["model", "variant", "wiring"]].dropna().drop_duplicates().itertuples(index=False, name=None)
    lengths, floors = trained_steps(frames), {}
    for model, variant, wiring in sorted(
        checkpoints, key=lambda c: (parameters(c[0]), c[0], list(DONE).index(c[1]), order(c[2]))
    ):
        other = baseline(frames, model, variant)
        length, base_length = lengths.get((model, variant, wiring)), lengths.get((model, other, "standard"))
        if wiring == "standard" or (other == variant and length != base_length):
            continue
        base = {"model": model, "wiring": "standard", "variant": other}
        for metric in wanted:
            if metric == LOSS and other != variant:
                continue  # on other data
            row = apart(frames, metric, base | {"wiring": wiring, "variant": variant}, base)
            if row:
                if (model, other, metric) not in floors:
                    floors[model, other, metric] = floor_of(frames, metric, base)
                found.append(Difference(model, variant, wiring, metric, row, floors[model, other, metric]))
    return tuple(found)


@lru_cache(maxsize=4)
def trained_steps(frames: Frames) -> dict[tuple, int]:
    """(model, variant, wiring) -> how many steps it was trained for."""
    rows = pd.concat([curves(frames, stage) for stage in ("pretrain", "adapt")])
    return rows.groupby(["model", "variant", "wiring"])["step"].max().to_dict()
