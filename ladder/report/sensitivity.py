"""Which layers are free to convert, for which wiring: the scan of `ladder sensitivity` as a table and a figure."""

from typing import NamedTuple

import pandas as pd

from ladder.model.chosen import FREE
from ladder.report.cells import Cell, Column, Table, interval, missing, over_seeds, words
from ladder.report.drawing import empty_panel, end_labels, tidy
from ladder.report.frames import Frames, select
from ladder.report.style import INK, listing, look, loss_text, order, signed_loss, signed_nats
from ladder.report.svg import Figure, Panel

NOTHING = "This run scanned no model."


class Scan(NamedTuple):
    """One wiring's scan of a model, from the last layer to the first; ``label`` names the wiring."""

    model: str
    wiring: str
    label: str
    rows: pd.DataFrame

    def metric(self, name: str, **where) -> pd.DataFrame:
        return select(self.rows, metric=name, **where)

    @property
    def layers(self) -> int:
        return int(self.rows["converted"].max())


def scans(frames: Frames) -> dict[str, list[Scan]]:
    """The scans of each model."""
    groups = frames.own(stage="sensitivity").groupby(["model", "wiring", "tp"], dropna=False)
    found = []
    for (model, wiring, tp), rows in sorted(groups, key=lambda g: (g[0][0], order(g[0][1]))):
        found.append(Scan(model, wiring, look(wiring, None if pd.isna(tp) else tp).label, rows))
    return {model: [scan for scan in found if scan.model == model] for model in dict.fromkeys(s.model for s in found)}


def cell(rows: pd.DataFrame, form, reason: str) -> Cell:
    """A number with two standard errors to either side; over several seeds, their mean and range."""
    if rows["seed"].nunique(dropna=False) != 1:
        return over_seeds(rows, form, reason)
    row = rows.iloc[-1].to_dict()
    if pd.isna(row["stderr"]) or not row["stderr"]:
        return Cell(form(row["value"]), row["value"], (row,))
    ends = [form(row["value"] + side * row["stderr"]) for side in (-2, 2)]
    return Cell(form(row["value"]) + interval(*ends), row["value"], (row,))


def sensitivity(frames: Frames) -> Table:
    found = [scan for group in scans(frames).values() for scan in group]
    deepest = max((scan.layers for scan in found), default=0)
    columns = [Column("Wiring", words=True), Column("Model", words=True), Column("layers free to convert")]
    columns.append(Column("perplexity of the original"))
    columns += [
        Column(f"{n}", "measured: change of the loss, nats, by layers converted") for n in range(1, deepest + 1)
    ]
    rows = []
    for scan in found:
        cells = [words(scan.label), words(scan.model)]
        cells.append(over_seeds(scan.metric("free_layers"), lambda n: f"{n:g}", ""))
        cells.append(cell(scan.metric("perplexity", converted=0), loss_text, "not recorded"))
        changes = (scan.metric("loss_change", converted=n) for n in range(1, deepest + 1))
        rows.append([*cells, *(cell(change, signed_nats, "the model has fewer layers") for change in changes)])
    if not found:
        rows.append([words("any"), *(missing("this run scanned no model") for _ in columns[1:])])
    limit = f"Free: the loss rises by at most {FREE:g} nats, or two standard errors if that is more, up to here."
    notes = [f"{limit} Brackets: two standard errors to either side, paired by window of text (of seeds: their range)."]
    caption = " ".join(map(free, scans(frames).values())) or f"{NOTHING} It takes a standard checkpoint and some text."
    return Table("sensitivity", "Change of the loss by layers converted", caption, columns, rows, notes)


def free(group: list[Scan]) -> str:
    """How many layers of one model are free, in words."""
    told = listing(f"{scan.metric('free_layers')['value'].mean():g} for {scan.label}" for scan in group)
    return f"Of the {group[0].layers} layers of {group[0].model}, the last so many are free to convert: {told}."


def costs(group: list[Scan]) -> str:
    """What the conversion of all layers of one model costs, in words."""
    depth = group[0].layers
    changes = ((scan, scan.metric("loss_change", converted=depth)["value"].mean()) for scan in group)
    told = listing(f"{signed_loss(change)} nats under {scan.label}" for scan, change in changes)
    return f"With all {depth} layers of {group[0].model} converted, the loss changes by {told}."


def figure(frames: Frames) -> Figure:
    title = "What each layer costs"
    found = scans(frames)
    if not found:
        return Figure("sensitivity", title, NOTHING, [empty_panel("sensitivity", NOTHING)])
    panels = [
        Panel(
            "sensitivity" + (f"-{number}" if number else ""),
            f"{free(group)} {costs(group)}",
            lambda axes, group=group: draw(axes, group),
            (4.8, 3.4),
        )
        for number, group in enumerate(found.values())
    ]
    caption = f"{' '.join(map(costs, found.values()))} Filled marks: free. Bars: two standard errors. Band: "
    caption += f"±{FREE:g} nats; the scale is linear inside it."
    rows = [row for group in found.values() for scan in group for row in scan.metric("loss_change").to_dict("records")]
    return Figure("sensitivity", title, caption, panels, tidy(rows))


def draw(axes, group: list[Scan]) -> None:
    axes.axhspan(-FREE, FREE, color=INK, alpha=0.08, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8, alpha=0.6)
    axes.set_yscale("symlog", linthresh=FREE, linscale=0.7)
    ends = []
    for scan in group:
        how, points = look(scan.wiring), pooled(scan.metric("loss_change"))
        axes.errorbar(points.index, points["value"], yerr=2 * points["stderr"], color=how.colour,
                      linestyle=how.dashes, elinewidth=0.8)  # fmt: skip
        inside = points["value"] <= (2 * points["stderr"]).clip(lower=FREE)
        for part, face in ((points[inside], how.colour), (points[~inside], "none")):
            axes.plot(part.index, part["value"], how.marker, color=how.colour, mfc=face)
        ends.append((points.index[-1], points["value"].iloc[-1], how.colour, scan.label))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -1.2 * FREE), max(high, 2 * FREE))
    axes.yaxis.set_major_formatter(lambda nats, _: f"{nats:g}")
    axes.set_xlabel(f"layers of {group[0].model} converted, from the last")
    axes.set_ylabel("change of the loss, nats")
    end_labels(axes, ends)


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds and its standard error, by the number of layers converted."""
    groups = rows.groupby("converted")
    spread = groups["stderr"].agg(lambda errors: (errors**2).sum() ** 0.5 / len(errors))
    return pd.DataFrame({"value": groups["value"].mean(), "stderr": spread})


TABLES = [sensitivity]
FIGURES = [figure]
