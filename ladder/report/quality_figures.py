"""Figures of quality."""

import pandas as pd

from ladder.report.adaptation_tables import PAPER_ROWS
from ladder.report.drawing import empty_panel, legend, tidy
from ladder.report.frames import Frames
from ladder.report.quality import (
    DONE,
    LOSS,
    PERPLEXITY,
    base_model,
    parameters,
    rewired_share,
    rows_of,
    share_words,
    trained,
)
from ladder.report.quality_tables import larger_pair
from ladder.report.style import listing, look, order, percent
from ladder.report.svg import Figure, Panel

STEPS = list(DONE)


def curves(frames: Frames, stage: str) -> pd.DataFrame:
    """Points of every training run: columns model, wiring, seed, split, step, tokens, loss."""
    found = []
    for record in frames.with_extra("curves"):
        row = record["rows"][0] if record["rows"] else {}
        if row.get("stage") != stage:
            continue
        for split, steps in record["curves"].items():
            for step in steps:
                what = {key: row.get(key) for key in ("model", "wiring", "seed", "origin")}
                found.append(what | {"split": split, **step, "mlflow_run_id": record["provenance"]["mlflow_run_id"]})
    return pd.DataFrame(
        found, columns=None if found else ["model", "wiring", "seed", "split", "step", "tokens", "loss"]
    )


def draw_curves(axes, rows: pd.DataFrame, several_models: bool) -> None:
    """One line a seed, validation loss against tokens."""
    for (model, wiring), runs in sorted(rows.groupby(["model", "wiring"]), key=lambda g: order(g[0][1])):
        how = look(wiring)
        larger = several_models and model.endswith("-larger")
        for i, (_, run) in enumerate(runs.groupby("seed", dropna=False)):
            label = None if i else f"{how.label}{' (' + model + ')' if larger else ''}"
            dashes = "--" if larger else how.dashes  # a larger model of the same wiring
            axes.plot(run["tokens"] / 1e3, run["loss"], dashes, color=how.colour, linewidth=1.2, label=label,
                      marker=how.marker, markersize=3.5, markevery=(i, 3))  # fmt: skip
    axes.set_xlabel("thousand training tokens")
    axes.set_ylabel("validation loss, nats")
    legend(axes, 2 if rows["wiring"].nunique() < 4 else 1)


def last_losses(rows: pd.DataFrame) -> list[str]:
    ends = rows.sort_values("tokens").groupby(["model", "wiring", "seed"], dropna=False)["loss"].last()
    means = ends.groupby(["model", "wiring"]).mean()
    return [f"{look(w).label} ({m}) {v:.3f}" for (m, w), v in means.items()]


def loss_curves(frames: Frames) -> Figure:
    rows = curves(frames, "pretrain")
    title = "Loss curves of pretraining"
    if rows.empty:
        text = "This run holds no training curve; the paper publishes none as numbers."
        return Figure("loss_curves", title, text, [empty_panel("loss_curves", text)])
    validation = rows[rows["split"] == "validation"]
    ends = validation.sort_values("tokens").groupby(["model", "wiring", "seed"], dropna=False)["loss"].last()
    first_losses = validation[validation["tokens"] > 0].sort_values("tokens")
    panels = []
    told = last_losses(validation)
    alt = f"Validation loss against training tokens, one line a seed; at the end: {listing(told)} nats."
    panels.append(Panel("loss_curves", alt, lambda axes: draw_curves(axes, first_losses, True), (4.6, 3.4)))
    spread = ends.groupby(["model", "wiring"]).agg(lambda v: v.max() - v.min()).max()
    caption = (
        f"At the last step the mean validation losses are: {listing(told)} nats; the seeds of one run differ by up "
        f"to {spread:.3f} nats. The loss at step 0 is left out of the drawing."
    )
    return Figure("loss_curves", title, caption, panels, tidy(rows.to_dict("records")))


def adaptation_curves(frames: Frames) -> Figure:
    rows = curves(frames, "adapt")
    title = "Loss curves of adaptation"
    if rows.empty:
        text = "This run holds no adaptation curve; the paper publishes none as numbers."
        return Figure("adaptation_curves", title, text, [empty_panel("adaptation_curves", text)])
    validation = rows[rows["split"] == "validation"].sort_values("tokens")
    start = validation.groupby(["wiring", "seed"], dropna=False)["loss"].first().groupby("wiring").mean()
    end = validation.groupby(["wiring", "seed"], dropna=False)["loss"].last().groupby("wiring").mean()
    told = [f"{look(w).label} {start[w]:.3f} to {end[w]:.3f}" for w in sorted(start.index, key=order)]
    alt = f"Validation loss on chat data while adapting, one line a seed: {'; '.join(told)} nats."
    caption = f"Validation loss on chat data, first to last step: {'; '.join(told)} nats."
    panel = Panel("adaptation_curves", alt, lambda axes: draw_curves(axes, validation, False), (4.6, 3.4))
    return Figure("adaptation_curves", title, caption, [panel], tidy(rows.to_dict("records")))


def pretraining(frames: Frames) -> Figure:
    """Perplexity relative to standard: published models, and ours."""
    published = frames.paper("table3_pretraining", metric="Wikitext PPL")
    sources = [(f"published {m}", published[published["model"] == m]) for m in dict.fromkeys(published["model"])]
    own = [m for m, _ in trained(frames, "pretrain")][:1]
    if own:
        rows = rows_of(frames, PERPLEXITY, model=own[0], variant="pretrained")
        if "standard" in set(rows["wiring"]):
            sources.append((f"this run, {own[0]}", rows))
    relative = []
    for label, rows in sources:
        base = rows.loc[rows["wiring"] == "standard", "value"].mean()
        for row in rows.to_dict("records"):
            relative.append(
                row
                | {
                    "label": label,
                    "value": 100 * (row["value"] / base - 1),
                    "metric": "perplexity_change",
                    "unit": "percent",
                    "note": "derived: against standard's mean",
                }
            )
    frame = pd.DataFrame(relative)
    labels = [label for label, _ in sources]

    def draw(axes):
        wirings = sorted(frame["wiring"].unique(), key=order)
        for i, wiring in enumerate(wirings):
            part = frame[frame["wiring"] == wiring]
            how = look(wiring)
            y = [labels.index(label) + 0.18 * (i - (len(wirings) - 1) / 2) for label in part["label"]]
            axes.plot(part["value"], y, how.marker, color=how.colour, label=how.label, alpha=0.85)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.margins(y=0.25)
        axes.set_xlabel("perplexity against standard's mean, % (one point a seed)")
        legend(axes, 3, columnspacing=0.8, handletextpad=0.1)

    means = frame.groupby(["label", "wiring"])["value"].mean()
    told = [
        f"{label}: "
        + listing(
            f"{look(w).label} {percent(means[label, w] / 100, 1, True)}"
            for w in sorted(means[label].index, key=order)
            if w != "standard"
        )
        for label in labels
    ]
    caption = (
        f"Perplexity against standard's (published: Wikitext, per word; ours: held-out, per byte): {'; '.join(told)}."
        + ("" if len(labels) > 2 else " This run evaluated no pretrained model of its own.")
    )
    panel = Panel("pretraining", f"{'. '.join(told)}.", draw, (4.6, 2.9))
    return Figure("pretraining", "Perplexity of wirings trained from scratch", caption, [panel], tidy(relative))


def adaptation(frames: Frames) -> Figure:
    """The drop and the recovery: published average accuracy, and our perplexity."""
    published = frames.paper("table4_adaptation", metric="Average").set_index("model")["value"]
    halves = [published[PAPER_ROWS[key]] for key in (("pretrained", 0.0), ("converted", 0.5), ("adapted", 0.5))]

    def draw_published(axes):
        how = look("ladder")
        axes.plot(range(3), halves, how.marker + "-", color=how.colour, label="last 16 of 32 layers")
        axes.plot(
            [2], [published[PAPER_ROWS["adapted", 0.625]]], "D", color=how.colour, mfc="none", label="last 20 of 32"
        )
        axes.axhline(halves[0], color=look("standard").colour, linewidth=1, linestyle="--")
        axes.set_xticks(range(3), ["original", "converted", "adapted"])
        axes.set_ylabel("average of nine tasks, %")
        axes.margins(x=0.12)
        axes.set_xlabel("published: Llama-3.1-8B-Instruct")
        legend(axes)

    alt = (
        f"Published average accuracy: original {halves[0]:.2f} %, converted {halves[1]:.2f} %, adapted "
        f"{halves[2]:.2f} % (16 layers) and {published[PAPER_ROWS['adapted', 0.625]]:.2f} % (20 layers)."
    )
    panels = [Panel("adaptation-published", alt, draw_published)]
    model = base_model(frames)
    rows = rows_of(frames, PERPLEXITY, model=model) if model else frames.ours[:0]
    rows = rows[rows["variant"].isin(STEPS)]
    if rows.empty:
        panels.append(empty_panel("adaptation-own", "This run converted no model of its own."))
        caption = (
            f"Published, half the layers converted as is cost {halves[0] - halves[1]:.1f} points; retraining brings "
            f"{halves[2] - halves[1]:.1f} back."
        )
        return Figure("adaptation", "The drop and the recovery", caption, panels)
    means = rows.groupby(["wiring", "variant"])["value"].mean()
    original = means.get(("standard", "pretrained"))
    wirings = sorted(rows["wiring"].unique(), key=lambda w: (rewired_share(w, model) or 0, w))
    wirings = [w for w in wirings if {"converted", "adapted"} & set(means[w].index)]

    def draw_own(axes):
        for wiring in wirings:
            part = rows[(rows["wiring"] == wiring)]
            how = look(wiring)
            steps = ([0] if original is not None else []) + [
                STEPS.index(v) for v in STEPS[1:] if v in means[wiring].index
            ]
            values = ([original] if original is not None else []) + [
                means[wiring, v] for v in STEPS[1:] if v in means[wiring].index
            ]
            axes.plot(steps, values, linestyle=how.dashes, color=how.colour, marker=how.marker, label=how.label)
            for variant in STEPS[1:]:
                seeds = part[part["variant"] == variant]["value"]
                axes.plot([STEPS.index(variant)] * len(seeds), seeds, ".", color=how.colour, alpha=0.5, markersize=4)
        axes.set_xticks(range(3), ["original", "converted", "adapted"])
        axes.set_ylabel("byte perplexity, held-out")
        axes.margins(x=0.12)
        axes.set_xlabel(f"this run: {model} (mean, and each seed)")
        legend(axes, 1)

    told = []
    for wiring in wirings:
        cells = [f"{DONE[v]} {means[wiring, v]:.3f}" for v in STEPS[1:] if v in means[wiring].index]
        told.append(f"{share_words(rewired_share(wiring, model), wiring)}: {listing(cells)}")
    start = f"original {original:.3f}; " if original is not None else ""
    panels.append(
        Panel("adaptation-own", f"Byte perplexity of this run: {start}{'; '.join(told)}.", draw_own, (3.7, 3.3))
    )
    caption = (
        f"Published, conversion costs {halves[0] - halves[1]:.1f} points and retraining brings "
        f"{halves[2] - halves[1]:.1f} back. Here, byte perplexity (lower is better): {start}{'; '.join(told)}."
    )
    return Figure("adaptation", "The drop and the recovery", caption, panels, tidy(rows.to_dict("records")))


def larger_ladder(frames: Frames) -> Figure:
    paper = frames.paper("table5_larger_ladder")
    cell = paper.set_index(["model", "metric"])["value"]
    pairs = [("1.2B", "1.5B"), ("3.5B", "4.5B")]

    def draw(axes):
        for small, large in pairs:
            x = [cell[m, "tokens/s"] for m in (small, large)]
            y = [cell[m, "Wikitext PPL"] for m in (small, large)]
            axes.plot(x, y, "-", color=look("upper_bound").colour, linewidth=1)
            for i, (m, w) in enumerate(((small, "standard"), (large, "ladder"))):
                label = look(w).label if small == "1.2B" else None
                axes.plot(x[i], y[i], look(w).marker, color=look(w).colour, label=label)
                axes.annotate(m, (x[i], y[i]), (0, 7), textcoords="offset points", ha="center", fontsize=8.5)
        axes.margins(0.2)
        axes.set_xlabel("tokens/s (published)")
        axes.set_ylabel("Wikitext perplexity")
        legend(axes)

    told = [
        f"{large} ladder: {cell[large, 'tokens/s']:,.0f} tokens/s, perplexity {cell[large, 'Wikitext PPL']:.2f}, "
        f"against {small} standard: {cell[small, 'tokens/s']:,.0f} and {cell[small, 'Wikitext PPL']:.2f}"
        for small, large in pairs
    ]
    panels = [Panel("larger_ladder-published", f"Published. {'; '.join(told)}.", draw)]
    pair = larger_pair(frames)
    rows = [rows_of(frames, LOSS, stage="pretrain", model=m, wiring=w) for m, w in pair]
    caption = "Published, the larger ladder is both faster and better in perplexity than standard. "
    if not pair or any(r.empty for r in rows):
        panels.append(empty_panel("larger_ladder-own", "This run trained no larger ladder."))
        return Figure(
            "larger_ladder", "A larger ladder at equal speed", caption, panels, paper.dropna(axis=1, how="all")
        )

    def draw_own(axes):
        for (model, wiring), part in zip(pair, rows, strict=True):
            how = look(wiring)
            x = [parameters(model) / 1e6] * len(part)
            axes.plot(x, part["value"], how.marker, color=how.colour, label=f"{how.label} ({model})")
        axes.margins(0.3)
        axes.set_xlabel("parameters, millions (this run; one point a seed)")
        axes.set_ylabel("validation loss, nats")
        legend(axes, 1)

    means = [r["value"].mean() for r in rows]
    own = [f"{look(w).label} ({m}) {mean:.3f}" for (m, w), mean in zip(pair, means, strict=True)]
    panels.append(Panel("larger_ladder-own", f"Validation loss of this run: {listing(own)} nats.", draw_own))
    caption += f"Here, validation loss: {listing(own)} nats; its speed was not timed at this shape."
    data = [*paper.to_dict("records"), *(r for part in rows for r in part.to_dict("records"))]
    return Figure("larger_ladder", "A larger ladder at equal speed", caption, panels, tidy(data))


FIGURES = [loss_curves, pretraining, adaptation, adaptation_curves, larger_ladder]
