"""The rules that judge claims: each is a function of the derived tables and its thresholds. It returns its evidence,
one row a number (name, metric, value, low, high, holds), or in words why it is not tested."""

import pandas as pd

from ladder.analysis.frames import select
from ladder.model.sizes import SIZES

Tables = dict[str, pd.DataFrame]
READ = ("speed", "network", "equal_speed", "quality", "seeds", "recovery", "training_time")  # what the rules look at
Evidence = list[dict] | str
GPUS = "H100|H200"


def evidence(row, name: str, metric: str, column: str, holds: bool | None = None) -> dict:
    """A number of a derived table's row: the column with its ends."""
    what = {key: row.get(key) for key in ("model", "tp", "batch", "rho", "link", "hardware", "study")}
    ends = {end: row.get(f"{column}_{end}") for end in ("low", "high")}
    return what | {"name": name, "metric": metric, "value": row[column], **ends, "holds": holds}


def every(tables: Tables, table: str, where: str, holds: str, show: list[str], untested: str, **thresholds) -> Evidence:
    """The condition ``holds`` for every row of a derived table that the query ``where`` finds. In both, {name} is a
    threshold, and parallel_NAME is parallel's value at the same point."""
    rows = tables[table]
    if "parallel_" in holds and len(rows) and "point" in rows:
        parallel = rows[rows["wiring"] == "parallel"].dropna(subset=["point"]).set_index("point")
        rows = rows.join(parallel.add_prefix("parallel_"), on="point")
    try:
        rows = rows.query(where.format(**thresholds))
        rows = rows.dropna(subset=[f"{c}_low" if f"{c}_low" in rows else c for c in show])
    except (pd.errors.UndefinedVariableError, KeyError):  # no row of this run has such a column
        return untested.format(**thresholds)
    if rows.empty:
        return untested.format(**thresholds)
    told = rows.eval(holds.format(**thresholds))
    return [
        evidence(row, "parallel" if column.startswith("parallel_") else row["wiring"],
                 column.removeprefix("parallel_"), column, bool(told[at]))
        for at, row in rows.iterrows()
        for column in show
    ]  # fmt: skip


def seventy(tables: Tables) -> pd.DataFrame:
    """Our rows of the paper's 70B at TP 8 with NVLink: over 8 GPUs, or rank 0's shard on one with that link
    emulated."""
    rows = tables["speed"]
    if "view" not in rows or "preset" not in rows:
        return rows[:0]
    rows = rows[(rows["model"] == "llama-3-70b") & (rows["tp"] == 8) & rows["view"].str.contains("plain", na=False)]
    rows = rows[rows["hardware"].str.contains(GPUS, na=False)]
    real = rows[(rows["origin"] == "measured") & (rows["p2p"] != "disabled")]
    return real if len(real) else rows[rows["preset"] == "h100-nvlink"]


def emulated_gain(tables: Tables, near: float) -> Evidence:
    rows = seventy(tables)
    paper = tables["speed"].query('file == "fig2_70b_throughput" and tp == 8 and p2p == "enabled"')
    paper = paper.set_index(["batch", "wiring"])["speedup"]
    made, batches = [], set()
    for _, row in rows[rows["origin"] == "emulated"].iterrows():
        key = (row["batch"], row["wiring"])
        if row["wiring"] in ("ladder", "parallel") and key in paper and pd.notna(row["speedup"]):
            near_ = abs(row["speedup"] - paper[key]) <= near
            made.append(evidence(row, row["wiring"], "speedup", "speedup", near_))
            batches.add(row["batch"])
    if 1 not in batches:
        return "No llama-3-70b at TP 8 on an H100 or H200 with the emulated link h100-nvlink at batch 1."
    return made


def catches_up(tables: Tables, most: float) -> Evidence:
    rows = seventy(tables)
    if len(rows):
        rows = rows.pivot_table(index="batch", columns="wiring", values="speedup", aggfunc="last")
    gains = rows
    if not {1, 64} <= set(gains.index) or not {"ladder", "parallel"} <= set(gains):
        return "No llama-3-70b at TP 8 with NVLink, real or emulated on an H100 or H200, at batch 1 and 64."
    lead = gains["ladder"] / gains["parallel"] - 1
    holds = bool(lead[64] <= min(most, lead[1]))
    return [
        {
            "name": "ladder's lead",
            "metric": "lead",
            "value": lead[b],
            "holds": holds,
            "model": "llama-3-70b",
            "batch": b,
        }
        for b in (1, 64)
    ]


def by_seed(tables: Tables, metric: str, study: str = "this run", **where) -> pd.Series:
    rows = tables["seeds"]
    rows = select(rows, study=study, metric=metric, **where) if len(rows) else pd.DataFrame(columns=["seed", "value"])
    return rows.set_index("seed")["value"]


def nats(name: str, values: pd.Series, holds=None, metric: str = "validation_loss", **where) -> dict:
    return where | {"name": name, "metric": metric, "value": values.mean(), "low": values.min(), "high": values.max(),
                    "holds": holds}  # fmt: skip


def comparable(tables: Tables, model: str, wiring: str, base: str, close: float) -> Evidence:
    """Mean validation loss at most so much above the other wiring's, or inside the seeds' spread."""
    one, other = (
        by_seed(tables, "validation_loss", model=model, variant="pretrained", wiring=w) for w in (wiring, base)
    )
    if one.empty or other.empty:
        return f"This run trained no {model} with both {wiring} and {base}."
    spread = max(one.max() - one.min(), other.max() - other.min())
    holds = bool(one.mean() / other.mean() - 1 <= close or abs(one.mean() - other.mean()) <= spread)
    return [nats(wiring, one, holds, model=model), nats(base, other, model=model)]


def larger_is_better(tables: Tables) -> Evidence:
    pairs = tables["equal_speed"]
    pairs = pairs[(pairs["origin"] != "published") & (pairs["origin"] != "simulated")]
    names = (
        {tuple(key) for key in tables["seeds"][["model", "wiring"]].itertuples(index=False)}
        if len(tables["seeds"])
        else ()
    )
    for small, base in sorted(names):
        for large, wiring in sorted(names):
            if base != "standard" or wiring != "ladder" or not deeper(large, small):
                continue
            one, other = (by_seed(tables, "validation_loss", model=m, variant="pretrained", wiring=w)
                          for m, w in ((large, wiring), (small, base)))  # fmt: skip
            shared = one.index.intersection(other.index)
            if shared.empty:
                return "The larger ladder and the standard model share no seed."
            better = bool((one[shared] < other[shared]).all())
            made = [nats(f"{large} ladder", one, better, model=large), nats(f"{small} standard", other, model=small)]
            timed = pairs[(pairs["smaller"] == f"{small} {base}") & (pairs["larger"] == f"{large} {wiring}")]
            if not better:
                return made
            if timed.empty:
                return "The larger ladder's loss is lower in every seed, but these shapes were not timed together."
            row = timed.iloc[-1]
            faster = bool(row["speed_ratio"] >= 1)
            return [*made, evidence(row, "larger over smaller", "speed_ratio", "speed_ratio", faster)]
    return "This run trained no larger ladder beside a standard model."


def deeper(large: str, small: str) -> bool:
    from ladder.analysis.points import is_deeper

    return large in SIZES and small in SIZES and is_deeper(large, small)


def hybrid(tables: Tables, low: float, high: float) -> str | None:
    """The ladder of this run that was adapted and rewires this share of the layers."""
    rows = tables["quality"].query('study == "this run" and variant == "adapted"') if len(tables["quality"]) else ()
    if not len(rows):
        return None
    rows = rows[rows["wiring"].str.match("ladder(@|$)") & rows["layers_share"].between(low, high)]
    return None if rows.empty else sorted(rows["wiring"])[0]


def four(tables: Tables, wiring: str | None) -> list[pd.Series] | None:
    """Byte perplexity by seed: original, converted, adapted, and the original adapted the same way."""
    checkpoints = [("pretrained", "standard"), ("converted", wiring), ("adapted", wiring), ("adapted", "standard")]
    models = tables["recovery"].query('study == "this run"')["model"].unique() if len(tables["recovery"]) else ()
    for model in models:
        every = [by_seed(tables, "byte_perplexity", model=model, variant=v, wiring=w) for v, w in checkpoints]
        table = pd.concat(every, axis=1).dropna()
        if len(table):
            return [table.iloc[:, n] for n in range(4)]
    return None


def shown(found: list[pd.Series], holds: bool) -> list[dict]:
    names = ("original", "converted", "adapted", "original adapted alike")
    return [nats(name, values, holds, "byte_perplexity") for name, values in zip(names, found, strict=True)]


NOT_ALL = "The original, the conversion and both adapted checkpoints were not all evaluated at the same seeds."
NO_DROP = "No drop in every seed, so there is nothing to recover from."


def half_recovers(tables: Tables, low: float, high: float, close: float) -> Evidence:
    wiring = hybrid(tables, low, high)
    if wiring is None:
        return "This run finetuned no conversion of about half of a model's layers."
    if (found := four(tables, wiring)) is None:
        return NOT_ALL
    original, converted, adapted, alike = found
    if not (converted > original).all():
        return NO_DROP
    return shown(found, bool(adapted.mean() / alike.mean() - 1 <= close))


def more_costs_more(
    tables: Tables, low: float, high: float, half_low: float, half_high: float, close: float
) -> Evidence:
    wiring, half = hybrid(tables, low, high), hybrid(tables, half_low, half_high)
    if wiring is None or half is None or (more := four(tables, wiring)) is None:
        return "This run adapted no pair of conversions of half and of five eighths of the layers."
    less = by_seed(tables, "byte_perplexity", variant="adapted", wiring=half)
    original, converted, adapted, alike = more
    if converted.mean() / original.mean() - 1 <= close:
        return "The conversion costs so little that there is hardly anything to recover from."
    return shown(more, bool(adapted.mean() > less.mean() and adapted.mean() / alike.mean() - 1 > close))


def full_conversion(tables: Tables, left: float) -> Evidence:
    if (found := four(tables, "ladder")) is None:
        return "This run converted no model in all its layers, or did not evaluate all four checkpoints."
    original, converted, adapted, alike = (series.mean() for series in found)
    return shown(found, bool(converted > original and adapted - alike <= left * (converted - original)))


def distillation(tables: Tables) -> Evidence:
    """Of this run; what the trainings that are kept say stands among the evidence, and is not judged."""
    rows = tables["recovery"]
    rows = rows[(rows["wiring"] == "ladder")] if len(rows) else rows
    made: list[dict] = []
    for study, group in rows.groupby("study") if len(rows) else ():
        methods = group.set_index("variant")
        if not {"adapted", "distilled"} <= set(methods.index):
            continue
        plain, taught = methods.loc["adapted"], methods.loc["distilled"]
        judged = taught["every_seed_drops"] and plain["tokens"] == taught["tokens"]
        if study == "this run" and not judged:
            return NO_DROP if not taught["every_seed_drops"] else "The two were trained on different numbers of tokens."
        holds = taught["decision"] == "better in every seed"
        for name, row in (("finetuned", plain), ("distilled", taught)):
            own = holds if study == "this run" else None
            made.append(evidence(row, f"{name} ({study})", "regained", "regained", own))
    if not any(row["holds"] is not None for row in made):
        return "This run did not adapt a full conversion both by finetuning and by distillation."
    return made


def training_faster(tables: Tables, model: str, least: float) -> Evidence:
    rows = tables["training_time"]
    rows = rows[(rows["model"] == model) & rows["seeds"].notna()] if len(rows) else rows
    speed = rows.set_index("wiring")["tokens_per_second"] if len(rows) else pd.Series(dtype=float)
    if not {"standard", "ladder"} <= set(speed.index):
        return "No tensor-parallel training of an 8B model in this run; on one device no wiring communicates."
    lead = speed["ladder"] / speed["standard"] - 1
    return [{"name": "ladder", "metric": "lead", "value": lead, "holds": bool(lead >= least), "model": model}]
