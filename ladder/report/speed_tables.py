"""Tables of speed: the paper's Tables 1 and 2 and Figures 2 and 3, each beside what was timed here."""

import pandas as pd

from ladder.report import setting
from ladder.report.cells import Cell, Column, Table, missing, value, words
from ladder.report.frames import Frames
from ladder.report.points import NOT_TIMED, TOO_FAST, Measurement, by, curve_words, headline, plain, points, sweeps
from ladder.report.setting import P2P, TAIL
from ladder.report.style import listing, look, number, percent, seconds_text, times

WIRINGS = ["standard", "parallel", "ladder", "upper_bound"]
UNTRUSTED = "disagrees with the authors' other data: shown, never scored against"
TIMED_WITH = "trained with 36 heads and timed with 32"
UNCONFIRMED = "not borne out by the authors' other runs, which give about +50 %"
LOOPBACK = (
    "Ranks over plain gloo share this machine's cores with their own communication: these rows show that real tensor "
    "parallelism runs, and are no measure of overlap."
)
SERIAL = (
    "ρ is the time of one all-reduce over the mean compute time of a module. The emulated link is serial: one "
    "all-reduce at a time, as NCCL does within a communicator."
)
NONE_HERE = "no such timing in this run or among the kept records"


def paper_rows(frame: pd.DataFrame) -> list[dict]:
    return frame.to_dict("records")


def first(frame: pd.DataFrame) -> dict | None:
    return frame.iloc[0].to_dict() if len(frame) else None


def notes_on(found: list[Measurement]) -> list[str]:
    notes = [SERIAL] if any(p.rho is not None for p in found) else []
    return notes + ([LOOPBACK] if any(p.key["backend"] == "gloo" for p in found) else [])


def told(found: list[Measurement], row, form) -> str:
    """What ``row(point)`` gives at each emulated point, written by ``form``, in words; "" where there is none."""
    emulated = [p for p in headline(found) if p.origin == "emulated"]
    parts = []
    for where, group in by(
        emulated, lambda p: f"{p.key['model']}, rank 0 of TP {p.key['tp']:g} on {p.hardware}"
    ).items():
        cells = [f"{form(found_['value'])} {p.at}" for p in group if (found_ := row(p))]
        if cells:
            parts.append(f"{listing(cells)} ({where})")
    return "; ".join(parts)


def own_phrase(found: list[Measurement], wiring: str = "ladder") -> str:
    """What our emulated points say about a wiring's tokens/s."""
    parts = told(found, lambda p: p.throughput_gain(wiring), times)
    return f"Emulated here: {parts}." if parts else f"This run holds no emulated timing of {look(wiring).label}."


def gains(point: Measurement) -> list[Cell]:
    return [value(point.throughput_gain(w), times, NOT_TIMED) for w in WIRINGS[1:]]


def speeds(point: Measurement, wirings=WIRINGS) -> list[Cell]:
    return [value(point.row("tokens_per_second", w, "both"), number, NOT_TIMED) for w in wirings]


def by_model_size(frames: Frames) -> Table:
    heads = ("Model", "TP", "Batch", "Link", "Origin")
    columns = setting.heads(*heads) + [Column(look(w).label, "tokens/s over standard's") for w in WIRINGS[1:]]
    columns += setting.heads(*TAIL)
    rows, paper = [], frames.paper("table1_speedup_by_model_size")
    batch = missing("the paper does not say; the authors' logs mostly match batch 4")
    for row in sorted(paper_rows(paper), key=lambda r: (float(r["model"].rstrip("B")), r["p2p"] == "disabled")):
        note = UNTRUSTED if row["model"] in ("34B", "176B") else TIMED_WITH if row["model"] == "3B" else ""
        model = words(row["model"], float(row["model"].rstrip("B")), note)
        start = setting.published(*heads, Model=model, TP=row["tp"], Batch=batch, Link=P2P[row["p2p"]])
        empty = missing("not published for this model")
        rows.append([*start, empty, value(row, times, ""), empty, *setting.published(*TAIL)])
    found = headline(points(frames))
    rows += [[*setting.own(point, *heads), *gains(point), *setting.own(point, *TAIL)] for point in found]
    trusted = paper[~paper["model"].isin(["34B", "176B"])]
    low, high = trusted["value"].min(), trusted["value"].max()
    caption = (
        f"Published, ladder gives {times(low)} to {times(high)} the tokens per second of standard from 1B to 405B. "
    )
    return Table(
        "speed_by_model_size",
        "Speed-up by model size (the paper's Table 1)",
        caption + own_phrase(found),
        columns,
        rows,
        ["Published: prompt 1024, 512 new tokens, fp16, H100.", *notes_on(found)],
    )


def by_batch(frames: Frames) -> Table:
    """The paper's batches of 70B (its Figure 2 has parallel, the blog has more batches of ladder) and our sweeps."""
    heads = ("Batch", "Model", "TP", "Link", "Origin")
    columns = [*setting.heads(*heads), Column("standard", "tokens/s")]
    columns += [Column(look(w).label, "tokens/s over standard's") for w in WIRINGS[1:]] + setting.heads(*TAIL)
    rows = []
    figure = frames.paper("fig2_70b_throughput", tp=8, p2p="enabled")
    blog = frames.paper("blog_tables", table="Blog table: 70B by batch size")
    for file, paper in (("the authors' plot script", figure), ("the authors' blog", blog)):
        for batch, group in paper[paper["metric"] == "tokens/s"].groupby("batch", sort=True):
            speed = {w: first(group[group["wiring"] == w]) for w in WIRINGS}
            model = words("70B", note=f"from {file}")
            start = setting.published(*heads, Batch=batch, Model=model, TP=8, Link="NVLink, P2P on")
            cells = [value(ratio_of(speed[w], speed["standard"]), times, f"not in {file}") for w in WIRINGS[1:]]
            cells = [value(speed["standard"], number, "not published"), *cells]
            rows.append([*start, *cells, *setting.published(*TAIL)])
    found = [p for sweep in sweeps(plain(points(frames)), "batch") for p in sweep]
    for point in found:
        start = setting.own(point, *heads, link=point.link_name)
        rows.append([*start, *speeds(point, ["standard"]), *gains(point), *setting.own(point, *TAIL)])
    if not found:
        rows.append([missing(NONE_HERE), *(missing(NONE_HERE) for _ in columns[1:])])
    shrinks = blog[blog["metric"] == "tokens/s speedup over standard"].sort_values("batch")
    caption = (
        f"Published, ladder's gain on 70B shrinks from {times(shrinks['value'].iloc[0])} at batch "
        f"{shrinks['batch'].iloc[0]:g} to {times(shrinks['value'].iloc[-1])} at batch {shrinks['batch'].iloc[-1]:g}: "
        "with more compute per all-reduce there is less communication to hide."
    )
    return Table("speed_by_batch", "Speed-up by batch size, all rows", caption, columns, rows, notes_on(found))


def ratio_of(own: dict | None, standard: dict | None) -> dict | None:
    """Published tokens/s over standard's."""
    if own is None or standard is None:
        return None
    note = "derived: ratio of the published tokens/s"
    ratio = own["value"] / standard["value"]
    return own | {"metric": "tokens/s speedup over standard", "unit": "x", "value": ratio, "note": note}


def batch_caption(frames: Frames) -> str:
    """Whether parallel catches up with ladder where the batch is large."""
    paper = frames.paper("fig2_70b_throughput", tp=8, p2p="enabled")
    speed = paper.set_index(["batch", "wiring"])["value"]
    parts = []
    for batch in (paper["batch"].min(), paper["batch"].max()):
        ladder, parallel = (speed[batch, w] / speed[batch, "standard"] for w in ("ladder", "parallel"))
        parts.append(f"{times(ladder)} (parallel {times(parallel)}) at batch {batch:g}")
    caption = f"Published for 70B at TP 8, ladder gains {listing(parts)}: {caught_up(ladder / parallel - 1)}. "
    for sweep in sweeps(plain(points(frames)), "batch"):
        ends = [(p, p.throughput_gain("ladder"), p.throughput_gain("parallel")) for p in (sweep[0], sweep[-1])]
        if all(ladder and parallel for _, ladder, parallel in ends):
            cells = [
                f"{times(a['value'])} (parallel {times(b['value'])}) at batch {p.key['batch']:g}" for p, a, b in ends
            ]
            lead = ends[1][1]["value"] / ends[1][2]["value"] - 1
            where = f"{sweep[0].origin.capitalize()} here ({curve_words(sweep)})"
            caption += f"{where}: {listing(cells)}: {caught_up(lead)}. "
    return caption.strip()


def caught_up(lead: float) -> str:
    return "there parallel has caught up" if lead <= 0.02 else f"there ladder still leads by {percent(lead)}"


def latency_breakdown(frames: Frames) -> Table:
    paper = frames.paper("table2_latency_breakdown_70b")
    names = ["prefill latency improvement", "decode latency improvement", "tokens/s improvement"]
    heads = ("Shape", "Link", "Origin")
    columns = [Column("Wiring", words=True), *setting.heads(*heads), Column("prefill time saved, %")]
    columns += [Column("decode time saved, %"), Column("tokens/s gained, %"), *setting.heads(*TAIL)]

    def one_decimal(number_: float) -> str:
        return f"{number_:.1f}"

    rows = []
    for p2p in ("enabled", "disabled"):
        for wiring in WIRINGS[1:]:
            group = paper[(paper["p2p"] == p2p) & (paper["wiring"] == wiring)]
            cells = [first(group[group["metric"] == name]) for name in names]
            notes = ["", "", UNCONFIRMED if (p2p, wiring) == ("disabled", "ladder") else ""]
            start = setting.published(*heads, Shape="70B, TP 8, batch 1", Link=P2P[p2p])
            cells = [value(c, one_decimal, "not published", n) for c, n in zip(cells, notes, strict=True)]
            rows.append([words(look(wiring).label), *start, *cells, *setting.published(*TAIL)])
    found = headline(points(frames))
    for point in found:
        for wiring in [w for w in point.wirings if w != "standard"]:
            saved = [value(point.improvement(wiring, phase), one_decimal, NOT_TIMED) for phase in ("prefill", "decode")]
            gain = point.throughput_gain(wiring)
            if gain is not None:
                ends = {k: 100 * (gain[k] - 1) for k in ("value", "low", "high") if pd.notna(gain[k])}
                gain = gain | ends | {"metric": "throughput_improvement", "unit": "percent"}
            start = setting.own(point, *heads)
            cells = [*saved, value(gain, one_decimal, NOT_TIMED)]
            rows.append([words(look(wiring).label), *start, *cells, *setting.own(point, *TAIL)])
    ladder = {p: first(paper[(paper["p2p"] == p) & (paper["wiring"] == "ladder") & (paper["metric"] == names[1])])
              for p in ("enabled", "disabled")}  # fmt: skip
    caption = (
        f"Published for 70B, ladder saves {ladder['enabled']['value']:.0f} % of the decode time with P2P and "
        f"{ladder['disabled']['value']:.0f} % without, and little of the prefill time. "
    )
    parts = told(found, lambda p: p.improvement("ladder", "decode"), lambda saved: f"{saved:.0f} %")
    caption += f"Emulated here: {parts}." if parts else own_phrase(found)
    title = "Latency breakdown (the paper's Table 2)"
    notes = ["Brackets: 95 % interval of the median's ratio.", *notes_on(found)]
    return Table("latency_breakdown", title, caption, columns, rows, notes)


def overlap(frames: Frames) -> Table:
    """How much communication each wiring hides: what the paper argues from, and never tabulates."""
    heads, tail = ("Shape", "Link", "Origin"), ("Computed", *TAIL)
    columns = [Column("Wiring", words=True), Column("Phase", words=True), *setting.heads(*heads)]
    columns += [Column("ms per step", "wall clock"), Column("speed-up", "wall clock")]
    columns += [Column("hidden, %", clock) for clock in ("wall clock", "virtual clock", "schedule")]
    columns += setting.heads(*tail)
    rows = []
    found = [p for p in headline(points(frames)) if p.origin == "emulated"]
    for phase in ("decode", "prefill"):
        for point in found:
            for wiring in point.wirings:
                what = {"origin": point.origin, "rho": point.rho, "phase": phase, "wiring": wiring}
                cells: list[Cell] = [
                    value(point.row("seconds", wiring, phase), seconds_text, NOT_TIMED, **what),
                    value(point.row("speedup", wiring, phase), times, NOT_TIMED, **what),
                ]
                for clock in ("wall", "virtual", "schedule"):
                    row = point.row(f"hidden_{clock}", wiring, phase)
                    empty = NO_CLOCK if clock != "wall" and point.row("hidden_wall", wiring, phase) else TOO_FAST
                    cells.append(value(row, lambda h: f"{100 * h:.0f}", empty, metric=f"hidden_{clock}", **what))
                start = [words(look(wiring).label), words(phase), *setting.own(point, *heads)]
                rows.append([*start, *cells, *setting.own(point, *tail)])
    if not rows:
        rows.append([missing(NONE_HERE) for _ in columns])
    shares = told(found, lambda p: p.row("hidden_virtual", "ladder") or p.row("hidden_wall", "ladder"), percent)
    caption = f"Communication that ladder hides in decode: {shares}." if shares else own_phrase(found)
    notes = [
        "hidden = (T standard − T wiring) / (T standard − T upper bound). Brackets: 95 % interval, bootstrap over "
        "rounds. The caption's shares are the virtual clock's, where there is one.",
        SERIAL,
        "Virtual clock: CPU time of the computing thread plus the link waits; a schedule driven by measured times, not "
        "a latency. Schedule: the two-resource model with the measured module times; its last all-reduce has nothing "
        "to hide behind.",
    ]
    return Table("overlap", "Share of communication hidden", caption, columns, rows, notes)


NO_CLOCK = "not told by this clock: no virtual one on a GPU; a schedule of the first way of computing only"


def throughput_by_tp(frames: Frames) -> Table:
    paper = frames.paper("fig2_70b_throughput")
    heads = ("TP", "Model", "Batch", "Link", "Origin")
    columns = setting.heads(*heads) + [Column(look(w).label, "tokens/s") for w in WIRINGS]
    columns += [Column("ladder over standard"), *setting.heads(*TAIL)]
    rows = []
    for (p2p, batch, tp), group in sorted(
        paper.groupby(["p2p", "batch", "tp"]), key=lambda g: (g[0][0] == "disabled", g[0])
    ):
        speed = {w: first(group[group["wiring"] == w]) for w in WIRINGS}
        start = setting.published(*heads, TP=tp, Model="70B", Batch=batch, Link=P2P[p2p])
        cells = [value(speed[w], number, "not published") for w in WIRINGS]
        cells.append(value(ratio_of(speed["ladder"], speed["standard"]), times, ""))
        rows.append([*start, *cells, *setting.published(*TAIL)])
    shown = plain(points(frames))
    found = [p for sweep in sweeps(shown, "tp") for p in sweep]
    found += [p for p in shown if p.origin == "measured" and p.key["tp"] > 1 and not any(p is q for q in found)]
    for point in found:
        gain = value(point.throughput_gain("ladder"), times, NOT_TIMED)
        start = setting.own(point, *heads, link=point.link_name)
        rows.append([*start, *speeds(point), gain, *setting.own(point, *TAIL)])
    over_tp = {
        tp: float(group.loc[group["wiring"] == "ladder", "value"].iloc[0])
        / float(group.loc[group["wiring"] == "standard", "value"].iloc[0])
        for tp, group in paper[(paper["batch"] == 1) & (paper["p2p"] == "enabled")].groupby("tp")
    }
    parts = [f"{times(gain)} at TP {tp:g}" for tp, gain in over_tp.items()]
    caption = (
        f"Published for 70B at batch 1 with P2P, ladder gains {listing(parts)}: the more ranks, the more to hide. "
    )
    for sweep in sweeps(shown, "tp"):
        cells = [
            f"{times(gain['value'])} at TP {p.key['tp']:g}" for p in sweep if (gain := p.throughput_gain("ladder"))
        ]
        caption += f"{sweep[0].origin.capitalize()} here ({curve_words(sweep)}): {listing(cells)}. "
    notes = ["Published: two machines are mixed in the authors' plot script.", *notes_on(found)]
    title = "Throughput by TP degree (the paper's Figure 2)"
    return Table("throughput_by_tp", title, caption.strip(), columns, rows, notes)


def cross_node(frames: Frames) -> Table:
    paper = frames.paper("fig3_405b_speedup")
    heads = ("Batch", "Model", "TP", "Link", "Origin")
    columns = setting.heads(*heads) + [Column(look(w).label, "tokens/s over standard's") for w in WIRINGS[1:]]
    columns += setting.heads(*TAIL)
    rows = []
    for p2p in ("enabled", "disabled"):
        for batch, group in paper[paper["p2p"] == p2p].groupby("batch", sort=True):
            start = setting.published(*heads, Batch=batch, Model="405B", TP=16, Link=f"2 nodes, {P2P[p2p]}")
            cells = [value(first(group[group["wiring"] == w]), times, "not published") for w in WIRINGS[1:]]
            rows.append([*start, *cells, *setting.published(*TAIL)])
    own = [p for p in points(frames) if p.key["model"] == "llama-3.1-405b" and p.key["tp"] == 16]
    rows += [[*setting.own(point, *heads), *gains(point), *setting.own(point, *TAIL)] for point in own]
    if not own:
        reason = "no 405B model was timed: over real ranks it needs two nodes of 8 GPUs"
        what = {"model": "llama-3.1-405b", "tp": 16, "metric": "speedup"}
        start = [missing(reason, **what), words("llama-3.1-405b"), words("16", 16), words("2 nodes")]
        start += [words("this run"), *(missing(reason, wiring=w, **what) for w in WIRINGS[1:])]
        rows.append([*start, missing(reason)])
    ladder = paper[paper["wiring"] == "ladder"]
    on, off = (ladder.loc[ladder["p2p"] == p, "value"] for p in ("enabled", "disabled"))
    caption = (
        f"Published across two nodes, ladder gives {times(on.min())} to {times(on.max())} with P2P and "
        f"{times(off.min())} to {times(off.max())} without. "
    )
    caption += own_phrase(own) if own else "This run has no 405B timing of its own."
    return Table("cross_node", "405B across two nodes (the paper's Figure 3)", caption, columns, rows)


TABLES = [overlap, by_model_size, by_batch, latency_breakdown, throughput_by_tp, cross_node]
