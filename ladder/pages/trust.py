"""Trust: how far each kind of number can be believed: predictions beside what was published and timed, the emulated
link beside a real one, our decode path beside the hardware's limit, and where the published sources disagree."""

import pandas as pd

from ladder.pages.charts import Chart, Layer, Tables
from ladder.pages.page import Page
from ladder.pages.tables import Table
from ladder.pages.words import listing, percent, span, times

HELD = 'kind == "held out" and copy == False'
GROUPS = {"speedup": "speed-up", "tokens_per_second": "tokens/s"}
CAVEAT = "Reported beside two real ranks over TCP with the same delays."


def group(tables: Tables, name: str, metric: str = "speedup") -> pd.Series | None:
    rows = tables["prediction_groups"]
    rows = rows[rows["group"].str.contains(name, regex=False) & (rows["metric"] == metric)] if len(rows) else rows
    return rows.iloc[0] if len(rows) else None


def unseen(tables: Tables) -> str:
    told = []
    for name, words in (("70B", "the held-out 70B"), ("8B", "the 8B"), ("405B", "405B on two nodes")):
        if (row := group(tables, name)) is not None:
            told.append(f"{percent(row['error_median'], 1)} for {words}")
    noise = group(tables, "repeats")
    words = f"Unseen speed-ups are predicted within a median of {listing(told)}"
    return words + (
        f"; the authors' own repeats differ by {percent(noise['error_median'], 1)}" if noise is not None else ""
    )


def scatter(tables: Tables) -> pd.DataFrame:
    rows = tables["predictions"]
    if rows.empty:
        return rows
    rows = rows.query('metric in ("speedup", "tokens_per_second") and copy == False and kind != "not scored"')
    rows = rows.dropna(subset=["simulated"])
    return rows.assign(panel=rows["metric"].map(GROUPS) + ", " + rows["kind"])


def errors(tables: Tables) -> pd.DataFrame:
    rows = scatter(tables)
    if rows.empty:
        return rows
    return (
        rows[(rows["metric"] == "speedup") & (rows["kind"] == "held out")]
        .assign(size=rows["batch"].map("{:g}".format))
        .sort_values("batch")
    )


def where_errors(tables: Tables) -> str:
    rows = errors(tables)
    worst = rows.loc[rows["error"].abs().idxmax()]
    return (
        f"The furthest miss is {percent(worst['error'], signed=True)} ({worst['wiring']}, {worst['model']}, TP "
        f"{worst['tp']:g}, batch {worst['batch']:g}, {worst['link']}); half of the rest lie within "
        f"{percent(rows['error'].abs().median(), 1)}"
    )


def right_winner(tables: Tables) -> str:
    rows = tables["prediction_winners"].set_index("name")
    far, close = rows.loc["far"], rows.loc["close"]
    return (
        f"Where ladder and parallel are predicted more than {percent(far['near'])} apart, the predicted winner is the "
        f"published one in {far['right']:g} of {far['n']:g} cells; closer, in {close['right']:g} of {close['n']:g}"
    )


def own(tables: Tables) -> str:
    rows = tables["own_predictions"].query('use == "held out"')
    off = rows["error"].abs().dropna()
    gap = (rows["decode_hidden_schedule"] - rows["decode_hidden_wall"]).abs().median()
    words = "These records identify no calibration of their machine"
    if len(off):
        words = f"{len(off)} decode steps of ours that were not fitted are predicted within a median of "
        words += percent(off.median(), 1)
    return words + f"; the schedule with measured times is {100 * gap:.0f} points off the share hidden"


def flatters(tables: Tables) -> str:
    rows = tables["network"].query('counted == True and wiring == "ladder"')
    rows = rows.dropna(subset=["real_speedup", "emulated_speedup"])
    worst = rows.loc[(rows["emulated_speedup"] / rows["real_speedup"]).idxmax()]
    return (
        f"The emulated link flatters ladder: {times(worst['emulated_speedup'])} where real TCP gave "
        f"{times(worst['real_speedup'])} ({worst['model']}), and never the other way by more than "
        f"{percent(max(0.0, 1 - (rows['emulated_speedup'] / rows['real_speedup']).min()), 0)}"
    )


def links(tables: Tables) -> pd.DataFrame:
    rows = tables["network"]
    if rows.empty:
        return rows
    rows = rows.query('counted == True or (phase == "decode" and wiring == "parallel")')
    rows = rows[~rows["emulated_as"].str.contains("serial")]
    return rows.assign(panel=rows["model"])


def limit(tables: Tables) -> str:
    rows = tables["decode_limit"].dropna(subset=["roofline_fraction"])
    best = rows.loc[rows["roofline_fraction"].idxmax()]
    words = f"Our decode path reaches {span(rows['roofline_fraction'], percent)} of the memory's copy speed"
    if pd.notna(best.get("over_transformers")):
        words += f", and at its best {times(best['over_transformers'])} the speed of transformers on the same shape"
    return words


def compiling(tables: Tables) -> str:
    rows = tables["compiled"]
    lost = rows["hidden_lost"].dropna() if "hidden_lost" in rows else pd.Series(dtype=float)
    gains = rows["decode_compile_speedup"].dropna()
    words = f"Compiled decode runs at {span(gains, times)} eager's speed"
    return words + (f" and hides at most {100 * lost.max():.1f} points less" if len(lost) else "")


def fitted(tables: Tables) -> str:
    rows = tables["calibration"]
    sure = rows.dropna(subset=["relative_stderr"])
    worst = sure.loc[sure["relative_stderr"].idxmax()]
    same = "is" if rows["differs_from_committed"].iloc[0] < 1e-3 else "is not"
    return (
        f"{len(sure)} parameters are fitted; the least certain is {worst['parameter']} (standard error "
        f"{percent(worst['relative_stderr'])}); this {same} the committed calibration"
    )


def circulating(tables: Tables) -> str:
    rows = tables["headlines"]
    return f"Of {len(rows)} headline numbers in circulation, {int(rows['contradicts'].sum())} contradict another source"


def sources(tables: Tables) -> pd.DataFrame:
    """How the published numbers reached us, by table."""
    speed = tables["speed"].query('origin == "published"')[["table", "source"]]
    quality = tables["quality"].query('origin == "published"').rename(columns={"file": "table"})[["table", "source"]]
    rows = pd.concat([speed, quality])
    known = {"third-party": "third-party notes", ".png": "authors' image", "inference": "authors' plot script or logs"}
    kinds = [next((kind for word, kind in known.items() if word in s), "authors' blog") for s in rows["source"]]
    return (
        rows.assign(kind=kinds)
        .groupby(["table", "kind"], sort=False)
        .agg(n=("source", "size"), source=("source", "first"))
        .reset_index()
    )


def second_hand(tables: Tables) -> str:
    rows = sources(tables)
    notes = rows[rows["kind"] == "third-party notes"]
    words = f"{notes['n'].sum()} of {rows['n'].sum()} published rows come from third-party notes of the paper"
    return f"{words}, not from its authors' files"


def answer(tables: Tables) -> str:
    noise, held = group(tables, "repeats"), group(tables, "70B")
    if held is None:
        return "This run holds no validation of the simulator."
    return (
        "Speed-ups of shapes that the simulator never saw are right to a few percent (median "
        f"{percent(held['error_median'], 1)} for the 70B; repeats by the authors differ by "
        f"{percent(noise['error_median'], 1)}). Absolute tokens/s are worse, and the emulated link makes ladder look "
        "faster than a real network does. No number here was measured on several GPUs."
    )


PREDICTED = ("published", "simulated", "error")
PAGE = Page(
    "trust",
    answer=answer,
    items=(
        Chart("predicted", unseen, "On the grey line the prediction is the published number; bars are 90 % intervals.",
              scatter, "published", "simulated", panel="panel",
              layers=(Layer("error"), Layer("point", options={"opacity": 0.75})), ends=False, size=(240, 220),
              hover=("model", "tp", "batch", "link", "error"), diagonal=True),
        Table("prediction_groups", "How far predictions are from what was published",
              "Error: simulated over published, less 1; a number counts once, however many sources repeat it; fitted "
              "rows are no test.", "prediction_groups", ("group", "metric"),
              ("error_median", "error_p90", "error_max", "bias", "inside", "r2", "without_median", "without_p90",
               "ladder_median", "rule_median"), tail=("n", "origin")),
        Chart("prediction_errors", where_errors, "Held-out speed-ups, simulated over published.", errors, "size",
              "error", colour="model", layers=(Layer("point", options={"opacity": 0.7}),), ends=False, rule=0,
              size=(330, 220), hover=("wiring", "tp", "link", "published", "simulated")),
        Table("predictions", right_winner, "Every published number that is scored, and what is predicted; H100, 1024 "
              "prompt and 512 new tokens.", "predictions", ("wiring", "model", "tp", "batch", "link", "metric"),
              PREDICTED, where='kind != "not scored"', tail=("use", "table"), key=3, fold=True),
        Table("not_scored", "Published numbers that are not scored, and why", "Most repeat a scored one.",
              "predictions", ("wiring", "model", "tp", "batch", "link", "metric"), ("published",),
              where='kind == "not scored"', tail=("reason", "table"), fold=True),
        Table("own_predictions", own, "A model of bandwidth fits a GPU; a CPU has caches and a clock that it does not "
              "know.", "own_predictions", ("wiring", "model", "tp", "batch", "link"),
              ("decode_s", "simulated_decode_s", "error", "decode_speedup", "simulated_speedup", "decode_hidden_wall",
               "decode_hidden_schedule", "simulated_hidden"), tail=("use", "origin", "hardware"), fold=True),
        Table("calibration", fitted, "Standard errors are of the fit alone.", "calibration", ("parameter", "name"),
              ("estimate", "relative_stderr", "in_links"), tail=("unit", "origin", "note"), fold=True),
        Chart("network", flatters, f"{CAVEAT} On the grey line both are the same.", links, "real_speedup",
              "emulated_speedup", panel="panel", layers=(Layer("point"),), ends=False, size=(220, 200),
              hover=("link", "emulated_over_real"), diagonal=True),
        Table("network_table", "The emulated link against a real slow network", f"{CAVEAT} Serial is for comparison.",
              "network", ("wiring", "model", "phase", "link", "emulated_as"),
              ("real_s", "emulated_s", "emulated_over_real", "real_speedup", "emulated_speedup"),
              tail=("tp", "hardware"), key=3, fold=True),
        Table("decode_limit", limit, "Nothing communicates here; the limit is the time that weights and cache take at "
              "a measured copy's bandwidth.", "decode_limit", ("model", "compute", "tp", "batch"),
              ("decode_s", "roofline_fraction", "over_transformers", "host_share", "step_bytes", "copy_bandwidth",
               "memory_bytes"), tail=("dtype", "origin", "hardware"), key=3),
        Table("compiled", compiling, "Shares by the virtual clock where both have one; each stretch between two waits "
              "is compiled by itself.", "compiled", ("wiring", "model", "link"),
              ("decode_compile_speedup", "prefill_compile_speedup", "hidden_eager", "hidden_compiled", "hidden_lost"),
              tail=("compute", "hardware"), fold=True),
        Table("links", "Links that can be emulated", "An all-reduce takes the latency plus its bytes times 2 (n − 1) "
              "/ n over the bandwidth.", "links", ("link", "name"), ("latency_us",), across="ranks",
              tail=("bandwidth_gbs", "in_flight", "origin", "source"), key=3, fold=True),
        Table("headlines", circulating, "As they are quoted.", "headlines", ("claim", "quoted", "unit"), (),
              tail=("setting", "source", "note"), fold=True),
        Table("sources", second_hand, "By table of the paper; every CSV names the source of each cell.", sources,
              ("table", "kind"), ("n",), tail=("source",)),
        Table("rule_history", "When each rule was written, and what was changed after numbers could be seen",
              "Dates and commits are the repository's.", "claims", ("id", "written"), ("verdict",), tail=("changed",),
              heads={"verdict": "Verdict"}),
    ),
)  # fmt: skip
