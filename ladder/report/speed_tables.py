"""Tables of speed: the paper's Tables 1 and 2 and Figures 2 and 3, each beside what this run found."""

import pandas as pd

from ladder.report.cells import Cell, Column, Table, missing, value, words
from ladder.report.frames import Frames
from ladder.report.points import NOT_TIMED, TOO_FAST, Point, emulated, points
from ladder.report.style import listing, look, number, percent, times

P2P = {"enabled": "NVLink, P2P on", "enabled (NVLink)": "NVLink, P2P on", "disabled": "P2P off"}
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


def paper_rows(frame: pd.DataFrame) -> list[dict]:
    return frame.to_dict("records")


def first(frame: pd.DataFrame) -> dict | None:
    return frame.iloc[0].to_dict() if len(frame) else None


def speedup_notes(found: list[Point]) -> list[str]:
    notes = [SERIAL] if any(p.rho is not None for p in found) else []
    return notes + ([LOOPBACK] if any(p.key["backend"] == "gloo" for p in found) else [])


def own_phrase(found: list[Point], wiring: str = "ladder") -> str:
    """What our points say about a wiring's tokens/s, in words."""
    gains = [(p, p.throughput_gain(wiring)) for p in found if p.rho is not None]
    parts = [f"{times(row['value'])} at ρ {p.rho:g}" for p, row in gains if row is not None]
    if not parts:
        return f"This run holds no emulated timing of {look(wiring).label}."
    shape = found[0].key
    return f"Emulated here ({shape['model']}, rank 0 of TP {shape['tp']:g}): {listing(parts)}."


def by_model_size(frames: Frames) -> Table:
    columns = [Column("Model", words=True), Column("TP"), Column("Batch"), Column("Link", words=True)]
    columns += [Column("Origin", words=True)]
    columns += [Column(look(w).label, "tokens/s over standard's") for w in WIRINGS[1:]]
    rows, paper = [], frames.paper("table1_speedup_by_model_size")
    unpublished = "not published for this model"
    for row in sorted(paper_rows(paper), key=lambda r: (float(r["model"].rstrip("B")), r["p2p"] == "disabled")):
        note = UNTRUSTED if row["model"] in ("34B", "176B") else TIMED_WITH if row["model"] == "3B" else ""
        size = float(row["model"].rstrip("B"))
        start = [words(row["model"], size, note), words(f"{row['tp']:g}", row["tp"])]
        start += [missing("the paper does not say; the authors' logs mostly match batch 4"), words(P2P[row["p2p"]])]
        empty = missing(unpublished)
        rows.append([*start, words("published"), empty, value(row, times, ""), empty])
    found = points(frames)
    for point in found:
        key = point.key
        start = [words(key["model"], 0.1), words(f"{key['tp']:g}", key["tp"]), words(f"{key['batch']:g}", key["batch"])]
        start += [words(point.link), words(point.origin)]
        rows.append([*start, *(value(point.throughput_gain(w), times, NOT_TIMED) for w in WIRINGS[1:])])
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
        ["Published: prompt 1024, 512 new tokens, fp16, H100.", *speedup_notes(found)],
    )


def by_batch(frames: Frames) -> Table:
    paper = frames.paper("blog_tables", table="Blog table: 70B by batch size")
    columns = [Column("Batch"), Column("Link", words=True), Column("Model", words=True), Column("Origin", words=True)]
    columns += [Column("standard", "tokens/s"), Column("ladder", "tokens/s"), Column("ladder over standard")]
    rows = []
    for batch, group in paper.groupby("batch", sort=True):
        speed = {w: first(group[(group["wiring"] == w) & (group["metric"] == "tokens/s")]) for w in WIRINGS[::2]}
        gain = first(group[group["metric"] == "tokens/s speedup over standard"])
        cells = [value(speed[w], number, "not published") for w in ("standard", "ladder")]
        note = gain["note"] if gain else ""
        start = [words(f"{batch:g}", batch), words("NVLink, P2P on"), words("70B, TP 8"), words("published")]
        rows.append([*start, *cells, value(gain, times, "not published", note)])
    found = points(frames)
    for point in found:
        key = point.key
        start = [words(f"{key['batch']:g}", key["batch"]), words(point.link)]
        start += [words(f"{key['model']}, TP {key['tp']:g}"), words(point.origin)]
        speed = [value(point.row("tokens_per_second", w, "both"), number, NOT_TIMED) for w in ("standard", "ladder")]
        rows.append([*start, *speed, value(point.throughput_gain("ladder"), times, NOT_TIMED)])
    gains = paper[paper["metric"] == "tokens/s speedup over standard"].sort_values("batch")
    caption = (
        f"Published, the gain on 70B shrinks from {times(gains['value'].iloc[0])} at batch {gains['batch'].iloc[0]:g} "
        f"to {times(gains['value'].iloc[-1])} at batch {gains['batch'].iloc[-1]:g}: with more compute per all-reduce "
        "there is less communication to hide."
    )
    return Table("speed_by_batch", "Speed-up by batch size (the authors' blog)", caption, columns, rows)


def latency_breakdown(frames: Frames) -> Table:
    paper = frames.paper("table2_latency_breakdown_70b")
    names = ["prefill latency improvement", "decode latency improvement", "tokens/s improvement"]
    columns = [Column("Wiring", words=True), Column("Link", words=True), Column("Model", words=True)]
    columns += [Column("Origin", words=True), Column("prefill time saved, %"), Column("decode time saved, %")]
    columns += [Column("tokens/s gained, %")]

    def whole(number_: float) -> str:
        return f"{number_:.1f}"

    rows = []
    for p2p in ("enabled", "disabled"):
        for wiring in WIRINGS[1:]:
            group = paper[(paper["p2p"] == p2p) & (paper["wiring"] == wiring)]
            cells = [first(group[group["metric"] == name]) for name in names]
            notes = ["", "", UNCONFIRMED if (p2p, wiring) == ("disabled", "ladder") else ""]
            start = [words(look(wiring).label), words(P2P[p2p]), words("70B, TP 8, batch 1"), words("published")]
            rows.append(start + [value(c, whole, "not published", n) for c, n in zip(cells, notes, strict=True)])
    found = points(frames)
    for point in found:
        key = point.key
        for wiring in [w for w in point.wirings if w != "standard"]:
            start = [words(look(wiring).label), words(point.link)]
            start += [words(f"{key['model']}, TP {key['tp']:g}, batch {key['batch']:g}"), words(point.origin)]
            saved = [value(point.improvement(wiring, phase), whole, NOT_TIMED) for phase in ("prefill", "decode")]
            gain = point.throughput_gain(wiring)
            if gain is not None:
                gain |= {"metric": "throughput_improvement", "unit": "percent", "value": 100 * (gain["value"] - 1)}
            rows.append([*start, *saved, value(gain, whole, NOT_TIMED)])
    ladder = {p: first(paper[(paper["p2p"] == p) & (paper["wiring"] == "ladder") & (paper["metric"] == names[1])])
              for p in ("enabled", "disabled")}  # fmt: skip
    caption = (
        f"Published for 70B, ladder saves {ladder['enabled']['value']:.0f} % of the decode time with P2P and "
        f"{ladder['disabled']['value']:.0f} % without, and little of the prefill time. "
    )
    own = [(p, p.improvement("ladder", "decode")) for p in found if p.rho is not None]
    parts = [f"{row['value']:.0f} % at ρ {p.rho:g}" for p, row in own if row is not None]
    caption += f"Emulated here, it saves {listing(parts)} of the decode time." if parts else own_phrase(found)
    title = "Latency breakdown (the paper's Table 2)"
    notes = ["Brackets: 95 % interval of the median's ratio.", *speedup_notes(found)]
    return Table("latency_breakdown", title, caption, columns, rows, notes)


def overlap(frames: Frames) -> Table:
    """How much communication each wiring hides: what the paper argues from, and never tabulates."""
    columns = [Column("Wiring", words=True), Column("ρ"), Column("Phase", words=True), Column("Origin", words=True)]
    columns += [Column("ms per step", "wall clock"), Column("speed-up", "wall clock")]
    columns += [
        Column("hidden, %", "wall clock"),
        Column("hidden, %", "virtual clock"),
        Column("hidden, %", "schedule"),
    ]
    rows = []
    for point in emulated(frames):
        for phase in ("decode", "prefill"):
            for wiring in point.wirings:
                what = {"origin": point.origin, "rho": point.rho, "phase": phase, "wiring": wiring}
                start = [words(look(wiring).label), words(f"{point.rho:g}", point.rho), words(phase)]
                cells: list[Cell] = [
                    value(point.row("seconds", wiring, phase), lambda s: f"{1e3 * s:.1f}", NOT_TIMED, **what),
                    value(point.row("speedup", wiring, phase), times, NOT_TIMED, **what),
                ]
                for clock in ("wall", "virtual", "schedule"):
                    row = point.row(f"hidden_{clock}", wiring, phase)
                    cells.append(value(row, lambda h: f"{100 * h:.0f}", TOO_FAST, metric=f"hidden_{clock}", **what))
                rows.append([*start, words(point.origin), *cells])
    shares = [(p.rho, p.row("hidden_virtual", "ladder"), p.row("hidden_wall", "ladder")) for p in emulated(frames)]
    parts = [
        f"{percent(v['value'])} at ρ {rho:g} ({percent(w['value'])} by the wall clock)"
        for rho, v, w in shares
        if v and w
    ]
    caption = f"In decode, ladder hides {listing(parts)} of the communication." if parts else own_phrase(points(frames))
    notes = [
        "hidden = (T standard − T wiring) / (T standard − T upper bound). Brackets: 95 % interval, bootstrap over "
        "rounds.",
        SERIAL,
        "Virtual clock: CPU time of the computing thread plus the link waits; a schedule driven by measured times, "
        "not a "
        "latency. Schedule: the two-resource model with the measured module times; its last all-reduce has nothing to "
        "hide behind.",
    ]
    return Table("overlap", "Share of communication hidden", caption, columns, rows, notes)


def throughput_by_tp(frames: Frames) -> Table:
    paper = frames.paper("fig2_70b_throughput")
    columns = [Column("TP"), Column("Batch"), Column("Link", words=True), Column("Model", words=True)]
    columns += [Column("Origin", words=True), *(Column(look(w).label, "tokens/s") for w in WIRINGS)]
    columns += [Column("ladder over standard")]
    rows = []
    for (p2p, batch, tp), group in sorted(
        paper.groupby(["p2p", "batch", "tp"]), key=lambda g: (g[0][0] == "disabled", g[0])
    ):
        speed = {w: first(group[group["wiring"] == w]) for w in WIRINGS}
        start = [words(f"{tp:g}", tp), words(f"{batch:g}", batch), words(P2P[p2p]), words("70B"), words("published")]
        gain = speed["ladder"] | {
            "metric": "tokens/s speedup over standard",
            "unit": "x",
            "value": speed["ladder"]["value"] / speed["standard"]["value"],
            "note": "derived: ratio of the published tokens/s",
        }
        cells = [value(speed[w], number, "not published") for w in WIRINGS]
        rows.append([*start, *cells, value(gain, times, "")])
    found = points(frames)
    for point in found:
        key = point.key
        start = [words(f"{key['tp']:g}", key["tp"]), words(f"{key['batch']:g}", key["batch"]), words(point.link)]
        start += [words(key["model"]), words(point.origin)]
        speed = [value(point.row("tokens_per_second", w, "both"), number, NOT_TIMED) for w in WIRINGS]
        rows.append([*start, *speed, value(point.throughput_gain("ladder"), times, NOT_TIMED)])
    gains = {
        tp: float(group.loc[group["wiring"] == "ladder", "value"].iloc[0])
        / float(group.loc[group["wiring"] == "standard", "value"].iloc[0])
        for tp, group in paper[(paper["batch"] == 1) & (paper["p2p"] == "enabled")].groupby("tp")
    }
    parts = [f"{times(gain)} at TP {tp:g}" for tp, gain in gains.items()]
    caption = (
        f"Published for 70B at batch 1 with P2P, ladder gains {listing(parts)}: the more ranks, the more to hide. "
    )
    notes = ["Published: two machines are mixed in the authors' plot script.", *speedup_notes(found)]
    return Table(
        "throughput_by_tp",
        "Throughput by TP degree (the paper's Figure 2)",
        caption + own_phrase(found),
        columns,
        rows,
        notes,
    )


def cross_node(frames: Frames) -> Table:
    paper = frames.paper("fig3_405b_speedup")
    columns = [Column("Batch"), Column("Link", words=True), Column("Model", words=True), Column("Origin", words=True)]
    columns += [Column(look(w).label, "tokens/s over standard's") for w in WIRINGS[1:]]
    rows = []
    for p2p in ("enabled", "disabled"):
        for batch, group in paper[paper["p2p"] == p2p].groupby("batch", sort=True):
            start = [
                words(f"{batch:g}", batch),
                words(f"2 nodes, {P2P[p2p]}"),
                words("405B, TP 16"),
                words("published"),
            ]
            rows.append(
                start + [value(first(group[group["wiring"] == w]), times, "not published") for w in WIRINGS[1:]]
            )
    own = [p for p in points(frames) if p.key["model"] == "llama-3.1-405b" and p.key["tp"] == 16]
    for point in own:
        start = [words(f"{point.key['batch']:g}", point.key["batch"]), words(point.link)]
        start += [words("llama-3.1-405b, TP 16"), words(point.origin)]
        rows.append(start + [value(point.throughput_gain(w), times, NOT_TIMED) for w in WIRINGS[1:]])
    if not own:
        reason = "this profile times no 405B model: it needs two nodes of 8 GPUs"
        what = {"model": "llama-3.1-405b", "tp": 16, "metric": "speedup"}
        start = [missing(reason, **what), words("2 nodes"), words("llama-3.1-405b, TP 16"), words("this run")]
        rows.append(start + [missing(reason, wiring=w, **what) for w in WIRINGS[1:]])
    ladder = paper[paper["wiring"] == "ladder"]
    on, off = (ladder.loc[ladder["p2p"] == p, "value"] for p in ("enabled", "disabled"))
    caption = (
        f"Published across two nodes, ladder gives {times(on.min())} to {times(on.max())} with P2P and "
        f"{times(off.min())} to {times(off.max())} without. "
    )
    caption += own_phrase(own) if own else "This run has no 405B timing of its own."
    return Table("cross_node", "405B across two nodes (the paper's Figure 3)", caption, columns, rows)


TABLES = [overlap, by_model_size, by_batch, latency_breakdown, throughput_by_tp, cross_node]
