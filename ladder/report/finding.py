"""The home page's figure: what each wiring hides and gains against rho, beside the published speed-ups."""

import pandas as pd

from ladder.report.drawing import empty_panel, legend, line, throughput_gains, tidy
from ladder.report.frames import Frames
from ladder.report.points import Measurement, extent, over_rho, points
from ladder.report.setting import P2P
from ladder.report.style import INK, listing, look, order, percent, times
from ladder.report.svg import Figure, Panel
from ladder.schedule import length, timeline
from ladder.wiring import table

CURVE = [i / 20 for i in range(2, 61)]  # rho from 0.1 to 3


def against_links(frames: Frames) -> list[Measurement]:
    """Our longest curve over rho; of several, that at batch 1 on the widest TP degree."""
    return max(over_rho(points(frames)), key=extent, default=[])


def extra_of(frames: Frames, found: list[Measurement], key: str) -> dict | None:
    """What the record of the curve's middle point holds under ``key``."""
    middle = found[len(found) // 2].key["record"] if found else None
    return next((record for record in frames.with_extra(key) if record["path"] == middle), None)


def scheduled(seconds: dict, wirings: list[str], tp: int) -> pd.DataFrame:
    """What the two-resource schedule says over a range of rho: columns rho, wiring, speedup, hidden (simulated)."""
    modules, mean, found = seconds["decode"], seconds["mean"], []
    depth = len(modules) // 2
    for rho in CURVE:
        took = {w: length(timeline(table(w, depth, tp), lambda n: modules[n], rho * mean)) for w in wirings}
        standard, silent = took["standard"], took["upper_bound"]
        for wiring in wirings:
            hidden = (standard - took[wiring]) / (standard - silent)
            found.append({"rho": rho, "wiring": wiring, "speedup": standard / took[wiring], "hidden": hidden})
    return pd.DataFrame(found)


def finding(frames: Frames) -> Figure:
    """The home page's figure: what each wiring hides and gains against rho, beside the published speed-ups."""
    found = against_links(frames)
    name, panels, data = "finding", [], []
    if found:
        model, tp = found[0].key["model"], found[0].key["tp"]
        record = extra_of(frames, found, "module_seconds")
        modules = record and record["module_seconds"]
        wirings = found[0].wirings
        bounded = modules and {"standard", "upper_bound"} <= set(wirings)
        curves = scheduled(modules, wirings, int(tp)) if bounded else None
        size = (3.7, 2.7 + 0.2 * -(-(len(wirings) - 1) // 3))  # the legend has three columns
        panels = [
            Panel(f"{name}-{what}", alt(found), lambda axes, what=what: against_rho(axes, found, curves, what), size)
            for what, alt in (("hidden", hidden_alt), ("speedup", speedup_alt))
        ]
        for p in found:
            data += p.rows[
                p.rows["metric"].str.startswith(("hidden", "speedup")) & (p.rows["phase"] == "decode")
            ].to_dict("records")
        if curves is not None:
            for row in curves.melt(["rho", "wiring"], var_name="metric").to_dict("records"):
                data.append(
                    row | {"origin": "simulated", "phase": "decode", "model": model, "note": "two-resource schedule"}
                )
    else:
        panels.append(empty_panel(f"{name}-own", "This run holds no emulated timing."))
    paper = frames.paper("fig2_70b_throughput", tp=8)
    gains = throughput_gains(paper)
    data += gains.to_dict("records")
    panels.append(Panel(f"{name}-published", published_alt(gains), lambda axes: by_batch(axes, gains), (3.7, 2.9)))
    return Figure(
        name, "What Ladder Residual hides, and what that gains", finding_caption(found, gains), panels, tidy(data)
    )


def against_rho(axes, found: list[Measurement], curves: pd.DataFrame | None, what: str) -> None:
    from matplotlib.ticker import MultipleLocator

    scale = 100 if what == "hidden" else 1
    wall, virtual = ("hidden_wall", "hidden_virtual") if what == "hidden" else ("speedup", "speedup_virtual")
    wirings = [w for w in found[0].wirings if w != "standard" and (what == "speedup" or w != "upper_bound")]
    for wiring in sorted(wirings, key=order):
        how = look(wiring)
        if curves is not None:
            part = curves[curves["wiring"] == wiring]
            axes.plot(part["rho"], scale * part[what], color=how.colour, linewidth=1.4, alpha=0.8)
        for metric, shift, face in ((virtual, -0.02, "none"), (wall, 0.02, how.colour)):
            rows = [(p.rho + shift, row) for p in found if (row := p.row(metric, wiring))]
            if not rows:
                continue
            y = [scale * row["value"] for _, row in rows]
            ends = [[scale * abs(row[end] - row["value"]) for _, row in rows] for end in ("low", "high")]
            label = how.label if metric == wall else None
            axes.errorbar([x for x, _ in rows], y, yerr=ends, fmt=how.marker, color=how.colour, mfc=face, label=label,
                          elinewidth=1, capsize=2)  # fmt: skip
    axes.set_xlabel("ρ: time of an all-reduce / time of a module")
    if what == "hidden":
        axes.set_ylabel("communication hidden, %")
        axes.set_ylim(-10, 110)
    else:
        axes.set_ylabel("decode speed-up over standard")
        axes.axhline(1, color=INK, linewidth=0.8, alpha=0.6)
    axes.xaxis.set_major_locator(MultipleLocator(0.5))
    axes.set_xlim(0, max(2.0, max(p.rho for p in found) * 1.15))
    legend(axes, 3, columnspacing=1.2, handletextpad=0.4)


def by_batch(axes, gains: pd.DataFrame) -> None:
    for p2p, dashes, face in (("enabled", "-", None), ("disabled", "--", "none")):
        for wiring in sorted(gains["wiring"].unique(), key=order):
            part = gains[(gains["p2p"] == p2p) & (gains["wiring"] == wiring)].sort_values("batch")
            if len(part):
                face_ = look(wiring).colour if face is None else face
                label = look(wiring).label if p2p == "enabled" else None
                line(axes, wiring, part["batch"], part["value"], linestyle=dashes, mfc=face_, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(gains["batch"].unique()), [f"{b:g}" for b in sorted(gains["batch"].unique())])
    axes.minorticks_off()
    axes.axhline(1, color=INK, linewidth=0.8, alpha=0.6)
    axes.set_xlabel("batch (published: 70B, TP 8, H100)")
    axes.set_ylabel("tokens/s over standard")
    axes.text(0.98, 0.97, "filled: P2P on; hollow: off", transform=axes.transAxes, ha="right", va="top", fontsize=8)
    legend(axes, 3, columnspacing=1.2, handletextpad=0.4)


def hidden_alt(found: list[Measurement]) -> str:
    parts = []
    for wiring in ("ladder", "parallel"):
        shares = [f"{percent(row['value'])} at ρ {p.rho:g}" for p in found if (row := p.row("hidden_virtual", wiring))]
        if shares:
            parts.append(f"{wiring} hides {listing(shares)}")
    return f"Share of communication hidden in decode against ρ: {'; '.join(parts) or 'not measured'} (virtual clock)."


def speedup_alt(found: list[Measurement]) -> str:
    parts = []
    for wiring in ("ladder", "parallel", "upper_bound"):
        gains = [f"{times(row['value'])} at ρ {p.rho:g}" for p in found if (row := p.row("speedup", wiring))]
        if gains:
            parts.append(f"{look(wiring).label} {listing(gains)}")
    return f"Decode speed-up over standard against ρ (wall clock): {'; '.join(parts)}."


def published_alt(gains: pd.DataFrame) -> str:
    ladder = gains[gains["wiring"] == "ladder"]
    parts = []
    for p2p in ("enabled", "disabled"):
        part = ladder[ladder["p2p"] == p2p].sort_values("batch")
        cells = [f"{times(v)} at batch {b:g}" for b, v in zip(part["batch"], part["value"], strict=True)]
        parts.append(f"{P2P[p2p]}: {listing(cells)}")
    return f"Published tokens/s of 70B under ladder over standard, TP 8. {'. '.join(parts)}."


def finding_caption(found: list[Measurement], gains: pd.DataFrame) -> str:
    best = gains[(gains["wiring"] == "ladder") & (gains["batch"] == 1)].set_index("p2p")["value"]
    caption = ""
    parts = [
        f"{percent(h['value'])} of the communication at ρ {p.rho:g}, for {times(s['value'])} the decode speed"
        for p in found
        if (h := p.row("hidden_virtual", "ladder")) and (s := p.row("speedup", "ladder"))
    ]
    if parts:
        caption += (
            f"On an emulated serial link ({found[0].key['model']}, rank 0 of TP {found[0].key['tp']:g} on "
            f"{found[0].hardware}), ladder hides {'; '.join(parts)}. "
        )
        caption += (
            "Points: emulated, filled by the wall clock, hollow by the virtual clock, with 95 % intervals. Lines: "
            "simulated by the two-resource schedule. "
        )
    return caption + (
        f"Published for 70B at TP 8 and batch 1: {times(best['enabled'])} with P2P, {times(best['disabled'])} without."
    )
