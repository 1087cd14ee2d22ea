"""The paper's Table 4 beside ours: a trained model converted as it is, and finetuned after."""

import pandas as pd

from ladder.report.cells import Column, Table, missing, over_seeds, value, words
from ladder.report.frames import Frames
from ladder.report.quality import (
    ADAPTED,
    CLOZE,
    DONE,
    LOSS,
    NOT_EVALUATED,
    PERPLEXITY,
    base_model,
    degree,
    rewired_share,
    rows_of,
    share_words,
)
from ladder.report.speed_tables import first
from ladder.report.style import loss_text, order, percent, percent_text, share_text, signed_number
from ladder.report.task_tables import adaptation_tasks, version_b
from ladder.wiring import split_name

# What was done to a checkpoint: (words, the paper's row of Table 4, by share of rewired layers).
PAPER_ROWS = {
    ("pretrained", 0.0): "Llama-3.1-8B-Instruct",
    ("converted", 0.5): "Hybrid-Ladder-8B-16L-zeroshot",
    ("adapted", 0.5): "Hybrid-Ladder-8B-16L-retrained",
    ("adapted", 0.625): "Hybrid-Ladder-8B-20L-retrained",
}


def adaptation(frames: Frames) -> Table:
    published = frames.paper("table4_adaptation")
    model = base_model(frames)
    shown = ["Average", "MMLU", "GSM8K", "HumanEval+"]
    own_group = f"this run: {model}, measured" if model else "this run"
    columns = [Column("Rewired", words=True), Column("Checkpoint", words=True)]
    columns += [Column(f"{task}, %", "published: Llama-3.1-8B-Instruct") for task in shown]
    columns += [Column("byte perplexity", own_group), Column("against the original, %", own_group)]
    columns += [Column("cloze, %", own_group), Column("chat loss, nats", own_group)]
    rows = []
    for variant, wiring, fraction in checkpoints(frames, model):
        ladders = split_name(wiring)[0] in ("standard", "ladder")
        paper = PAPER_ROWS.get((variant, nearest(fraction))) if ladders else None
        cells = []
        for task in shown:
            row = first(published[(published["model"] == paper) & (published["metric"] == task)]) if paper else None
            cells.append(value(row, percent_text, "the paper has no such row"))
        where = {"model": model, "wiring": wiring, "variant": variant}
        reason = "not trained in this run" if model is None else NOT_EVALUATED
        own = rows_of(frames, PERPLEXITY, **where)
        cells.append(over_seeds(own, loss_text, reason))
        cells.append(over_seeds(relative(frames, own, model), signed_number, reason))
        cells.append(over_seeds(rows_of(frames, CLOZE, **where), share_text, reason))
        chat = rows_of(frames, LOSS, stage="adapt", **where)
        if variant in ADAPTED:
            cells.append(over_seeds(chat, loss_text, reason))
        else:
            cells.append(missing("chat loss is taken while adapting" if model else reason))
        rows.append([words(rewired(frames, wiring, fraction, model), fraction), words(DONE[variant]), *cells])
    notes = version_b(frames)
    notes += [
        "Brackets: lowest and highest seed. 'Against the original': of the same seed; adapted checkpoints against "
        "the original adapted the same way, and that one against itself before. Those distilled or "
        "rewired layer by layer: against the original as it was, in which distillation has nothing to change."
    ]
    title = "Conversion and adaptation (the paper's Table 4)"
    return Table("adaptation", title, adaptation_caption(frames, published, model), columns, rows, notes)


def rewired(frames: Frames, wiring: str, fraction: float | None, model: str | None) -> str:
    """Which wiring stands in how many layers, in words."""
    return share_words(fraction, wiring, degree(frames, wiring, model=model, variant=list(DONE)[1:]))


def checkpoints(frames: Frames, model: str | None) -> list[tuple[str, str, float]]:
    """(variant, wiring, share of rewired layers): the original, the original adapted, then each conversion."""
    if model is None:
        return [(v, f"ladder@{32 - f * 32:.0f}-31" if f else "standard", f) for v, f in PAPER_ROWS]
    found = frames.own(stage=["adapt", "evaluate"], model=model, variant=list(DONE)[1:])[
        ["variant", "wiring"]
    ].drop_duplicates()
    pairs = {("pretrained", "standard"), *found.itertuples(index=False, name=None)}
    rows = [(v, w, rewired_share(w, model)) for v, w in pairs]
    steps = list(DONE)
    return sorted(rows, key=lambda r: (r[2] if r[2] is not None else 0.99, order(r[1]), steps.index(r[0])))


def nearest(fraction: float | None) -> float | None:
    """0.6 of 10 layers stands for the paper's 20 of 32."""
    return None if fraction is None else min((0.0, 0.5, 0.625, 1.0), key=lambda known: abs(known - fraction))


def relative(frames: Frames, rows: pd.DataFrame, model: str | None) -> pd.DataFrame:
    """Rows of perplexity as a change in percent against the original of the same seed.

    A rewired checkpoint that was adapted is held against the original adapted the same way, everything else against
    the original as it was pretrained: so that what finetuning does to any model is not charged to the wiring.
    """
    found = []
    for (wiring, variant), part in rows.groupby(["wiring", "variant"]):
        other = "adapted" if variant == "adapted" and wiring != "standard" else "pretrained"
        original = rows_of(frames, PERPLEXITY, model=model, wiring="standard", variant=other)
        base = original.groupby("seed", dropna=False)["value"].last()
        here = part[part["seed"].isin(base.index)]
        change = 100 * (here["value"] / here["seed"].map(base) - 1)
        what = {"metric": "byte_perplexity_change", "unit": "percent", "low": None, "high": None, "stderr": None}
        found.append(here.assign(value=change, **what, note=f"derived: against standard, {other}, of the same seed"))
    return pd.concat(found) if found else rows


def adaptation_caption(frames: Frames, published: pd.DataFrame, model: str | None) -> str:
    average = published[published["metric"] == "Average"].set_index("model")["value"]
    steps = [average[PAPER_ROWS[key]] for key in (("pretrained", 0.0), ("converted", 0.5), ("adapted", 0.5))]
    caption = (
        f"Published, converting half the layers takes the average from {steps[0]:.2f} % to {steps[1]:.2f} %, and "
        f"retraining back to {steps[2]:.2f} %. "
    )
    if model is None:
        return caption + "This run converted no model of its own."
    parts = []
    wirings = frames.own(stage="evaluate", variant="converted", model=model)["wiring"].dropna().unique()
    for wiring in sorted(wirings, key=order):
        change = {}
        for variant in ("converted", "adapted"):
            rows = rows_of(frames, PERPLEXITY, model=model, wiring=wiring, variant=variant)
            change[variant] = relative(frames, rows, model)["value"].mean()
        if not any(map(pd.isna, change.values())):
            text = rewired(frames, wiring, rewired_share(wiring, model), model)
            parts.append(
                f"{text}: {percent(change['converted'] / 100, 1, True)} when converted, "
                f"{percent(change['adapted'] / 100, 1, True)} when adapted"
            )
    return caption + (
        f"Here, byte perplexity against the original treated the same way: {'; '.join(parts)}." if parts else ""
    )


TABLES = [adaptation, adaptation_tasks]
