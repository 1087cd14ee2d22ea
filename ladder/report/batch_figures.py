"""Figures over the batch: what is left of the speed-up when it grows, and what a token then costs in time."""

from ladder.report.drawing import empty_panel, legend, line, throughput_gains, tidy
from ladder.report.frames import Frames
from ladder.report.points import Measurement, plain, points, sweeps
from ladder.report.setting import P2P
from ladder.report.speed_tables import WIRINGS, batch_caption
from ladder.report.style import INK, listing, look, number, order, times
from ladder.report.svg import Figure, Panel

SHOWN = 2  # sweeps of ours that are drawn; the tables have all


def own_sweeps(frames: Frames) -> list[list[Measurement]]:
    """Our sweeps over the batch, the longest first."""
    return sorted(sweeps(plain(points(frames)), "batch"), key=len, reverse=True)


def where(sweep: list[Measurement]) -> str:
    key = sweep[0].key
    return f"{key['model']}, TP {key['tp']:g}, {sweep[0].hardware}"


def log_batches(axes, batches, label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(batches), [f"{b:g}" for b in sorted(batches)])
    axes.minorticks_off()
    axes.set_xlabel(label)


def by_batch(frames: Frames) -> Figure:
    gains = throughput_gains(frames.paper("fig2_70b_throughput", tp=8, p2p="enabled"))
    gains = gains[gains["wiring"].isin(["ladder", "parallel"])]
    blog = frames.paper("blog_tables", table="Blog table: 70B by batch size", metric="tokens/s speedup over standard")
    blog = blog.sort_values("batch")

    def published(axes):
        for wiring in sorted(gains["wiring"].unique(), key=order):
            rows = gains[gains["wiring"] == wiring].sort_values("batch")
            line(axes, wiring, rows["batch"], rows["value"])
        how = look("ladder")
        axes.plot(blog["batch"], blog["value"], how.marker, color=how.colour, mfc="none", ms=8, label="ladder, blog")
        log_batches(axes, blog["batch"], f"batch (published: 70B, TP 8, {P2P['enabled']})")
        finish(axes)

    def finish(axes):
        axes.axhline(1, color=INK, linewidth=0.8, alpha=0.6)
        axes.set_ylabel("tokens/s over standard")
        legend(axes, 3, columnspacing=1.0, handletextpad=0.4)

    panels = [Panel("speed_by_batch-published", f"Published for 70B at TP 8: {told(gains)}.", published)]
    data = [*gains.to_dict("records"), *blog.to_dict("records")]
    for number_, sweep in enumerate(own_sweeps(frames)[:SHOWN]):
        rows = {w: [(p.key["batch"], r) for p in sweep if (r := p.throughput_gain(w))] for w in ("parallel", "ladder")}
        data += [row for found in rows.values() for _, row in found]

        def own(axes, rows=rows, sweep=sweep):
            for wiring, found in rows.items():
                line(axes, wiring, [b for b, _ in found], [r["value"] for _, r in found])
            log_batches(axes, [p.key["batch"] for p in sweep], f"batch ({sweep[0].origin}: {where(sweep)})")
            finish(axes)

        cells = [
            f"{look(w).label} " + listing(f"{times(r['value'])} at batch {b:g}" for b, r in found)
            for w, found in rows.items()
        ]
        panels.append(
            Panel(f"speed_by_batch-own{number_}", f"{where(sweep)}, {sweep[0].link_name}: {'; '.join(cells)}.", own)
        )
    if len(panels) == 1:
        panels.append(empty_panel("speed_by_batch-own", "This run holds no sweep over the batch."))
    return Figure("speed_by_batch", "Speed-up by batch size", batch_caption(frames), panels, tidy(data))


def told(gains) -> str:
    parts = []
    for wiring, rows in gains.sort_values("batch").groupby("wiring"):
        cells = [f"{times(v)} at batch {b:g}" for b, v in zip(rows["batch"], rows["value"], strict=True)]
        parts.append(f"{look(wiring).label} {listing(cells)}")
    return "; ".join(parts)


def pareto(frames: Frames) -> Figure:
    """Curve of a wiring: (ms per token, tokens/s of a GPU, batch), a point a batch."""
    paper = frames.paper("fig2_70b_throughput", tp=8, p2p="enabled").sort_values("batch")
    curves = {
        wiring: [(1e3 * b / v, v / 8, b) for b, v in zip(rows["batch"], rows["value"], strict=True)]
        for wiring, rows in paper.groupby("wiring")
    }
    label = f"published: 70B, TP 8, {P2P['enabled']}"
    panels, data = [frontier("published", curves, label)], paper.to_dict("records")
    captions = [best("Published for 70B at TP 8", curves)]
    for number_, sweep in enumerate(own_sweeps(frames)[:SHOWN]):
        curves = {}
        for wiring in WIRINGS:
            both = [(p, p.row("seconds", wiring), p.per_gpu(wiring)) for p in sweep]
            both = [(p, s, t) for p, s, t in both if s and t]
            curves[wiring] = [(1e3 * s["value"], t["value"], p.key["batch"]) for p, s, t in both]
            data += [row for _, s, t in both for row in (s, t)]
        curves = {w: curve for w, curve in curves.items() if curve}
        panels.append(frontier(f"own{number_}", curves, f"{sweep[0].origin}: {where(sweep)}"))
        captions.append(best(f"{sweep[0].origin.capitalize()} here ({where(sweep)})", curves))
    if len(panels) == 1:
        panels.append(empty_panel("pareto-own", "This run holds no sweep over the batch."))
    captions.append("Up and to the left is better; numbers at the points of standard are batches.")
    captions.append("Published latency is batch over tokens/s, so it holds a share of prefill; ours is a decode step.")
    caption = " ".join(filter(None, captions))
    return Figure("pareto", "Latency against throughput", caption, panels, tidy(data))


def frontier(name: str, curves: dict[str, list[tuple]], label: str) -> Panel:
    def draw(axes):
        for wiring in sorted(curves, key=order):
            line(axes, wiring, [x for x, _, _ in curves[wiring]], [y for _, y, _ in curves[wiring]])
        for x, y, batch in curves.get("standard", []):
            axes.annotate(f"{batch:g}", (x, y), (5, -8), ha="left", textcoords="offset points", fontsize=8)
        axes.set_yscale("log")
        axes.minorticks_off()
        ticks = [y for curve in curves.values() for _, y, _ in curve]
        log_ticks(axes, min(ticks), max(ticks))
        axes.set_xlabel(f"ms per token ({label})")
        axes.set_ylabel("tokens/s per GPU")
        legend(axes, 4, columnspacing=0.8, handletextpad=0.3, handlelength=1.6)

    cells = [
        f"{look(w).label} " + listing(f"{number(y)} tokens/s at {x:.1f} ms (batch {b:g})" for x, y, b in curves[w])
        for w in sorted(curves, key=order)
    ]
    return Panel(f"pareto-{name}", f"{label[0].upper()}{label[1:]}: {'; '.join(cells)}.", draw)


def log_ticks(axes, low: float, high: float) -> None:
    """Plain numbers on the axis: 10, 20, 50, 100, ..."""
    ticks = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low / 1.5 <= tick <= high * 1.5]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def best(start: str, curves: dict[str, list[tuple]]) -> str:
    """What ladder gives at the largest batch, beside standard."""
    if not {"standard", "ladder"} <= set(curves):
        return ""
    cells = [
        f"{look(w).label} gives {number(y, 1)} tokens/s per GPU at {x:.1f} ms per token"
        for w, (x, y, _) in ((w, curves[w][-1]) for w in ("ladder", "standard"))
    ]
    return f"{start}, batch {curves['ladder'][-1][2]:g}, {' and '.join(cells)}."


FIGURES = [by_batch, pareto]
