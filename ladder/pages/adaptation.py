"""Sensitivity and adaptation: which layers are free to convert, what conversion costs, and what training brings back. A
real model stands before the toys of a profile."""

import pandas as pd

from ladder.looks import look
from ladder.metrics import text
from ladder.model.chosen import FREE
from ladder.pages.charts import Chart, Layer, Tables
from ladder.pages.page import Page
from ladder.pages.quality import label, named
from ladder.pages.tables import Table
from ladder.pages.words import finding, listing, percent, span

METHODS = {"converted": "converted as is", "adapted": "finetuned", "distilled": "distilled"}
METHODS |= {"progressive": "rewired layer by layer", "lora": "distilled into a low-rank change"}
METHODS |= {"annealed": "distilled while the lag came in"}
GAPS = {"drop": "converted as is", "left": "", "left_alike": ", original too"}
CONVERSIONS = 'study != "published" and variant != "pretrained" and metric == "byte_perplexity"'


def scans(tables: Tables) -> pd.DataFrame:
    rows = tables["sensitivity"]
    return rows.query('converted > 0 and choice == "the last"')


def choices(tables: Tables) -> pd.DataFrame:
    """Scans from the last layer beside sets that were chosen, of what has both."""
    rows = tables["sensitivity"].query("converted > 0")
    rows = rows.assign(panel=rows["model"] + ", " + rows["wiring"].map(lambda w: look(w).label)) if len(rows) else rows
    chosen = set(rows.query('choice == "chosen"')["panel"]) if len(rows) else ()
    return rows[rows["panel"].isin(chosen)] if len(rows) else rows


def choosing(tables: Tables) -> str:
    rows = choices(tables)
    half = rows[rows["converted"] == (rows["layers_of_model"] // 2)].set_index(["panel", "choice"])["loss_change"]
    panel = next((name for name, _ in half.index if name.endswith(", ladder")), half.index[0][0])
    last, chosen = (text("loss_change", half[panel, choice]) for choice in ("the last", "chosen"))
    panel = panel.replace(", ", " as ")
    return f"{panel}: half of the layers cost {chosen} nats if they are chosen one by one, {last} if they are the last"


def free(tables: Tables) -> str:
    rows = tables["sensitivity"]
    told = []
    for model, group in rows.groupby("model", sort=False):
        each = group.drop_duplicates("wiring").to_dict("records")
        names = [f"{row['free_layers']:g} for {label(row)}" for row in each]
        told.append(f"of the {group['layers_of_model'].iloc[0]:g} layers of {model} {listing(names)}")
    return f"Free to convert without training, from the last: {'; '.join(told)}"


def sensitivity_answer(tables: Tables) -> str:
    rows = tables["sensitivity"]
    if rows.empty:
        return "This run scanned no model. The scan takes a standard checkpoint, some text, and no training."
    real = rows[rows["real"] == True]  # noqa: E712
    if finding(choosing, tables, "") and len(real):
        return f"{choosing(tables)}. Which layers are converted matters as much as how many: scan before you train."
    best = (real if len(real) else rows).query('wiring == "ladder"')
    words = ""
    if len(best):
        row = best.iloc[0]
        words = (
            f"Of {row['model']}'s {row['layers_of_model']:g} layers, ladder can take the last {row['free_layers']:g} "
        )
        words += f"before the loss rises by more than {FREE:g} nats. "
    return words + (
        "Late layers bear conversion best. Scan before you train: what is free needs no repair."
        if len(real)
        else "That model is a toy trained for minutes, whose late layers do little; the paper's 8B bears 16 of 32."
    )


SENSITIVITY = Page(
    "sensitivity",
    answer=sensitivity_answer,
    items=(
        Chart("sensitivity", free, f"Bars: two standard errors; up to {FREE:g} nats a conversion counts as free.",
              scans, "converted", "loss_change", panel="model", layers=(Layer("error"), Layer("line"), Layer("point")),
              rule=FREE, hover=("degree", "free", "layers_share"), size=(330, 240)),
        Chart("frontier", choosing, "Chosen: each step adds the layer that costs least, on other text than is "
              "measured here.", choices, "converted", "loss_change", colour="choice", panel="panel", rule=FREE,
              size=(330, 220), layers=(Layer("error"), Layer("line"), Layer("point")), hover=("layers", "free"),
              need="This run chose no layers."),
        Table("sensitivity_table", "Change of the loss by layers converted",
              "Paired by window of text; ends are two standard errors, or the range of several seeds.", "sensitivity",
              ("converted", "choice", "wiring", "model"), ("loss_change",), tail=("free", "layers"), key=3, fold=True),
        Table("single_layers", "Each layer converted on its own", "From scans of single layers.", "single_layers",
              ("layer", "model", "wiring"), ("loss_change",), fold=True,
              need="This run scanned no model."),
    ),
)  # fmt: skip


def steps(tables: Tables) -> pd.DataFrame:
    """Change of byte perplexity of every converted checkpoint against the original treated alike."""
    rows = tables["quality"].query(CONVERSIONS)
    if rows.empty or "change" not in rows:
        return rows[:0]
    rows = rows[rows["wiring"] != "standard"].dropna(subset=["change"])
    rows = rows.assign(done=rows["variant"].map(METHODS), panel=rows["study"] + ": " + rows["model"])
    return named(rows).sort_values(["real", "layers_share"], ascending=[False, True], kind="stable")


def foremost(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one conversion: a real model's before a toy's, this run's before a kept one's, most layers first."""
    rows = rows[rows["wiring"].str.startswith("ladder")]
    rows = rows.sort_values(["real", "layers_share"], ascending=[False, False], na_position="first", kind="stable")
    key = ["study", "model", "wiring"]
    return rows[(rows[key] == rows[key].iloc[0]).all(axis=1)]


def costs(tables: Tables) -> str:
    rows = foremost(steps(tables))
    told = [f"{percent(r['change'] / 100, 1, signed=True)} {r['done']}" for r in rows.to_dict("records")]
    return f"{rows['model'].iloc[0]} as {label(rows.iloc[0])}: perplexity changes by {listing(told)}"


def published(tables: Tables) -> pd.DataFrame:
    rows = tables["quality"].query(
        'file == "table4_adaptation" and task == "Average" and not version.str.startswith("B:")'
    )
    return rows.assign(accuracy=rows["value"], done=rows["variant"].map({"pretrained": "original"} | METHODS),
                       name=rows["model"].str.replace("Hybrid-Ladder-8B-", ""))  # fmt: skip


def published_costs(tables: Tables) -> str:
    cell = published(tables).set_index("model")["value"]
    start, low, back = (cell[name] for name in ("Llama-3.1-8B-Instruct", "Hybrid-Ladder-8B-16L-zeroshot",
                                                 "Hybrid-Ladder-8B-16L-retrained"))  # fmt: skip
    return (
        f"Published for an 8B, half the layers converted take the average from {percent(start, 1)} to "
        f"{percent(low, 1)}, and retraining brings it back to {percent(back, 1)}"
    )


def gaps(tables: Tables) -> pd.DataFrame:
    """Where each conversion lies from its original, as it is and by method, over all seeds."""
    rows = tables["recovery_gaps"]
    if rows.empty:
        return rows
    rows = rows[rows["seed"].isna() & rows["gap"].isin(list(GAPS))]
    rows = rows[~((rows["gap"] == "left_alike") & (rows["variant"] != "adapted"))]
    names = [
        GAPS[g] if g == "drop" else METHODS[v] + GAPS[g] for g, v in zip(rows["gap"], rows["variant"], strict=True)
    ]
    wirings = [look(wiring).label for wiring in rows["wiring"]]
    panel = rows["study"] + ": " + rows["model"] + ", " + pd.Series(wirings, rows.index)
    return rows.assign(name=names, panel=panel).drop_duplicates(["panel", "name"])


def regains(tables: Tables) -> str:
    first = foremost(tables["recovery"].dropna(subset=["regained"]))
    told = [f"{METHODS[r['variant']]} {percent(r['regained'])}" for r in first.to_dict("records")]
    words = f"Of what becoming {label(first.iloc[0])} cost {first['model'].iloc[0]} comes back: {listing(told)}"
    decided = first["decision"].dropna() if "decision" in first else ()
    if len(decided):
        open_ = decided.iloc[0] == "open"
        words += "; seeds cannot separate them" if open_ else f"; distillation is {decided.iloc[0]}"
    return words


def curves(tables: Tables) -> pd.DataFrame:
    """Chat losses while adapting: the mean over the seeds, by wiring and method."""
    rows = tables["curves"]
    if rows.empty:
        return rows
    rows = rows.query('stage == "adapt" and split == "validation" and tokens > 0')
    key = ["study", "model", "wiring", "degree", "variant", "tokens", "real"]
    rows = rows.groupby(key, dropna=False, sort=False)["loss"].mean().reset_index()
    rows["panel"] = rows["study"] + ", " + rows["model"] + ": " + rows["variant"].map(METHODS)
    return rows.sort_values("real", ascending=False, kind="stable")


def chat_losses(tables: Tables) -> str:
    rows = curves(tables)
    if rows.empty:
        return "Loss while adapting"
    first = rows[rows["study"] == rows["study"].iloc[0]].sort_values("tokens")
    last = first.groupby(["wiring", "variant"])["loss"].last()
    return f"After adaptation the losses lie between {span(last, lambda v: f'{v:.3f}')} nats"


def answer(tables: Tables) -> str:
    own = finding(regains, tables, "This run adapted no model of its own")
    return (
        f"{published_costs(tables)}. {own}. Distillation teaches the converted model what the original would say, "
        "finetuning what the conversations say; both saw the same tokens."
    )


PAGE = Page(
    "adaptation",
    answer=answer,
    items=(
        Chart("adaptation", costs, "Byte perplexity against the original treated alike; ends are the lowest and "
              "highest seed.", steps, "change", "name", colour="done", panel="panel",
              layers=(Layer("error"), Layer("point")), ends=False, size=(260, 150),
              hover=("value", "layers_share", "seeds")),
        Chart("adaptation_published", published_costs, "The paper's Table 4: the average of nine tasks.", published,
              "accuracy", "name", colour="done", layers=(Layer("point"),), ends=False, size=(260, 90),
              hover=("model", "source")),
        Table("adaptation_table", "Conversion and adaptation, checkpoint by checkpoint",
              "Change: against the original of the same seed, treated alike if it was finetuned.", "quality",
              ("wiring", "variant", "model", "study"),
              ("layers_share", "value", "change", "difference", "floor", "verdict"),
              where='study != "published" and variant != "pretrained" and metric in ("byte_perplexity", "cloze")',
              tail=("metric", "seeds", "against"), key=3, fold=True),
        Chart("recovery", regains, "Byte perplexity less the original's, with 95 % intervals over documents and seeds.",
              gaps, "difference", "name", colour=None, panel="panel", layers=(Layer("error"), Layer("point")),
              ends=False, size=(230, 110), hover=("p",)),
        Table("recovery_table", "What each method brings back", "Regained: the share of what conversion cost; KL and "
              "chat loss are of the validation conversations.", "recovery", ("wiring", "variant", "model", "study"),
              ("regained", "regained_alike", "drop", "left", "left_alike", "over_finetuned", "decision", "chat_loss",
               "validation_kl"), tail=("tokens", "layers_share"), key=2, fold=True),
        Chart("adaptation_curves", chat_losses, "The mean over the seeds of the loss on held-out text or talk.",
              curves, "tokens", "loss", panel="panel", hover=("degree",)),
        Table("adaptation_tasks", "Task by task: the paper's Table 4 and ours",
              "Another version of the paper has other values for one row; both are in the CSV.", "quality",
              ("model", "wiring", "variant", "study"), ("value",),
              where='(file == "table4_adaptation" and not version.str.startswith("B:", na=False)) or '
                    '(study != "published" and metric in ("accuracy", "word_perplexity"))',
              across="task", key=3, fold=True),
    ),
)  # fmt: skip
