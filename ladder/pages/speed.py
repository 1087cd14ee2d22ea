"""Speed: what is hidden, by model, batch, TP degree and link; each published number beside what was timed here."""

import pandas as pd

from ladder.looks import COMMUNICATION, look
from ladder.pages.charts import Chart, Layer, Tables
from ladder.pages.page import Page
from ladder.pages.tables import Table
from ladder.pages.words import listing, percent, span, times

FIG2 = 'file == "fig2_70b_throughput"'
NVLINK = f'{FIG2} and tp == 8 and p2p == "enabled"'
TIMED = "The paper's numbers are whole models on H100s; ours are one rank's share, so compare a row along its link."
SERIAL = (
    "ρ is the time of one all-reduce over the mean compute time of a module; the emulated link carries one at a time."
)
ONE_STEP = "Light: attention; full: MLP; gold: all-reduce."
CLOCKS = (Layer("line", 'clock == "schedule"', {"strokeWidth": 1.4}), Layer("error", 'clock == "wall"'),
          Layer("hollow", 'clock == "virtual"'), Layer("point", 'clock == "wall"'))  # fmt: skip
READING = (
    "Filled: wall clock with 95 % intervals; hollow: virtual clock; lines: a schedule of the measured module times."
)
AGAINST = ("tokens_per_second", "speedup")
SETTING = ("model", "tp", "batch", "link", "origin")


def view(name: str) -> str:
    return f'view.str.contains("{name}", na=False)'


def gain(tables: Tables, where: str, wiring: str = "ladder") -> pd.Series:
    """Speed-ups by batch."""
    rows = tables["speed"].query(f'wiring == "{wiring}" and {where}')
    return rows.set_index("batch")["speedup"].sort_index()


def hides(tables: Tables) -> str:
    rows = tables["over_rho"].query('wiring == "ladder" and clock == "wall"').dropna(subset=["hidden"])
    short, long = rows[rows["rho"] <= 1]["hidden"], rows[rows["rho"] > 1]
    words = f"While an all-reduce takes no longer than a module, ladder hides {span(short, percent)} of it"
    return words + (f"; at ρ {long['rho'].max():g} it hides {percent(long['hidden'].iloc[-1])}" if len(long) else "")


def gains(tables: Tables) -> str:
    rows = (
        tables["over_rho"].query('clock == "wall"').pivot_table(index="rho", columns="wiring", values="decode_speedup")
    )
    if not {"ladder", "parallel"} <= set(rows):
        return "Decode speed-up over standard against ρ"
    ahead = rows[rows["ladder"] > rows["parallel"]]
    best = rows["ladder"].idxmax()
    return (
        f"Ladder decodes up to {times(rows['ladder'].max())} as fast as standard (ρ {best:g}), and is ahead of "
        f"parallel at {len(ahead)} of {len(rows)} links"
    )


def shrinks(tables: Tables) -> str:
    ladder, parallel = gain(tables, NVLINK), gain(tables, NVLINK, "parallel")
    return (
        f"Published for 70B, ladder's gain falls from {times(ladder.iloc[0])} at batch {ladder.index[0]:g} to "
        f"{times(ladder.iloc[-1])} at batch {ladder.index[-1]:g}, where parallel has {times(parallel.iloc[-1])}"
    )


def own_batches(tables: Tables) -> str:
    ladder = gain(tables, view("batch0"))
    ends = [f"{times(ladder.loc[batch])} at batch {batch:g}" for batch in (ladder.index[0], ladder.index[-1])]
    return f"Our emulated rank's gain goes from {' to '.join(ends)}"


def sizes(tables: Tables) -> str:
    rows = tables["speed"].query('file == "table1_speedup_by_model_size" and trusted == True')["speedup"]
    return f"Published, ladder gives {span(rows, times)} the tokens per second of standard, from 1B to 405B"


def phases(tables: Tables) -> pd.DataFrame:
    rows = tables["speed"].query('file == "table2_latency_breakdown_70b"')
    return rows.melt(["wiring", "link"], ["prefill_saved", "decode_saved"], "phase", "saved").replace(
        {"phase": {"prefill_saved": "prefill", "decode_saved": "decode"}}
    )


def saves(tables: Tables) -> str:
    rows = phases(tables).query('wiring == "ladder"').groupby("phase")["saved"]
    ends = {phase: f"{v.min():.0f} to {v.max():.0f} %" for phase, v in rows}
    return (
        f"Published for 70B, ladder saves {ends['decode']} of the decode time and {ends['prefill']} of the prefill time"
    )


def frontier(tables: Tables) -> pd.DataFrame:
    rows = tables["speed"]
    parts = [rows.query(NVLINK).assign(curve="published: 70B, TP 8, NVLink")]
    own = rows.query(view("batch0"))
    parts += [own.assign(curve=f"emulated: {own['model'].iloc[0]}, TP {own['tp'].iloc[0]:g}")] if len(own) else []
    return pd.concat(parts).sort_values(["curve", "batch"], ascending=[False, True])


def cheaper(tables: Tables) -> str:
    rows = tables["speed"].query(f"{NVLINK} and batch == 64").set_index("wiring")
    ms, speed = rows["ms_per_token"], rows["tokens_per_second_per_gpu"]
    return (
        f"At batch 64 the published ladder gives {speed['ladder']:.0f} tokens/s per GPU at {ms['ladder']:.1f} ms per "
        f"token, standard {speed['standard']:.0f} at {ms['standard']:.1f} ms"
    )


def degrees(tables: Tables) -> pd.DataFrame:
    rows = tables["speed"].query(f"{FIG2} and batch in (1, 64)")
    rows = rows.assign(curve=[f"batch {b:g}, {link}" for b, link in zip(rows["batch"], rows["link"], strict=True)])
    own = tables["speed"].query(view("tp0"))
    own = own.assign(curve=[f"{origin}: {model}" for origin, model in zip(own["origin"], own["model"], strict=True)])
    return pd.concat([rows, own])


def more_ranks(tables: Tables) -> str:
    rows = tables["speed"].query(f'{FIG2} and batch == 1 and p2p == "enabled" and wiring == "ladder"').sort_values("tp")
    ends = rows.iloc[[0, -1]]
    told = [f"{times(v)} at TP {tp:g}" for v, tp in zip(ends["speedup"], ends["tp"], strict=True)]
    return f"The more ranks, the more to hide: published at batch 1, ladder gains {listing(told)}"


def across(tables: Tables) -> str:
    rows = tables["speed"].query('file == "fig3_405b_speedup" and wiring == "ladder"').groupby("p2p")["speedup"]
    on, off = (span(rows.get_group(name), times) for name in ("enabled", "disabled"))
    return f"Published for 405B across two nodes, ladder gives {on} with P2P and {off} without"


def step(tables: Tables) -> pd.DataFrame:
    """The spans as bars: a lane of modules and a lane of the link for each wiring."""
    rows = tables["traced"]
    if rows.empty:
        return rows
    sent = rows["lane"] == "communication"
    name = [look(wiring).label for wiring in rows["wiring"]]
    part = rows["name"].str.split(r"[ \d]", n=1, regex=True).str[0].where(~sent, "all-reduce")
    return rows.assign(lane=[f"{n}: {'link' if s else 'modules'}" for n, s in zip(name, sent, strict=True)], part=part)


def idle(tables: Tables) -> str:
    rows = tables["traced"].groupby("wiring").agg(end=("end_s", "max"), exposed=("exposed", "first"))
    told = [f"{look(w).label} {1e3 * row.end:.1f} ms" for w, row in rows.iterrows()]
    pair = [f"{percent(rows['exposed'][w])} of {w}'s" for w in ("standard", "ladder") if w in rows.index]
    return f"A traced step takes {listing(told)}: nothing computes during {listing(pair)} communication"


def nothing_lost(tables: Tables) -> str:
    rows = tables["speed"].query(f'{view("fast")} and wiring == "ladder"').dropna(subset=["decode_speedup"])
    slow = int((rows["slower"] == True).sum())  # noqa: E712
    gains_ = span(rows["decode_speedup"], lambda v: f"{v:.3f}×")
    words = f"Where there is nothing to hide, ladder runs at {gains_} the speed of standard"
    return f"{words}, slower beyond noise at {slow} of {len(rows)} points"


def half(tables: Tables) -> str:
    rows = tables["speed"].dropna(subset=["share_of_gain"]) if "share_of_gain" in tables["speed"] else pd.DataFrame()
    if rows.empty:
        return "This run timed no conversion of half of the layers"
    part, share = rows["share_of_gain"], rows["layers_share"]
    return f"Converting {span(share, percent)} of the layers keeps {span(part, percent)} of the gain"


def larger(tables: Tables) -> str:
    rows = tables["equal_speed"].query("fast_enough == True")
    paper, own = rows.query('origin == "published"'), rows.query('origin != "published"')
    ratio = span(paper["speed_ratio"], times)
    words = f"Published, a ladder with 30 % more layers still has {ratio} the tokens/s of standard"
    return words + (f"; here {span(own['speed_ratio'], times)} in {len(own)} pairs" if len(own) else "")


def answer(tables: Tables) -> str:
    batch = gain(tables, NVLINK)
    return (
        f"On eight H100 with NVLink the paper's 70B runs {times(batch.iloc[0])} as fast with ladder at batch "
        f"{batch.index[0]:g} and {times(batch.iloc[-1])} at batch {batch.index[-1]:g}; without P2P it gains more. "
        "Nothing here ran on several GPUs: our own numbers test the mechanism on an emulated link, and depend on "
        "the link that we chose."
    )


PAGE = Page(
    "speed",
    answer=answer,
    items=(
        Chart("hidden", hides, f"{READING}", "over_rho", "rho", "hidden",
              where='wiring not in ("standard", "upper_bound") and rho <= 2', layers=CLOCKS, domain=(-10, 110),
              xdomain=(0, 2), hover=("clock", "origin", "model", "tp")),
        Chart("gained", gains, READING, "over_rho", "rho", "decode_speedup", where='wiring != "standard" and rho <= 2',
              layers=CLOCKS, rule=1, xdomain=(0, 2), hover=("clock", "origin", "model", "tp")),
        Table("overlap", "Share of communication hidden, by wiring", SERIAL, "speed",
              ("wiring", "link", "model", "tp", "batch"),
              (("decode", "decode_s", "decode_speedup", "decode_hidden_wall", "decode_hidden_virtual",
                "decode_hidden_schedule"),
               ("prefill", "prefill_s", "prefill_speedup", "prefill_hidden_wall", "prefill_hidden_virtual",
                "prefill_hidden_schedule")),
              where=f'origin == "emulated" and {view("headline")}', tail=("compute", "hardware"), fold=True,
              missing="not timed, or the link is too fast for a share to be told"),
        Chart("timeline", idle, ONE_STEP, step, "start_s", "lane", colour="part", x2="end_s", layers=(Layer("bar"),),
              ends=False, size=(560, 200), hover=("name", "end_s"),
              colours={"all-reduce": COMMUNICATION, "attention": "#7db3e8", "mlp": "#2f7fd1"}),
        Table("fast_link", nothing_lost, "Slower beyond noise: the whole 95 % interval is below 1.", "speed",
              ("link", "model", "tp", "batch"), ("decode_speedup", "decode_speedup_virtual", "prefill_speedup"),
              where=f'wiring == "ladder" and {view("fast")}', tail=("compute", "slower", "hardware"), key=1),
        Chart("speed_by_model_size", sizes, "34B and 176B disagree with the authors' other data.", "speed", "speedup",
              "model", where='file == "table1_speedup_by_model_size"', colour="link", layers=(Layer("point"),),
              ends=False, hover=("tp", "origin")),
        Table("speed_by_model_size_table", "By model size: the paper's Table 1 and ours", TIMED, "speed", SETTING,
              ("speedup",),
              where=f'file == "table1_speedup_by_model_size" or {view("headline")} and wiring != "standard"',
              across="wiring", tail=("compute", "hardware"), fold=True),
        Chart("latency_breakdown", saves, "Prefill computes on the whole prompt at once; decode waits for latency.",
              phases, "saved", "link", panel="phase", layers=(Layer("point"),), ends=False, size=(230, 90)),
        Table("latency_breakdown_table", "Prefill and decode: the paper's Table 2 and ours", TIMED, "speed",
              ("wiring", *SETTING), ("decode_saved", "prefill_saved", "throughput_gained"),
              where=f'(file == "table2_latency_breakdown_70b" or {view("headline")}) and wiring != "standard"',
              tail=("compute", "hardware"), fold=True),
        Chart("speed_by_batch", shrinks, "A larger batch gives every module more to compute for each all-reduce.",
              "speed", "batch", "speedup", where=f'{FIG2} and tp == 8 and wiring != "standard"', panel="link", log="x",
              rule=1, hover=("tokens_per_second", "model", "tp", "origin")),
        Chart("own_speed_by_batch", own_batches, "A sweep on a fixed emulated link.", "speed", "batch", "speedup",
              where=f'{view("batch0")} and wiring != "standard"', log="x", rule=1,
              hover=("tokens_per_second", "model", "tp", "link_name", "origin"),
              need="This run holds no sweep over the batch."),
        Table("speed_by_batch_table", "By batch: Figure 2, the authors' blog, and our sweeps", TIMED, "speed", SETTING,
              AGAINST,
              where=f'({FIG2} and tp == 8) or table == "Blog table: 70B by batch size" or {view("batch[0-9]")}',
              across="wiring", tail=("file", "hardware"), fold=True),
        Chart("pareto", cheaper, "Up and to the left is better; published latency is batch over tokens/s.", frontier,
              "ms_per_token", "tokens_per_second_per_gpu", panel="curve", log="y", hover=("batch",)),
        Chart("throughput_by_tp", more_ranks, "The authors' plot script mixes two machines.", degrees, "tp",
              "tokens_per_second", panel="curve", hover=("speedup", "model", "batch", "origin")),
        Table("throughput_by_tp_table", "By TP degree: Figure 2 and ours", TIMED, "speed",
              ("tp", "model", "batch", "link", "origin"), AGAINST,
              where=f'{FIG2} or {view("tp[0-9]")} or (origin == "measured" and tp > 1 and {view("plain")})',
              across="wiring", tail=("hardware",), fold=True),
        Chart("cross_node", across, "TP 16 over two nodes of eight H100.", "speed", "batch", "speedup",
              where='file == "fig3_405b_speedup"', panel="link", log="x", rule=1, hover=("model", "tp", "origin")),
        Table("cross_node_table", "405B across two nodes: the paper's Figure 3",
              "Nobody outside the paper has timed this; we had no two nodes.", "speed", SETTING, ("speedup",),
              where='file == "fig3_405b_speedup" or (model == "llama-3.1-405b" and tp == 16)', across="wiring",
              fold=True),
        Table("hybrid_speed", half, "The article's 21 % for Llama-3.1-8B with its last 16 layers converted is in the "
              "claims.", "speed", ("wiring", *SETTING), ("layers_share", "speedup", "share_of_gain"),
              where="layers_share.notna()", tail=("hardware",), key=3),
        Table("equal_speed", larger, "Pairs timed whole in the same setting, the larger at least 0.95 times as fast.",
              "equal_speed", ("smaller", "larger", "origin"),
              ("size_ratio", "speed_ratio", "small_speed", "large_speed", "loss_difference", "perplexity_difference"),
              where="fast_enough == True", tail=("tp", "batch", "link", "hardware")),
    ),
)  # fmt: skip
