"""Quality: wirings trained from scratch, the noise floor, loss curves, equal time, and what others report."""

import pandas as pd

from ladder.looks import look
from ladder.metrics import METRICS, text
from ladder.pages.charts import Chart, Layer, Tables
from ladder.pages.page import Page
from ladder.pages.tables import Table
from ladder.pages.words import listing, percent

ENDS = (pd.Series.idxmin, pd.Series.idxmax)
SCRATCH = 'variant == "pretrained" and study != "published"'
POINTS = (Layer("error"), Layer("point"))
PAIRED = "Paired by seed and by document or question; ends are 95 % intervals over both."
MEANING = (
    "Floor: the largest difference between two standard models that differ in their seed alone. over: larger, and the "
    "interval leaves out 0; unclear: larger, but it holds 0; within: not larger."
)


def label(row) -> str:
    degree = row.get("degree")
    return look(row["wiring"], None if degree is None or pd.isna(degree) else degree).label


def named(rows: pd.DataFrame, column: str = "name") -> pd.DataFrame:
    """With the wiring's label, which holds its number of ranks, as a column for an axis."""
    return rows.assign(**{column: [label(row) for row in rows.to_dict("records")]})


def groups(rows: pd.DataFrame) -> pd.Series:
    """What a panel holds, real models first: "tiny, trained from scratch: byte perplexity"."""
    how = rows["variant"].map({"pretrained": "from scratch"}).fillna("adapted")
    quantity = [
        METRICS[m].title if m != "accuracy" else str(t) for m, t in zip(rows["metric"], rows["task"], strict=True)
    ]
    return pd.Series([f"{m}, {h}: {q}" for m, h, q in zip(rows["model"], how, quantity, strict=True)], rows.index)


def compared(tables: Tables, where: str = SCRATCH) -> pd.DataFrame:
    """Differences to standard, this run's, in the unit that each quantity is shown in."""
    rows = tables["quality"]
    if "difference" not in rows:
        return rows[:0]
    rows = rows.query(where).dropna(subset=["difference"])
    scale = rows["metric"].map(lambda m: METRICS[m].scale)
    for column in ("difference", "difference_low", "difference_high", "floor"):
        rows = rows.assign(**{column: rows[column] * scale})
    return named(rows.assign(panel=groups(rows))).sort_values("real", ascending=False, kind="stable")


def differences(tables: Tables) -> pd.DataFrame:
    return compared(tables, 'study == "this run" and variant != "converted"')


def floors(tables: Tables) -> str:
    rows = differences(tables)
    rows = rows[rows["verdict"] != "no floor"]
    over = int((rows["verdict"] == "over").sum())
    return f"{over} of {len(rows)} differences from standard are clearly larger than those between standard's seeds"


def published(tables: Tables) -> pd.DataFrame:
    return tables["quality"].query('file == "table3_pretraining" and metric == "word_perplexity"')


def published_change(tables: Tables) -> str:
    rows = published(tables).query('wiring == "ladder"')
    told = [f"{percent(c / 100, 1, signed=True)} at {m}" for m, c in zip(rows["model"], rows["change"], strict=True)]
    return f"Published, ladder's perplexity differs from standard's by {listing(told)}"


def seeds(tables: Tables) -> pd.DataFrame:
    rows = tables["seeds"]
    if rows.empty:
        return rows
    rows = rows.query(f'{SCRATCH} and metric == "byte_perplexity"')
    steps = tables["quality"].query(SCRATCH).groupby(["study", "model", "wiring"])["steps"].max()
    base = steps.xs("standard", level="wiring") if "standard" in steps.index.get_level_values("wiring") else pd.Series()
    alike = [
        steps.get((s, m, w)) == base.get((s, m))
        for s, m, w in rows[["study", "model", "wiring"]].itertuples(index=False)
    ]
    rows = rows[alike]
    return named(rows.assign(panel=rows["study"] + ": " + rows["model"])).sort_values(
        "real", ascending=False, kind="stable"
    )


def two_seeds(tables: Tables) -> str:
    rows = compared(tables, f'{SCRATCH} and study == "this run" and metric == "byte_perplexity"')
    over = rows[rows["verdict"] == "over"]
    return (
        f"Of {len(rows)} wirings trained from scratch here, {len(over)} differ from standard in perplexity by more "
        f"than its seeds do; {len(rows[rows['difference'] < 0])} of them are better"
    )


def losses(tables: Tables) -> pd.DataFrame:
    """Validation losses less standard's, the mean over the seeds, after the first steps."""
    rows = tables["curves"]
    if rows.empty:
        return rows
    rows = rows.query('stage == "pretrain" and split == "validation" and tokens > 0').dropna(subset=["loss_difference"])
    key = ["study", "model", "wiring", "degree", "kind", "tokens", "real"]
    rows = rows.groupby(key, dropna=False, sort=False)["loss_difference"].agg(["mean", "min", "max"]).reset_index()
    rows = rows.rename(columns={"mean": "loss_difference", "min": "loss_difference_low", "max": "loss_difference_high"})
    rows = rows[rows["tokens"] >= rows.groupby(["study", "model"])["tokens"].transform("max") / 10]
    rows["panel"] = rows["study"] + ", " + rows["model"] + ": " + rows["kind"]
    return rows.sort_values("real", ascending=False, kind="stable")


def last_losses(tables: Tables) -> str:
    rows = losses(tables).query('study == "this run"')
    if rows.empty:
        return "Validation loss less standard's over training"
    last = rows.sort_values("tokens").groupby("wiring")["loss_difference"].last()
    told = [f"{text('loss_difference', v)} ({look(w).label})" for w, v in ((f(last), last[f(last)]) for f in ENDS)]
    return f"At the last step the wirings lie {' to '.join(told)} nats from standard"


def in_time(tables: Tables) -> pd.DataFrame:
    rows = tables["timed_curves"]
    if rows.empty:
        return rows
    rows = rows.groupby(["model", "wiring", "tokens"], sort=False)[["training_s", "loss"]].mean().reset_index()
    return rows[rows["model"] == rows["model"].iloc[0]]


def at_equal_time(tables: Tables) -> str:
    rows = tables["training_time"]
    rows = (
        rows[rows["seeds"].notna()].dropna(subset=["loss_at_equal_time"]) if "loss_at_equal_time" in rows else rows[:0]
    )
    best = rows.sort_values("loss_at_equal_time")
    told = [f"{look(r['wiring']).label} ({r['model']}) {text('loss_difference', r['loss_at_equal_time'])}"
            for r in best.to_dict("records")]  # fmt: skip
    return f"At equal training time on one device the lowest losses less standard's are {listing(told[:2])} nats"


def table5(tables: Tables) -> str:
    cell = tables["quality"].query('file == "table5_larger_ladder"').set_index(["model", "metric"])["value"]
    faster = cell["1.5B", "tokens_per_second"] / cell["1.2B", "tokens_per_second"] - 1
    return (
        f"Published, a ladder with 30 % more layers is {percent(faster)} faster than standard, at a perplexity of "
        f"{cell['1.5B', 'word_perplexity']:.2f} against {cell['1.2B', 'word_perplexity']:.2f}"
    )


def larger(tables: Tables) -> pd.DataFrame:
    """Table 5, and our deeper ladder beside the standard model that it was timed against."""
    rows, pairs = tables["quality"], tables["equal_speed"]
    names = {n for c in ("smaller", "larger") for n in pairs.query('origin != "published"')[c]}
    ours = [f"{m} {w}" in names for m, w in zip(rows["model"], rows["wiring"], strict=True)]
    own = rows[ours].query('study == "this run" and variant == "pretrained"')
    timed = pairs.query('origin != "published"')
    speeds = [timed.drop_duplicates(n).assign(value=timed[c], name=timed[n])[["value", "name", "origin"]]
              for c, n in (("small_speed", "smaller"), ("large_speed", "larger"))]  # fmt: skip
    timed = pd.concat(speeds).assign(metric="tokens_per_second") if len(names) else pd.DataFrame()
    if len(timed):
        timed[["model", "wiring"]] = timed["name"].str.split(" ", expand=True)
    return pd.concat([rows.query('file == "table5_larger_ladder"'), own, timed])


def costs_elsewhere(tables: Tables) -> str:
    rows = tables["others"].query('name == "Average accuracy"')
    base = rows[rows["note"] == "as trained"].set_index("model")["percent"]
    cost = (rows["model"].map(base) - rows["percent"])[rows["note"] != "as trained"]
    return f"Converting a trained model is published to cost {cost.min():.1f} to {cost.max():.1f} points of accuracy"


def answer(tables: Tables) -> str:
    own = differences(tables)
    start = f"{published_change(tables)}: about as good at 1.2B, a little worse at 3.5B. "
    if own.empty:
        return start + "This run trained no model of its own."
    return start + (
        "Our own models are small and trained for minutes: they show that every wiring trains. "
        f"{floors(tables)}, at so early a stage of training that they rank nothing."
    )


PAGE = Page(
    "quality",
    answer=answer,
    items=(
        Chart("pretraining_published", published_change, "Wikitext perplexity per word against standard's.", published,
              "change", "wiring", panel="model", layers=(Layer("point"),), ends=False, size=(240, 70),
              hover=("value", "source")),
        Chart("pretraining", two_seeds, "A mark is a seed; perplexity per byte of held-out documents against "
              "standard's mean.", seeds, "change", "name", panel="panel",
              layers=(Layer("point", options={"opacity": 0.75}),), ends=False, size=(260, 190),
              hover=("seed", "value")),
        Table("pretraining_table", "Trained from scratch, this run's and those that are kept", f"{PAIRED} {MEANING}",
              "quality", ("wiring", "study", "model", "metric"), ("value", "difference", "floor", "verdict"),
              where=SCRATCH, tail=("seeds", "steps", "hardware"), fold=True),
        Chart("noise_floor", floors, "Bars: 95 % interval over documents and seeds; a loss has none.", differences,
              "difference", "name", panel="panel", colour="verdict", layers=POINTS, ends=False, size=(230, 150),
              colours={"over": "#d55e00", "unclear": "#a67c00", "within": "#8a8a8a", "no floor": "#8a8a8a"},
              hover=("floor", "variant")),
        Table("noise_floor_table", "Every difference to standard, and the noise floor",
              f"{MEANING} Two seeds are one draw: the spread behind a floor may be many times as large.", "quality",
              ("wiring", "model", "variant", "metric", "task"),
              ("difference", "floor", "floor_of_others", "verdict"), where='study == "this run" and difference.notna()',
              tail=("floor_pairs", "seeds", "against"), key=3, fold=True),
        Table("others_quality", costs_elsewhere, "No source gives seeds or error bars.", "others",
              ("model", "converted", "name"), ("percent",), heads={"converted": "Converted"}, tail=("note", "source")),
        Chart("loss_curves", last_losses, "The mean over the seeds of validation loss less standard's; bands: their "
              "range.", losses, "tokens", "loss_difference", panel="panel",
              layers=(Layer("band"), Layer("line"), Layer("point")), rule=0, hover=("degree",)),
        Chart("training_time", at_equal_time, "The mean over the seeds; no wiring communicates on one device.", in_time,
              "training_s", "loss", hover=("tokens",)),
        Table("training_time_table", "Loss at equal tokens and at equal time",
              "Losses are interpolated over the logarithm of the tokens; a rate that falls towards its own end makes "
              "the slower wiring look worse than it need be.", "training_time", ("model", "wiring"),
              ("training_s", "tokens_per_second", "loss", "loss_when_standard_ends", "loss_at_equal_tokens",
               "loss_at_equal_time", "verdict"), where="seeds.notna()", tail=("tokens", "against", "hardware"),
              fold=True),
        Table("pretraining_tasks", "Task by task: the paper's Table 3 and ours",
              "The small models of the default profile are judged by perplexity and cloze questions instead.",
              "quality", ("model", "wiring", "study"), ("value",),
              where='variant == "pretrained" and (file == "table3_pretraining" or (study != "published" and '
                    'metric in ("accuracy", "word_perplexity")))',
              across="task", key=3, fold=True),
        Table("larger_ladder", table5, "Accuracy and perplexity: the paper's are its six tasks and Wikitext per word; "
              "ours cloze and held-out documents per byte.", larger, ("model", "wiring", "origin"), ("value",),
              across="metric", key=3),
    ),
)  # fmt: skip
