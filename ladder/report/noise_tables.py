"""The table and the figure of the noise floor."""

from collections.abc import Sequence
from statistics import NormalDist

import pandas as pd

from ladder.report.cells import Cell, Column, Table, missing, words
from ladder.report.drawing import empty_panel, tidy
from ladder.report.frames import Frames
from ladder.report.noise import (
    MEANING,
    ONE_SEED,
    OVER,
    QUANTITIES,
    UNCLEAR,
    WITHIN,
    Difference,
    differences,
    form,
    size_text,
    widest,
)
from ladder.report.quality import DONE, label
from ladder.report.style import INK, listing, look, signed_loss
from ladder.report.svg import Figure, Panel

TITLE = "Differences between wirings and the noise floor"
_quantile = NormalDist().inv_cdf
# The difference of two runs is one draw d from a normal distribution around 0. Its standard deviation is in this range
# of |d| with 95 % confidence.
LEAST, MOST = 1 / _quantile(0.5 + 0.975 / 2), 1 / _quantile(0.5 + 0.025 / 2)
TWO_SEEDS = (
    f"A floor from two seeds is a single draw: the standard deviation behind it may be {LEAST:.2f} to {MOST:.0f} times "
    "as large (95 %, normal). It shows that seeds alone do as much as this, not that they do no more: what lies within "
    "it cannot be told from another seed, and what lies over it is not thereby proven to be the wiring's."
)


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
