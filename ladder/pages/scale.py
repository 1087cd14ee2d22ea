"""Scale: where each wiring wins, over batch, latency and a faster all-reduce, and what speed costs. All simulated."""

import pandas as pd

from ladder.looks import look
from ladder.pages.charts import Chart, Layer, Tables
from ladder.pages.page import Page
from ladder.pages.tables import Table
from ladder.pages.words import listing, percent, times

PORTABLE = 'contest.str.contains("one function")'  # wirings that are one function at every TP degree
BANDS = (Layer("band"), Layer("line"))
MAP = (Layer("rect", 'outcome == "won"'), Layer("rect", 'outcome == "open"', {"opacity": 0.3}))
LEADS = "To lead is to be faster by more than the 90 % interval of the ratio."
BOUND = 2.6  # speed-up up to which axes reach


def cells(tables: Tables, where: str = PORTABLE) -> pd.DataFrame:
    rows = tables["scale_cells"]
    if rows.empty:
        return rows
    rows = rows.query(f'{where} and outcome != "does not fit"')
    place = [f"{network}, TP {tp:g}{' *' if isinstance(assumed, str) else ''}"
             for network, tp, assumed in rows[["network", "tp", "assumed"]].itertuples(index=False)]  # fmt: skip
    rows = rows.assign(place=place, size=rows["batch"].map("{:g}".format), wiring=rows["winner"])
    place = {name: n for n, name in enumerate(dict.fromkeys(rows["network"]))}
    return rows.assign(at=rows["network"].map(place)).sort_values(["at", "tp", "batch"], kind="stable")


def all_cells(tables: Tables) -> pd.DataFrame:
    return cells(tables, 'contest == "all wirings"')


def winners(tables: Tables) -> str:
    rows = cells(tables)
    told = []
    for network, group in rows[rows["outcome"] == "won"].groupby("network", sort=False):
        best = group["winner"].value_counts()
        told.append(f"{network}: {look(best.index[0]).label} ({best.iloc[0]} of {(rows['network'] == network).sum()})")
    unknown = (rows["outcome"] == "open").mean()
    return f"The winner is the link's: {'; '.join(told)}. In {percent(unknown)} of {len(rows)} settings we cannot say"


def tied_winners(tables: Tables) -> str:
    won = all_cells(tables).query('outcome == "won"')["winner"].value_counts()
    told = [f"{look(w).label} wins {n}" for w, n in won.items()]
    return f"With wirings that are tied to a TP degree as well, {listing(told)}"


def by_batch(tables: Tables) -> pd.DataFrame:
    rows = tables["scale_gains"]
    if rows.empty:
        return rows
    rows = rows.query('usual == True and wiring in ("ladder", "parallel", "upper_bound")')
    panel = rows["model"] + ", " + rows["network"] + ", TP " + rows["tp"].map("{:g}".format)
    return rows.assign(panel=panel)


def gain_falls(tables: Tables) -> str:
    rows = by_batch(tables).query('wiring == "ladder"').sort_values("batch")
    told = [
        f"{times(g['speedup'].iloc[0])} to {times(g['speedup'].iloc[-1])} ({m})"
        for m, g in rows.groupby("model", sort=False)
    ]
    return f"From batch {rows['batch'].min():g} to {rows['batch'].max():g} ladder's gain goes from {listing(told)}"


def leads(tables: Tables) -> str:
    rows = tables["scale_crossovers"]
    first = rows["first_batch"].iloc[0]
    ahead = int((~(rows["batch_ladder_lead_ends"] <= first)).sum())
    never = int((rows["batch_parallel_leads"] <= first).sum())
    words = f"At batch {first:g} ladder leads parallel in {ahead} of {len(rows)} places"
    return f"{words}, and parallel leads at every batch in {never}"


def by_latency(tables: Tables) -> pd.DataFrame:
    rows = tables["scale_latency_curves"]
    if rows.empty:
        return rows
    rows = rows[(rows["batch"] == rows["batch"].min()) & (rows["speedup"] < BOUND)]
    return rows.assign(panel=rows["model"] + ", TP " + rows["tp"].map("{:g}".format))


def peak(tables: Tables) -> str:
    rows = tables["scale_latencies"]
    rows = rows[rows["batch"] == rows["batch"].min()]
    told = [f"{us:.0f} µs ({m})" for us, m in zip(rows["latency_of_peak_gain"], rows["model"], strict=True)]
    return f"Ladder gains most where an all-reduce takes as long as the module beside it: {listing(told)}"


def shots(tables: Tables) -> pd.DataFrame:
    rows = tables["scale_one_shot"]
    if rows.empty:
        return rows
    rows = rows[rows["tp"] == rows.groupby("model")["tp"].transform("max")]
    parts = []
    for column, name in (("standard_one_shot", "standard, one-shot"), ("ladder_nccl", "ladder, NCCL"),
                         ("ladder_one_shot", "ladder, one-shot")):  # fmt: skip
        part = rows[["model", "tp", "batch"]].assign(kind=name, over_standard=rows[column])
        parts.append(part.assign(over_standard_low=rows[f"{column}_low"], over_standard_high=rows[f"{column}_high"]))
    made = pd.concat(parts)
    return made.assign(panel=made["model"] + ", NVLink, TP " + made["tp"].map("{:g}".format))


def against_one_shot(tables: Tables) -> str:
    rows = tables["scale_one_shot"]
    counts = rows["outcome"].value_counts()
    return (
        f"Against standard with a one-shot all-reduce, ladder with NCCL is ahead in {counts.get('ahead', 0)} of "
        f"{len(rows)} settings and behind in {counts.get('behind', 0)}"
    )


def cheapest(tables: Tables) -> str:
    rows = tables["scale_cost_curves"]
    first = rows.groupby(["model", "wiring"], sort=False)["ms_per_token"].min().unstack()
    told = [f"{r['ladder']:.1f} instead of {r['standard']:.1f} ms ({m})" for m, r in first.iterrows()]
    return f"With ladder the shortest time per token in reach is {listing(told)}"


def most(tables: Tables) -> str:
    rows = tables["scale_cost"].query('wiring == "ladder"').dropna(subset=["over_standard"])
    best, least = rows.loc[rows["over_standard"].idxmax()], rows.loc[rows["over_standard"].idxmin()]
    told = [f"{times(r['over_standard'])} ({r['model']} within {r['within_ms']:g} ms)" for r in (least, best)]
    return f"At the same time per token a GPU gives {' to '.join(told)} the tokens/s of standard"


def answer(tables: Tables) -> str:
    if tables["scale_cells"].empty:
        return "This run has no scale study; ladder simulate study makes its record."
    rows = cells(tables)
    return (
        "Small batches on NVLink: ladder. Ethernet: parallel, or still fewer all-reduces. In "
        f"{percent((rows['outcome'] == 'open').mean())} of the settings the two are too close to call, and where an "
        "engine has a one-shot all-reduce, little is left to hide. All of it is simulated, nothing ran."
    )


PAGE = Page(
    "scale",
    answer=answer,
    items=(
        Chart("scale_winners", winners, "Full colour: faster than every other by more than the 90 % interval; faint: "
              "the fastest, but too close to call; * rests on assumptions.", cells, "size", "place", panel="model",
              layers=MAP, ends=False, size=(190, 270), hover=("leaders", "outcome", "hardware")),
        Chart("scale_winners_all", tied_winners, "A wiring that is tied to a TP degree is another function at every "
              "other degree, and needs its own training.", all_cells, "size", "place", panel="model", layers=MAP,
              ends=False, size=(190, 270), hover=("leaders", "outcome", "hardware")),
        Table("scale_winners_table", "Every setting and its winner", LEADS, "scale_cells",
              ("model", "network", "tp", "batch", "contest"), ("outcome", "winner", "leaders", "hardware", "assumed"),
              where=f'{PORTABLE} and outcome == "won"', fold=True),
        Chart("scale_gain_by_batch", gain_falls, "Bands: 90 % intervals of the prediction.", by_batch, "batch",
              "speedup", panel="panel", layers=BANDS, log="x", rule=1, hover=("model", "network", "tp")),
        Table("scale_crossovers", leads, LEADS, "scale_crossovers", ("model", "network", "tp"),
              ("batch_ladder_lead_ends", "batch_parallel_overtakes", "batch_parallel_leads"), tail=("assumed",),
              fold=True, missing="not up to the last batch, or what fits"),
        Chart("scale_gain_by_latency", peak, "Bands: 90 % intervals; on a slow link parallel, with half the "
              "all-reduces, keeps its share.", by_latency, "latency_us", "speedup", panel="panel", layers=BANDS,
              log="x", rule=1),
        Table("scale_latencies", "Link latency at which ladder's gain peaks and ends",
              f"The bandwidth is NVLink's. {LEADS}", "scale_latencies", ("model", "tp", "batch"),
              ("peak_gain", "latency_of_peak_gain", "latency_parallel_overtakes", "latency_ladder_lead_ends",
               "latency_parallel_leads", "latency_gain_ends"), fold=True),
        Chart("scale_one_shot", against_one_shot, "One-shot: a kernel in which every rank reads all others' bytes; "
              "over standard with NCCL.", shots, "batch", "over_standard", colour="kind", panel="panel", layers=BANDS,
              log="x", rule=1,
              colours={"standard, one-shot": "#2f7fd1", "ladder, NCCL": "#d55e00", "ladder, one-shot": "#b8579a"}),
        Table("scale_one_shot_table", "A fast all-reduce instead of another wiring", "Its interference with compute is "
              "assumed to be NCCL's.", "scale_one_shot", ("model", "tp", "batch"),
              ("ladder_over_one_shot", "outcome", "standard_one_shot", "ladder_nccl", "ladder_one_shot"), fold=True),
        Chart("scale_cost", cheapest, "Each point takes the TP degree that gives most, on H100 nodes with NVLink and "
              "InfiniBand.", "scale_cost_curves", "ms_per_token", "tokens_per_second_per_gpu", panel="model",
              layers=(Layer("line"),), log="xy", hover=("tp",)),
        Table("scale_cost_table", most, "The best TP degree within a bound on the time of a token, which holds its "
              "share of prefill.", "scale_cost", ("model", "within_ms"),
              ("tokens_per_second_per_gpu", "tp", "over_standard"), across="wiring", fold=True),
    ),
)  # fmt: skip
