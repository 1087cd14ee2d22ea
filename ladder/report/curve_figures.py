"""Loss curves of pretraining and of adaptation."""

import pandas as pd

from ladder.report.drawing import empty_panel, end_labels, tidy
from ladder.report.frames import Frames
from ladder.report.quality import DONE, curves, label
from ladder.report.style import INK, listing, look, order, signed_loss
from ladder.report.svg import Figure, Panel
from ladder.wiring import Wiring, table

KEY = ["model", "wiring", "seed"]
METHODS = {"adapted": "-", "distilled": "--", "progressive": ":", "lora": "-.", "annealed": (0, (1, 3))}


def kind(wiring: str) -> str:
    """What sets a wiring apart, from its rows; each kind gets a panel of its own."""
    chosen = Wiring.parse(wiring)
    if chosen.tied:
        return "own shares"
    if chosen.timing_only or table(chosen.name, 2).has("hold"):
        return "shared all-reduces"
    return "late or repeated outputs"


def lasts(rows: pd.DataFrame) -> pd.Series:
    """The last loss of each run, by model, wiring and seed."""
    return rows.sort_values("tokens").groupby(KEY, dropna=False)["loss"].last()


def against_standard(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    """Rows with ``loss`` as the difference to standard's of the same seed and step, of runs of the same length."""
    rows = rows[rows["model"] == model]
    base = rows[rows["wiring"] == "standard"].set_index(["seed", "step"])["loss"]
    if base.empty:
        return rows[:0]
    length = rows.groupby("wiring")["step"].max()
    rows = rows[rows["wiring"].map(length) == length["standard"]]
    aligned = rows.join(base.rename("base"), on=["seed", "step"]).dropna(subset=["base"])
    return aligned.assign(loss=aligned["loss"] - aligned["base"])


def draw_losses(axes, rows: pd.DataFrame, frames: Frames) -> None:
    """Losses against tokens, one line a seed."""
    ends = []
    for (model, wiring), runs in sorted(rows.groupby(["model", "wiring"]), key=lambda g: order(g[0][1])):
        how = look(wiring)
        several = rows["model"].nunique() > 1
        for i, (_, run) in enumerate(runs.groupby("seed", dropna=False)):
            axes.plot(run["tokens"] / 1e3, run["loss"], how.dashes, color=how.colour, linewidth=1.2,
                      marker=how.marker, markersize=3.5, markevery=(i, 3))  # fmt: skip
        last = runs.sort_values("tokens").groupby("seed", dropna=False).last().mean(numeric_only=True)
        name = label(frames, wiring, model=model) + (f", {model}" if several else "")
        ends.append((last["tokens"] / 1e3, last["loss"], how.colour, name))
    axes.set_xlabel("thousand training tokens")
    axes.set_ylabel("validation loss, nats")
    end_labels(axes, ends)


def draw_methods(axes, rows: pd.DataFrame, frames: Frames) -> None:
    """Losses against tokens by wiring and method: the mean over the seeds, and thin lines for each."""
    ends = []
    for (wiring, variant), runs in rows.groupby(["wiring", "variant"]):
        how, dashes = look(wiring), METHODS[variant]
        for _, run in runs.groupby("seed", dropna=False):
            axes.plot(run["tokens"] / 1e3, run["loss"], linestyle=dashes, color=how.colour, linewidth=0.7, alpha=0.5)
        mean = runs.groupby("tokens")["loss"].mean()
        axes.plot(mean.index / 1e3, mean, linestyle=dashes, color=how.colour, marker=how.marker, markersize=4)
        ends.append((mean.index[-1] / 1e3, mean.iloc[-1], how.colour, f"{label(frames, wiring)}, {variant}"))
    axes.set_xlabel("thousand training tokens")
    axes.set_ylabel("chat loss, nats")
    end_labels(axes, ends)


def draw_differences(axes, rows: pd.DataFrame, spread: float, limits: tuple[float, float], frames: Frames) -> None:
    """Differences to standard against tokens: the mean over the seeds, and thin lines for each."""
    axes.axhspan(-spread / 2, spread / 2, color=INK, alpha=0.08, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8, alpha=0.6)
    axes.set_ylim(*limits)
    ends = []
    for wiring, runs in sorted(rows.groupby("wiring"), key=lambda g: order(g[0])):
        how = look(wiring)
        for _, run in runs.groupby("seed", dropna=False):
            axes.plot(run["tokens"] / 1e3, run["loss"], color=how.colour, linewidth=0.7, alpha=0.5)
        mean = runs.groupby("tokens")["loss"].mean()
        axes.plot(mean.index / 1e3, mean, how.dashes, color=how.colour, marker=how.marker, markersize=4)
        ends.append((mean.index[-1] / 1e3, mean.iloc[-1], how.colour, label(frames, wiring)))
    axes.set_xlabel("thousand training tokens")
    axes.set_ylabel("validation loss − standard, nats")
    end_labels(axes, ends)


def panels(frames: Frames, name: str, rows: pd.DataFrame, model: str | None) -> list[Panel]:
    """Losses of what stands alone, then differences to standard of the same model, kind by kind."""
    later = rows[rows["tokens"] > 0]
    others = against_standard(later, model)
    others = others[others["wiring"] != "standard"]
    shown = set(others["wiring"])
    plain = later[(later["model"] != model) | ~later["wiring"].isin(shown)]
    told = lasts(plain).groupby(["model", "wiring"]).mean()
    told = listing(f"{label(frames, w, model=m)} ({m}) {v:.3f}" for (m, w), v in told.items())
    alt = f"Validation loss against training tokens, one line a seed; at the end: {told} nats."
    found = [Panel(name, alt, lambda axes: draw_losses(axes, plain, frames))]
    if others.empty:
        return found
    base = lasts(rows[(rows["model"] == model) & (rows["wiring"] == "standard")])
    spread = base.max() - base.min()
    reach = others.loc[others["tokens"] >= others["tokens"].max() / 4, "loss"].abs().max() * 1.15
    final = lasts(others).groupby("wiring").mean()
    for number, group in enumerate(dict.fromkeys(map(kind, sorted(shown, key=order)))):
        part = others[others["wiring"].map(kind) == group]
        told = [f"{label(frames, w)} {signed_loss(final[w])}" for w in sorted(set(part["wiring"]), key=order)]
        alt = f"Validation loss less standard's at the same step ({group}); at the end: {listing(told)} nats."

        def draw(axes, part=part, group=group):
            axes.set_title(group)
            draw_differences(axes, part, spread, (-reach, reach), frames)

        found.append(Panel(f"{name}-{number}", alt, draw))
    return found


READING = (
    "Thin lines: each seed; bold: their mean; band: the spread of standard's seeds. Step 0 is left out of the drawing, "
    "and the first steps after it may lie outside."
)


def loss_curves(frames: Frames) -> Figure:
    rows = curves(frames, "pretrain")
    title = "Loss curves of pretraining"
    if rows.empty:
        text = "This run holds no training curve; the paper publishes none as numbers."
        return Figure("loss_curves", title, text, [empty_panel("loss_curves", text)])
    validation = rows[rows["split"] == "validation"].sort_values("tokens")
    ends = lasts(validation)
    model = min(validation.loc[validation["wiring"] == "standard", "model"], default=None)
    final = lasts(against_standard(validation, model)).groupby("wiring").mean().drop("standard", errors="ignore")
    caption = "At the last step, "
    if len(final):
        caption += (
            f"validation losses of {model} lie between {signed_loss(final.min())} ({label(frames, final.idxmin())}) "
            f"and {signed_loss(final.max())} nats ({label(frames, final.idxmax())}) from standard's of the same seed; "
        )
    else:
        means = ends.groupby(["model", "wiring"]).mean().items()
        told = listing(f"{label(frames, w, model=m)} ({m}) {v:.3f}" for (m, w), v in means)
        caption += f"the mean validation losses are: {told} nats; "
    apart = ends.groupby(["model", "wiring"]).agg(lambda v: v.max() - v.min()).max()
    caption += f"the seeds of one wiring differ by up to {apart:.3f} nats. " + (READING if len(final) else "")
    skipped = set(validation[validation["model"] == model]["wiring"]) - {*final.index, "standard"}
    if skipped and len(final):
        told = listing(label(frames, w) for w in sorted(skipped, key=order))
        caption += f" {told}: trained for another number of steps."
    return Figure(
        "loss_curves", title, caption, panels(frames, "loss_curves", validation, model), tidy(rows.to_dict("records"))
    )


def adaptation_curves(frames: Frames) -> Figure:
    rows = curves(frames, "adapt")
    title = "Loss curves of adaptation"
    if rows.empty:
        text = "This run holds no adaptation curve; the paper publishes none as numbers."
        return Figure("adaptation_curves", title, text, [empty_panel("adaptation_curves", text)])
    validation = rows[rows["split"] == "validation"].sort_values("tokens")
    runs = validation.groupby(["wiring", "variant", "seed"], dropna=False)["loss"]
    start, end = (losses.groupby(["wiring", "variant"]).mean() for losses in (runs.first(), runs.last()))
    pairs = sorted(start.index, key=lambda pair: (order(pair[0]), list(DONE).index(pair[1])))
    names = {(w, v): label(frames, w) + (f" {DONE[v]}" if v != "adapted" else "") for w, v in pairs}
    told = [f"{names[pair]} {start[pair]:.3f} to {end[pair]:.3f}" for pair in pairs]
    caption = f"Validation loss on chat data, first to last step: {'; '.join(told)} nats. {READING}"
    finetuned = validation[validation["variant"] == "adapted"]
    drawn = panels(frames, "adaptation_curves", finetuned, validation["model"].iloc[0]) if len(finetuned) else []
    other = validation[validation["wiring"].isin(validation.loc[validation["variant"] != "adapted", "wiring"])]
    if len(other):
        ends = [f"{names[pair]} {end[pair]:.3f}" for pair in pairs if pair[0] in set(other["wiring"])]
        alt = f"Validation loss on chat data by method; at the end: {listing(ends)} nats."
        drawn.append(Panel("adaptation_curves-methods", alt, lambda axes: draw_methods(axes, other, frames)))
    return Figure("adaptation_curves", title, caption, drawn, tidy(rows.to_dict("records")))


FIGURES = [loss_curves, adaptation_curves]
