"""Figures of quality."""

import pandas as pd

from ladder.report.adaptation_tables import PAPER_ROWS, rewired
from ladder.report.drawing import empty_panel, legend, tidy
from ladder.report.frames import Frames
from ladder.report.quality import (
    ADAPTED,
    DONE,
    LOSS,
    PERPLEXITY,
    base_model,
    label,
    parameters,
    rewired_share,
    rows_of,
    steps,
    trained,
)
from ladder.report.quality_tables import larger_pair
from ladder.report.style import INK, listing, look, order, percent
from ladder.report.svg import Figure, Panel

STEPS = list(DONE)
MARKERS = {"distilled": "D", "progressive": "P", "lora": "v", "annealed": "^"}  # others have the wiring's


def pretraining(frames: Frames) -> Figure:
    """Perplexity relative to standard: published models, and ours."""
    published = frames.paper("table3_pretraining", metric="Wikitext PPL")
    models = list(dict.fromkeys(published["model"]))
    paper = pd.concat([change(published[published["model"] == m]) for m in models])

    def draw_published(axes):
        for wiring in sorted(paper["wiring"].unique(), key=order):
            part, how = paper[paper["wiring"] == wiring], look(wiring)
            axes.plot(part["value"], [models.index(m) for m in part["model"]], how.marker, color=how.colour,
                      label=how.label)  # fmt: skip
        axes.set_yticks(range(len(models)), models)
        axes.invert_yaxis()
        axes.margins(y=0.5)
        axes.set_xlabel("published Wikitext perplexity − standard's, %")
        legend(axes, 3, columnspacing=0.8, handletextpad=0.1)

    told = [f"{m}: {changes(frames, paper[paper['model'] == m])}" for m in models]
    panels = [
        Panel("pretraining-published", f"Published, against standard. {'. '.join(told)}.", draw_published, (3.7, 1.9))
    ]
    caption = f"Perplexity against standard's. Published, Wikitext per word: {'; '.join(told)}. "
    own = own_changes(frames)
    if own.empty:
        text = "This run evaluated no pretrained model of its own."
        return Figure(
            "pretraining",
            TITLE,
            caption + text,
            [*panels, empty_panel("pretraining-own", text)],
            tidy(paper.to_dict("records")),
        )
    model, wirings = own["model"].iloc[0], sorted(own["wiring"].unique(), key=order)
    base = own[own["wiring"] == "standard"]["value"]

    def draw_own(axes):
        axes.axvspan(base.min(), base.max(), color=INK, alpha=0.08, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
        for i, wiring in enumerate(wirings):
            values, how = own[own["wiring"] == wiring]["value"], look(wiring)
            axes.plot(values, [i] * len(values), how.marker, color=how.colour, mfc="none", markersize=5)
            axes.plot([values.mean()] * 2, [i - 0.3, i + 0.3], color=how.colour, linewidth=2.5)
        axes.set_yticks(range(len(wirings)), [label(frames, w, model=model) for w in wirings])
        axes.invert_yaxis()
        axes.set_xlabel(f"{model}: byte perplexity − standard's mean, %")

    words = changes(frames, own)
    panels.append(Panel("pretraining-own", f"This run, {model}: {words}.", draw_own, (3.9, 0.9 + 0.24 * len(wirings))))
    caption += (
        f"Here ({model}, held-out, per byte): {words}. A mark is a seed, a bar the mean; the band is what the seeds of "
        "standard differ by."
    )
    lengths = steps(frames, model)
    skipped = [w for w in lengths if lengths[w] != lengths.get("standard")]
    if skipped:
        caption += f" {listing(label(frames, w, model=model) for w in skipped)}: trained for another number of steps."
    return Figure("pretraining", TITLE, caption, panels, tidy([*paper.to_dict("records"), *own.to_dict("records")]))


TITLE = "Perplexity of wirings trained from scratch"


def change(rows: pd.DataFrame) -> pd.DataFrame:
    """Perplexities as changes in percent against standard's mean."""
    base = rows.loc[rows["wiring"] == "standard", "value"].mean()
    what = {"metric": "perplexity_change", "unit": "percent", "note": "derived: against standard's mean"}
    return rows.assign(value=100 * (rows["value"] / base - 1), **what)


def own_changes(frames: Frames) -> pd.DataFrame:
    """The same of our smallest model, one row a wiring and seed, of runs as long as standard's."""
    model = next((model for model, _ in trained(frames, "pretrain")), None)
    lengths = steps(frames, model)
    alike = [wiring for wiring, length in lengths.items() if length == lengths.get("standard")]
    rows = rows_of(frames, PERPLEXITY, model=model, variant="pretrained", wiring=alike)
    return change(rows) if "standard" in set(rows["wiring"]) else rows[:0]


def changes(frames: Frames, rows: pd.DataFrame) -> str:
    """The mean change of every wiring but standard, in words."""
    means = rows.groupby("wiring")["value"].mean().drop("standard", errors="ignore")
    return listing(f"{label(frames, w)} {percent(means[w] / 100, 1, True)}" for w in sorted(means.index, key=order))


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
    wirings = sorted(rows["wiring"].unique(), key=lambda w: (rewired_share(w, model) or 0, order(w)))
    wirings = [w for w in wirings if set(STEPS[1:]) & set(means[w].index)]

    def draw_own(axes):
        if original is not None:
            axes.axvline(original, color=INK, linewidth=0.8, linestyle="--", alpha=0.8)
        for i, wiring in enumerate(wirings):
            how, done = look(wiring), [v for v in STEPS[1:] if v in means[wiring].index]
            axes.plot([means[wiring, v] for v in done], [i] * len(done), "-", color=how.colour, linewidth=1)
            for variant in done:
                face = how.colour if variant in ADAPTED else "none"
                marker = MARKERS.get(variant, how.marker)
                axes.plot(means[wiring, variant], i, marker, color=how.colour, mfc=face, markersize=6)
                seeds = rows[(rows["wiring"] == wiring) & (rows["variant"] == variant)]["value"]
                axes.plot(seeds, [i + 0.28] * len(seeds), "|", color=how.colour, markersize=5)
        axes.set_yticks(range(len(wirings)), [label(frames, wiring, model=model) for wiring in wirings])
        axes.invert_yaxis()
        axes.margins(y=0.12)
        axes.set_xlabel(f"byte perplexity, held-out (this run: {model})")

    told = []
    for wiring in wirings:
        cells = [f"{DONE[v]} {means[wiring, v]:.3f}" for v in STEPS[1:] if v in means[wiring].index]
        told.append(f"{rewired(frames, wiring, rewired_share(wiring, model), model)}: {listing(cells)}")
    start = f"original {original:.3f}; " if original is not None else ""
    panels.append(
        Panel(
            "adaptation-own",
            f"Byte perplexity of this run: {start}{'; '.join(told)}.",
            draw_own,
            (3.9, 0.9 + 0.3 * len(wirings)),
        )
    )
    caption = (
        f"Published, conversion costs {halves[0] - halves[1]:.1f} points and retraining brings "
        f"{halves[2] - halves[1]:.1f} back. Here, byte perplexity (lower is better): {start}{'; '.join(told)}. "
        "Hollow: converted as is; filled: adapted (finetuned; a diamond: distilled; a plus: rewired layer by layer; "
        "triangles: by a low-rank change, and while the lag came in); ticks: each seed; dashed: the original."
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


FIGURES = [pretraining, adaptation, larger_ladder]
