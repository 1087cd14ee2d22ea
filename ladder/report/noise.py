"""The noise floor: how far two standard models lie apart that differ in their seed alone, beside every comparison of
wirings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist

import pandas as pd

from ladder.report.cells import Cell, Column, Table, missing, words
from ladder.report.drawing import empty_panel, tidy
from ladder.report.frames import Frames
from ladder.report.quality import (
    CLOZE,
    DONE,
    LOSS,
    PERPLEXITY,
    curves,
    difference,
    label,
    parameters,
    pooled,
    rows_of,
    seeds,
)
from ladder.report.style import INK, listing, look, loss_text, order, share_text, signed, signed_loss
from ladder.report.svg import Figure, Panel
from ladder.report.task_tables import ADAPTATION_TASKS, PRETRAINING_TASKS

OVER, UNCLEAR, WITHIN, UNKNOWN = "over", "unclear", "within", "no floor"
TITLE = "Differences between wirings and the noise floor"
ONE_SEED = "standard has one seed only"
# (metric, task) -> its name
QUANTITIES = {LOSS: "validation loss, nats", PERPLEXITY: "byte perplexity", CLOZE: "cloze, points"}
for _name, (_task, _metric) in {**PRETRAINING_TASKS, **ADAPTATION_TASKS}.items():
    QUANTITIES[_metric, _task] = _name if "perplexity" in _metric else f"{_name}, points"
_quantile = NormalDist().inv_cdf
# The difference of two runs is one draw d from a normal distribution around 0. Its standard deviation is in this range
# of |d| with 95 % confidence.
LEAST, MOST = 1 / _quantile(0.5 + 0.975 / 2), 1 / _quantile(0.5 + 0.025 / 2)
TWO_SEEDS = (
    f"A floor from two seeds is a single draw: the standard deviation behind it may be {LEAST:.2f} to {MOST:.0f} times "
    "as large (95 %, normal). It shows that seeds alone do as much as this, not that they do no more: what lies within "
    "it cannot be told from another seed, and what lies over it is not thereby proven to be the wiring's."
)
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


def groups(found: Sequence[Difference]) -> dict[tuple, list[Difference]]:
    """By model, variant and quantity."""
    made: dict[tuple, list[Difference]] = {}
    for one in found:
        made.setdefault((one.model, one.variant, one.metric), []).append(one)
    return made


def noise_floor(frames: Frames) -> Table:
    columns = [Column(name, words=True) for name in ("Model", "Checkpoint", "Quantity", "Origin")]
    columns += [Column("pairs of seeds"), Column("noise floor"), Column("other wirings")]
    verdicts = {OVER: "over the floor", UNCLEAR: "unclear", WITHIN: "within the floor"}
    columns += [Column(name, "difference to standard", words=True) for name in verdicts.values()]
    found = differences(frames)
    rows = []
    for (model, variant, metric), group in groups(found).items():
        floor, write, size = group[0].floor, form(metric), size_text(metric)
        seen = widest(frames, group)
        others = missing("no wiring has two seeds") if seen is None else words(size(seen), seen)
        cells = [words(model), words(DONE[variant]), words(QUANTITIES[metric]), words(group[0].row["origin"])]
        if floor is None:
            told = [f"{label(frames, d.wiring, model=model)} {write(d.row['value'])}" for d in group]
            rest = [missing(f"{ONE_SEED}: {listing(told)}")] * 3
            rows.append([*cells, words("0", 0), missing(ONE_SEED), others, *rest])
            continue
        cells.append(words(f"{len(floor.rows)}", len(floor.rows)))
        cells += [Cell(size(floor.value), floor.value, floor.rows), others]
        for name in verdicts:
            members = [d for d in group if d.verdict == name]
            text = listing(f"{label(frames, d.wiring, model=model)} {write(d.row['value'])}" for d in members)
            behind = tuple(d.row | {"note": f"{d.row['note']}; {name}"} for d in members)
            cells.append(Cell(text, len(members), behind) if members else missing("none"))
        rows.append(cells)
    if not rows:
        rows.append([words("this run"), *(missing(nothing(frames)) for _ in columns[1:])])
    return Table("noise_floor", TITLE, caption(frames, found), columns, rows, [MEANING, TWO_SEEDS])


def nothing(frames: Frames) -> str:
    trained = frames.own(stage=["pretrain", "evaluate"], wiring="standard")
    return "no wiring stands beside a standard model of the same length" if len(trained) else "no model was trained"


def caption(frames: Frames, found: Sequence[Difference]) -> str:
    if not found:
        return f"Nothing to compare: {nothing(frames)}."
    measured = [d for d in found if d.floor]
    if not measured:
        return f"No noise floor: {ONE_SEED}, so no difference can be told from a seed's."
    counts = {name: sum(d.verdict == name for d in measured) for name in (OVER, UNCLEAR, WITHIN)}
    text = f"Of {len(measured)} differences to standard, {counts[OVER]} are over the noise floor of their quantity, "
    text += f"{counts[UNCLEAR]} are larger but unclear, {counts[WITHIN]} within it. "
    for variant in dict.fromkeys(d.variant for d in measured):
        over: dict[str, list[str]] = {}
        for d in (d for d in measured if d.variant == variant and d.verdict == OVER):
            over.setdefault(label(frames, d.wiring, model=d.model), []).append(QUANTITIES[d.metric].partition(",")[0])
        names = [f"{wiring} ({listing(quantities)})" for wiring, quantities in over.items()]
        what = "trained from scratch" if variant == "pretrained" else DONE[variant]
        text += f"{what.capitalize()}: {listing(names) or 'none'} over it. "
    counts = sorted({len(d.floor.rows) for d in measured})
    text += f"The floor is from {' or '.join(map(str, counts))} pair{'' if counts == [1] else 's'} of standard seeds"
    text += ", so a single draw of it. " if counts == [1] else ". "
    return text + low_floors(frames, measured)


def low_floors(frames: Frames, found: list[Difference]) -> str:
    """Where seeds of other wirings lie further apart than the floor, and how many differences stand only on that."""
    made = groups(found).values()
    low = [group for group in made if (widest(frames, group) or 0) > group[0].floor.value]
    over = [d for group in low for d in group if d.verdict == OVER and abs(d.row["value"]) <= widest(frames, group)]
    if not low:
        return "No other wiring's seeds lie further apart."
    return (
        f"In {len(low)} of {len(made)} quantities the seeds of another wiring lie further apart than that, and "
        f"{len(over)} of the differences over the floor are not larger than this wider one."
    )


def floor_figure(frames: Frames) -> Figure:
    """Differences with the floor as a band. Left out: what was converted and not trained after, whose drop has a figure
    of its own."""
    found = [d for d in differences(frames) if d.variant != "converted"]
    if not found:
        text = f"Nothing to compare: {nothing(frames)}."
        return Figure("noise_floor", TITLE, text, [empty_panel("noise_floor", text)])
    panels, by_panel = [], {}
    for one in found:
        by_panel.setdefault((one.model, one.variant == "pretrained", one.metric), []).append(one)
    for number, ((model, scratch, metric), group) in enumerate(by_panel.items()):
        names = [
            label(frames, d.wiring, model=model) + ("" if d.variant in ("pretrained", "adapted") else f", {d.variant}")
            for d in group
        ]
        how = "trained from scratch" if scratch else "adapted"
        write = form(metric)
        told = listing(f"{name} {write(d.row['value'])} ({d.verdict})" for name, d in zip(names, group, strict=True))
        alt = f"{model}, {how}, {QUANTITIES[metric]}, against standard: {told}."
        scale = 1 if write is signed_loss else 100

        def draw(axes, group=group, names=names, title=f"{model}, {how}", metric=metric, scale=scale):
            axes.set_title(title)
            axes.set_xlabel(f"{QUANTITIES[metric]}: difference to standard")
            draw_differences(axes, group, names, scale)

        panels.append(Panel(f"noise_floor-{number}", alt, draw, (3.9, 0.9 + 0.24 * len(group))))
    text = "Bars: 95 % interval over documents and seeds (a loss has none); band: the noise floor, twice the largest "
    text += "difference between two standard seeds wide. " + caption(frames, found)
    rows = [d.row | {"note": f"{d.row['note']}; {d.verdict}"} for d in found]
    floors = {id(d.floor): d.floor for d in found if d.floor}
    rows += [row for floor in floors.values() for row in floor.rows]
    return Figure("noise_floor", TITLE, text, panels, tidy(rows).drop_duplicates())


def draw_differences(axes, group: list[Difference], names: list[str], scale: float) -> None:
    axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
    for i, one in enumerate(group):
        how, row = look(one.wiring), one.row
        if one.floor:
            axes.barh(i, 2 * scale * one.floor.value, left=-scale * one.floor.value, height=1, color=INK, alpha=0.08)
        if pd.notna(row["low"]):
            axes.plot([scale * row["low"], scale * row["high"]], [i, i], "-", color=how.colour, linewidth=1.2)
        axes.plot(scale * row["value"], i, how.marker, color=how.colour)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


TABLES = [noise_floor]
FIGURES = [floor_figure]
