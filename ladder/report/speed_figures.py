"""Figures of speed."""

from ladder.report.drawing import empty_panel, legend, line, throughput_gains, tidy
from ladder.report.finding import against_links, finding
from ladder.report.frames import Frames
from ladder.report.points import curve_words, headline, plain, points, sweeps
from ladder.report.setting import P2P
from ladder.report.speed_tables import WIRINGS, told
from ladder.report.style import COMMUNICATION, INK, listing, look, order, times
from ladder.report.svg import Figure, Panel
from ladder.report.timeline import timeline


def by_model_size(frames: Frames) -> Figure:
    paper = frames.paper("table1_speedup_by_model_size")
    models = list(dict.fromkeys(paper["model"]))
    shown = [p for p in headline(points(frames)) if p.origin == "emulated" or p.key["backend"] != "gloo"]
    own = [(p, row) for p in shown if (row := p.throughput_gain("ladder"))]
    labels = models + list(dict.fromkeys(p.key["model"] for p, _ in own))
    colour = look("ladder").colour

    def draw(axes):
        for p2p, face in (("enabled", colour), ("disabled", "none")):
            part = paper[paper["p2p"] == p2p]
            axes.plot(part["value"], [labels.index(m) for m in part["model"]], "o", color=colour, mfc=face,
                      label=f"published, {P2P[p2p]}")  # fmt: skip
        if own:
            for origin, face in (("emulated", COMMUNICATION), ("measured", "none")):
                some = [(r["value"], labels.index(p.key["model"])) for p, r in own if p.origin == origin]
                if some:
                    axes.plot(
                        *zip(*some, strict=True), "P", ms=7, mfc=face, color=COMMUNICATION, label=f"ours, {origin}"
                    )
            for n, (p, row) in enumerate(own):  # in turn above and below, since neighbours may be close
                axes.annotate(f"ρ {p.rho:g}" if p.rho is not None else p.link.removeprefix("emulated, "),
                              (row["value"], labels.index(p.key["model"])), (0, -14 if n % 2 else 6), ha="center",
                              textcoords="offset points", fontsize=8)  # fmt: skip
        daggers = [f"{m} †" if m in ("34B", "176B") else m for m in labels]
        axes.set_yticks(range(len(labels)), daggers)
        axes.invert_yaxis()
        axes.margins(y=0.09)
        axes.axvline(1, color=INK, linewidth=0.8, alpha=0.6)
        axes.set_xlim(left=0.97)
        axes.set_xlabel("tokens/s of ladder over standard")
        legend(axes, 1)

    alt = "Published: " + listing(
        f"{m} {times(v)}" for m, v in paper[paper["p2p"] == "enabled"].set_index("model")["value"].items()
    )
    alt += " with P2P. " + (
        "Ours: " + listing(f"{times(r['value'])} ({p.key['model']} {p.at}, {p.origin})" for p, r in own) + "."
        if own
        else "This run: none."
    )
    caption = (
        f"Published speed-ups lie between {times(paper['value'].min())} and {times(paper['value'].max())}; "
        "† 34B and 176B disagree with the authors' other data. "
    )
    caption += "An emulated rank of ours moves along its link." if own else "This run has no emulated timing."
    data = [*paper.to_dict("records"), *(r for _, r in own)]
    panel = Panel("speed_by_model_size", alt, draw, (4.6, 3.9))
    return Figure("speed_by_model_size", "Speed-up by model size", caption, [panel], tidy(data))


def latency_breakdown(frames: Frames) -> Figure:
    paper = frames.paper("table2_latency_breakdown_70b")
    own = [p for p in headline(points(frames)) if p.key["model"] == "llama-3-70b" and p.row("speedup", "ladder")]
    own += [p for p in against_links(frames) if p.row("speedup", "ladder")]
    settings = [("published, P2P on", "enabled"), ("published, P2P off", "disabled")]
    settings += [(p.link if p.rho is not None else f"{p.key['model']}, {p.link}", p) for p in own]

    def improvement(setting, phase: str, wiring: str) -> dict | None:
        if not isinstance(setting, str):
            return setting.improvement(wiring, phase)
        rows = paper[(paper["p2p"] == setting) & (paper["wiring"] == wiring)]
        rows = rows[rows["metric"] == f"{phase} latency improvement"]
        return rows.iloc[0].to_dict() if len(rows) else None

    panels, data = [], []
    for phase in ("prefill", "decode"):
        found = {(s, w): improvement(setting, phase, w) for s, setting in settings for w in WIRINGS[1:]}
        data += [row for row in found.values() if row]

        def draw(axes, phase=phase, found=found):
            for i, wiring in enumerate(WIRINGS[1:]):
                rows = [(n + 0.16 * (i - 1), found[s, wiring]) for n, (s, _) in enumerate(settings) if found[s, wiring]]
                how = look(wiring)
                axes.plot(
                    [r["value"] for _, r in rows], [y for y, _ in rows], how.marker, color=how.colour, label=how.label
                )
            axes.set_yticks(range(len(settings)), [s for s, _ in settings])
            axes.invert_yaxis()
            axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
            axes.set_xlabel(f"{phase} time saved against standard, %")
            legend(axes, 3, columnspacing=0.8, handletextpad=0.1)

        cells = [f"{s}: {found[s, 'ladder']['value']:.0f} %" for s, _ in settings if found[s, "ladder"]]
        alt = f"{phase.capitalize()} time that ladder saves: {listing(cells)}."
        panels.append(Panel(f"latency_breakdown-{phase}", alt, draw))
    decode = [
        r["value"]
        for r in paper[(paper["metric"] == "decode latency improvement") & (paper["wiring"] == "ladder")].to_dict(
            "records"
        )
    ]
    caption = f"Published for 70B, ladder saves {min(decode):.0f} to {max(decode):.0f} % of the decode time. "
    parts = told(own, lambda p: p.improvement("ladder", "decode"), lambda saved: f"{saved:.0f} %")
    caption += f"Emulated here: {parts}." if parts else "This run has no emulated timing."
    return Figure("latency_breakdown", "Where the time goes: prefill and decode", caption, panels, tidy(data))


def throughput_by_tp(frames: Frames) -> Figure:
    paper = frames.paper("fig2_70b_throughput")
    panels, data = [], paper.to_dict("records")
    for batch in (1, 64):
        for p2p in ("enabled", "disabled"):
            part = paper[(paper["batch"] == batch) & (paper["p2p"] == p2p)]

            def draw(axes, part=part, batch=batch, p2p=p2p):
                for wiring in sorted(part["wiring"].unique(), key=order):
                    rows = part[part["wiring"] == wiring].sort_values("tp")
                    line(axes, wiring, rows["tp"], rows["value"])
                axes.set_xticks(sorted(part["tp"].unique()))
                axes.set_ylim(bottom=0)
                axes.set_xlabel(f"TP degree (batch {batch}, {P2P[p2p]})")
                axes.set_ylabel("tokens/s (published, 70B)")
                legend(axes)

            top = part[part["tp"] == 8].set_index("wiring")["value"]
            cells = [f"{look(w).label} {v:,.0f}" for w, v in top.items()]
            alt = f"Published tokens/s at TP 8, batch {batch}, {P2P[p2p]}: {listing(cells)}."
            panels.append(Panel(f"throughput_by_tp-batch{batch}-p2p-{p2p}", alt, draw))
    own = sweeps(plain(points(frames)), "tp")
    for number, sweep in enumerate(sorted(own, key=len, reverse=True)[:2]):
        for p in sweep:
            data += p.rows[p.rows["metric"] == "tokens_per_second"].to_dict("records")
        where = curve_words(sweep)
        speed = {
            w: [(p.key["tp"], v) for p in sweep if (v := p.value("tokens_per_second", w, "both"))] for w in WIRINGS
        }

        def draw_own(axes, speed=speed, sweep=sweep):
            for wiring, found in speed.items():
                line(axes, wiring, [tp for tp, _ in found], [v for _, v in found])
            axes.set_xticks([p.key["tp"] for p in sweep])
            axes.set_ylim(bottom=0)
            axes.set_xlabel(f"TP degree ({sweep[0].key['model']}, {sweep[0].hardware})")
            axes.set_ylabel(f"tokens/s ({sweep[0].origin})")
            legend(axes)

        cells = [
            f"{look(w).label} {listing(f'{v:.1f} at TP {tp:g}' for tp, v in speed[w])}" for w in WIRINGS if speed[w]
        ]
        panels.append(Panel(f"throughput_by_tp-own{number}", f"Tokens/s, {where}: {'; '.join(cells)}.", draw_own))
    if not own:
        panels.append(empty_panel("throughput_by_tp-own", "This run holds no sweep over the TP degree."))
    gain = (
        throughput_gains(paper).query("wiring == 'ladder' and batch == 1 and p2p == 'enabled'").set_index("tp")["value"]
    )
    caption = (
        f"Published at batch 1, ladder's gain grows from {times(gain.iloc[0])} at TP {gain.index[0]:g} to "
        f"{times(gain.iloc[-1])} at TP {gain.index[-1]:g}. "
    )
    for sweep in own:
        ends = [(p, row) for p in sweep if (row := p.throughput_gain("ladder"))]
        cells = [f"{times(row['value'])} at TP {p.key['tp']:g}" for p, row in ends]
        caption += f"{sweep[0].origin.capitalize()} here ({curve_words(sweep)}): {listing(cells)}. "
    return Figure("throughput_by_tp", "Throughput by TP degree", caption, panels, tidy(data))


def cross_node(frames: Frames) -> Figure:
    paper = frames.paper("fig3_405b_speedup")
    panels = []
    for p2p in ("enabled", "disabled"):
        part = paper[paper["p2p"] == p2p]

        def draw(axes, part=part, p2p=p2p):
            for wiring in sorted(part["wiring"].unique(), key=order):
                rows = part[part["wiring"] == wiring].sort_values("batch")
                line(axes, wiring, rows["batch"], rows["value"])
            axes.set_xscale("log", base=2)
            batches = sorted(part["batch"].unique())
            axes.set_xticks(batches, [f"{b:g}" for b in batches])
            axes.minorticks_off()
            axes.axhline(1, color=INK, linewidth=0.8, alpha=0.6)
            axes.set_xlabel(f"batch (405B, TP 16, {P2P[p2p]})")
            axes.set_ylabel("tokens/s over standard (published)")
            legend(axes, 3, columnspacing=0.8, handletextpad=0.4)

        ladder = part[part["wiring"] == "ladder"].set_index("batch")["value"]
        alt = (
            f"Published, 405B across two nodes, {P2P[p2p]}: ladder "
            + listing(f"{times(v)} at batch {b:g}" for b, v in ladder.items())
            + "."
        )
        panels.append(Panel(f"cross_node-p2p-{p2p}", alt, draw))
    ladder = paper[paper["wiring"] == "ladder"]["value"]
    caption = f"Published, ladder gives {times(ladder.min())} to {times(ladder.max())} across two nodes. "
    own = [p for p in points(frames) if p.key["model"] == "llama-3.1-405b"]
    caption += (
        "Ours stand in the table." if own else "This run has no 405B timing of its own: it needs two nodes of 8 GPUs."
    )
    return Figure("cross_node", "405B across two nodes", caption, panels, paper.dropna(axis=1, how="all"))


FIGURES = [finding, by_model_size, latency_breakdown, throughput_by_tp, cross_node, timeline]
