"""Quality of models trained from scratch: the paper's Tables 3 and 5, each beside what this run found."""

import pandas as pd

from ladder.report.cells import Column, Table, missing, over_seeds, value, words
from ladder.report.frames import Frames, select
from ladder.report.noise import against
from ladder.report.points import is_deeper, points
from ladder.report.quality import (
    CLOZE,
    LOSS,
    NOT_EVALUATED,
    PERPLEXITY,
    label,
    layers,
    parameters,
    rows_of,
    steps,
    trained,
)
from ladder.report.speed_tables import first, paper_rows
from ladder.report.style import (
    listing,
    look,
    loss_text,
    number,
    order,
    percent,
    percent_text,
    share_text,
)
from ladder.report.task_tables import pretraining_tasks

SMALL = "A model of this size, trained this briefly, shows that a wiring trains; it cannot rank wirings at 3B."


def pretraining(frames: Frames) -> Table:
    published = frames.paper("table3_pretraining")
    models = list(dict.fromkeys(published["model"]))
    small = [m for m, _ in trained(frames, "pretrain")][:1]
    own_model = small[0] if small else None
    group = f"this run: {own_model}, measured" if own_model else "this run"
    own_wirings = [w for m, w in trained(frames, "pretrain") if m == own_model]
    lengths = steps(frames, own_model)
    differ = len(set(lengths.values())) > 1
    columns = [Column("Wiring", words=True), *([Column("steps", group)] if differ else [])]
    columns += [Column("validation loss, nats", group), Column("byte perplexity", group), Column("cloze, %", group)]
    columns += [Column("perplexity − standard", group), Column("cloze − standard, points", group)]
    columns += [Column(name, f"published: {m}") for m in models for name in ("accuracy, %", "Wikitext perplexity")]
    rows = []
    for wiring in sorted({*published["wiring"], *own_wirings}, key=order):
        where = {"model": own_model, "wiring": wiring}
        reason = "not trained in this run" if wiring not in own_wirings else NOT_EVALUATED
        length, cells = lengths.get(wiring), []
        if differ:
            cells.append(missing(reason) if length is None else words(f"{length:g}", length))
        cells.append(over_seeds(rows_of(frames, LOSS, stage="pretrain", **where), loss_text, reason, **where))
        where["variant"] = "pretrained"
        cells.append(over_seeds(rows_of(frames, PERPLEXITY, **where), loss_text, reason, **where))
        cells.append(over_seeds(rows_of(frames, CLOZE, **where), share_text, reason, **where))
        if wiring == "standard":
            cells += [missing("standard is what the others are compared with")] * 2
        elif length != lengths.get("standard"):
            cells += [missing("trained for another number of steps than standard")] * 2
        else:
            base = where | {"wiring": "standard"}
            cells += [against(frames, metric, where, base, reason) for metric in (PERPLEXITY, CLOZE)]
        for model in models:
            for metric in ("Average", "Wikitext PPL"):
                row = first(select(published, model=model, wiring=wiring, metric=metric))
                cells.append(value(row, percent_text, "the paper has no such row"))
        rows.append([words(label(frames, wiring, model=own_model)), *cells])
    notes = [SMALL] if own_model else []
    notes += [
        "Brackets: lowest and highest seed; for differences the 95 % interval over seeds and questions or documents, "
        "paired by both. over, unclear, within: against the noise floor, see there."
    ]
    return Table(
        "pretraining",
        "Pretraining from scratch (the paper's Table 3)",
        pretraining_caption(frames, published, own_model),
        columns,
        rows,
        notes,
    )


def pretraining_caption(frames: Frames, published: pd.DataFrame, model: str | None) -> str:
    perplexity = published[published["metric"] == "Wikitext PPL"].set_index(["model", "wiring"])["value"]
    parts = [
        f"{percent(perplexity[m, 'ladder'] / perplexity[m, 'standard'] - 1, 1, signed=True)} at {m}"
        for m in dict.fromkeys(published["model"])
    ]
    caption = f"Published, ladder's perplexity differs from standard's by {listing(parts)}. "
    if model is None:
        return caption + "This run trained no model of its own."
    means = rows_of(frames, LOSS, stage="pretrain", model=model).groupby("wiring")["value"]
    if "standard" not in means.groups:
        return caption
    base, lengths = means.mean()["standard"], steps(frames, model)
    own = [
        f"{label(frames, w, model=model)} {percent(means.mean()[w] / base - 1, 1, signed=True)}"
        for w in sorted(means.groups, key=order)
        if w != "standard" and lengths.get(w) == lengths.get("standard")
    ]
    spread = (means.max() - means.min()).max()
    seeds = rows_of(frames, LOSS, stage="pretrain", model=model)["seed"].nunique()
    caption += f"Here ({model}), validation loss against standard's {base:.3f} nats: {listing(own)}"
    return caption + (
        f"; the {seeds} seeds of a wiring lie up to {spread:.3f} nats apart." if seeds > 1 else "; one seed."
    )


def larger_ladder(frames: Frames) -> Table:
    published = frames.paper("table5_larger_ladder")
    columns = [Column("Model", words=True), Column("Wiring", words=True), Column("Origin", words=True)]
    columns += [Column("layers"), Column("parameters, millions"), Column("accuracy, %"), Column("perplexity")]
    columns += [Column("validation loss, nats"), Column("tokens/s")]
    depth = {"1.2B": 40, "1.5B": 52, "3.5B": 40, "4.5B": 52}
    rows = []
    for (model, wiring), group in published.groupby(["model", "wiring"], sort=False):
        cells = [
            words(f"{depth[model]}", depth[model]),
            words(f"{1000 * float(model[:-1]):,.0f}", 1000 * float(model[:-1])),
        ]
        for metric in ("Average accuracy", "Wikitext PPL"):
            cells.append(value(first(group[group["metric"] == metric]), percent_text, "not published"))
        cells.append(missing("not published"))
        cells.append(value(first(group[group["metric"] == "tokens/s"]), number, "not published"))
        rows.append([words(model), words(wiring), words("published"), *cells])
    pair = larger_pair(frames)
    for model, wiring in pair:
        where = {"model": model, "wiring": wiring}
        cells = [
            words(f"{layers(model)}", layers(model)),
            words(f"{parameters(model) / 1e6:.2f}", parameters(model) / 1e6),
        ]
        variant = where | {"variant": "pretrained"}
        cells.append(over_seeds(rows_of(frames, CLOZE, **variant), share_text, NOT_EVALUATED))
        cells.append(over_seeds(rows_of(frames, PERPLEXITY, **variant), loss_text, NOT_EVALUATED))
        cells.append(over_seeds(rows_of(frames, LOSS, stage="pretrain", **where), loss_text, NOT_EVALUATED))
        timed = [p for p in points(frames) if p.key["model"] == model]
        speed = timed[0].row("tokens_per_second", wiring, "both") if timed else None
        reason = "this shape was not timed: its modules take less time than launching an all-reduce"
        cells.append(value(speed, number, reason, metric="tokens_per_second", **where))
        rows.append([words(model), words(look(wiring).label), words("measured"), *cells])
    if not pair:
        reason = "this run trained no larger ladder"
        rows.append([words("this run"), words("any"), words("measured"), *(missing(reason) for _ in columns[3:])])
    notes = [
        "Accuracy and perplexity: the paper's are its six tasks and Wikitext per word, ours cloze and the held-out "
        "documents per byte."
    ]
    title = "A larger ladder at equal speed (the paper's Table 5)"
    return Table("larger_ladder", title, larger_caption(frames, published, pair), columns, rows, notes)


def larger_pair(frames: Frames) -> list[tuple[str, str]]:
    """The smaller standard model and the deeper ladder that this run trained, or nothing."""
    runs = trained(frames, "pretrain")
    smaller = [run for run in runs if run[1] == "standard"]
    found = [[small, run] for small in smaller for run in runs if run[1] == "ladder" and is_deeper(run[0], small[0])]
    return found[0] if found else []


def larger_caption(frames: Frames, published: pd.DataFrame, pair: list[tuple[str, str]]) -> str:
    cell = published.set_index(["model", "metric"])["value"]
    faster = cell["1.5B", "tokens/s"] / cell["1.2B", "tokens/s"] - 1
    caption = (
        f"Published, a ladder with 30 % more layers is still {percent(faster)} faster than standard and has the lower "
        f"perplexity: {cell['1.5B', 'Wikitext PPL']:.2f} against {cell['1.2B', 'Wikitext PPL']:.2f}. "
    )
    if not pair:
        return caption
    loss = [rows_of(frames, LOSS, stage="pretrain", model=m, wiring=w)["value"].mean() for m, w in pair]
    if any(map(pd.isna, loss)):
        return caption
    ratio = layers(pair[1][0]) / layers(pair[0][0])
    word = "lower" if loss[1] < loss[0] else "higher"
    return caption + (
        f"Here the larger ladder's validation loss is {abs(loss[1] - loss[0]):.3f} nats {word} than standard's. Equal "
        f"speed needs a speed-up of {ratio:.2f}× per layer; the overlap table says at which ρ ladder reaches it."
    )


def others(frames: Frames) -> Table:
    """What other papers publish about quality, to compare with."""
    paper = frames.paper("others_quality")
    columns = [Column("Source", words=True), Column("Model", words=True), Column("Converted", words=True)]
    columns += [Column("value, %"), Column("Quantity", words=True), Column("How", words=True)]
    columns += [Column("Origin", words=True)]
    rows = []
    for row in paper_rows(paper):
        what = [words(row[key]) for key in ("source", "model", "wiring")]
        how = [words(row[key]) for key in ("metric", "note", "origin")]
        rows.append([*what, value(row, lambda share: f"{share:g}", ""), *how])
    scores = paper[paper["metric"] == "Average accuracy"]
    original = scores[scores["note"] == "as trained"].set_index("model")["value"]
    cost = (scores["model"].map(original) - scores["value"])[scores["note"] != "as trained"]
    parts = [
        f"{cost[i]:.1f} points ({scores['model'][i]}, {scores['wiring'][i]}, {scores['note'][i]})"
        for i in (cost.idxmin(), cost.idxmax())
    ]
    caption = f"Converting a trained model to ladder-like inputs is published to cost between {listing(parts)}."
    notes = ["No source gives seeds or error bars."]
    return Table("others_quality", "What others report about quality", caption, columns, rows, notes)


TABLES = [pretraining, others, pretraining_tasks, larger_ladder]
