"""The traced decode step: what computes and what is on the link, wiring by wiring."""

import pandas as pd

from ladder.report.drawing import empty_panel
from ladder.report.finding import against_links, extra_of
from ladder.report.frames import Frames
from ladder.report.style import COMMUNICATION, listing, look, order, percent
from ladder.report.svg import Figure, Panel


def timeline(frames: Frames) -> Figure:
    """Real spans of one decode step: what computes and what is on the link, wiring by wiring."""
    chosen = extra_of(frames, against_links(frames), "timelines")
    records = [chosen] if chosen else frames.with_extra("timelines")
    title = "One decode step"
    if not records:
        text = "This run holds no trace of a decode step."
        return Figure("timeline", title, text, [empty_panel("timeline", text)])
    record = records[-1]
    origin = next((row["origin"] for row in record["rows"] if row["metric"] == "seconds"), "emulated")
    spans = {
        w: [s for s in record["timelines"][w] if not s.get("rank")] for w in sorted(record["timelines"], key=order)
    }
    spans = {w: found for w, found in spans.items() if found}
    rho = record.get("timeline_rho")

    def draw(axes):
        lanes = []
        for wiring, steps in spans.items():
            for lane in ("compute", "communication"):
                here = [s for s in steps if s["lane"] == lane]
                if lane == "communication" and not here:
                    continue
                y = len(lanes)
                lanes.append(look(wiring).label if lane == "compute" else "link")
                if lane == "communication":
                    bars(axes, here, y, COMMUNICATION, 1)
                else:
                    bars(axes, [s for s in here if s["name"].startswith("attention")], y, look(wiring).colour, 0.55)
                    bars(axes, [s for s in here if s["name"].startswith("mlp")], y, look(wiring).colour, 1)
        axes.set_yticks(range(len(lanes)), lanes)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("ms (light: attention, full: MLP, gold: all-reduce)")

    ends = {w: max(s["end"] for s in steps) for w, steps in spans.items()}
    waits = {w: exposed(steps) for w, steps in spans.items() if any(s["lane"] == "communication" for s in steps)}
    told = [f"{look(w).label} {1e3 * ends[w]:.1f} ms" for w in spans]
    hidden = [f"{percent(share)} of {look(w).label}'s" for w, share in waits.items()]
    alt = (
        f"Spans of one decode step. Length: {listing(told)}. Communication time with no module computing: "
        f"{listing(hidden)}."
    )
    at = f" at ρ {rho:g}" if rho is not None else ""
    caption = (
        f"A traced step takes {listing(told)}{at} ({origin}). The link is busy while nothing computes for "
        f"{listing(hidden)} communication time."
    )
    rows = [{"wiring": w, "origin": origin, "rho": rho, **s} for w, steps in spans.items() for s in steps]
    panel = Panel("timeline", alt, draw, (4.8, 0.6 + 0.3 * (2 * len(spans))))
    return Figure("timeline", title, caption, [panel], pd.DataFrame(rows))


def bars(axes, spans: list[dict], y: int, colour: str, alpha: float) -> None:
    boxes = [(1e3 * s["start"], 1e3 * (s["end"] - s["start"])) for s in spans]
    axes.broken_barh(boxes, (y - 0.36, 0.72), facecolors=colour, alpha=alpha, linewidth=0)


def exposed(spans: list[dict]) -> float:
    """Share of the communication time during which no module computes."""
    compute = [(s["start"], s["end"]) for s in spans if s["lane"] == "compute"]
    total = covered = 0.0
    for s in spans:
        if s["lane"] == "communication":
            total += s["end"] - s["start"]
            covered += sum(max(0.0, min(end, s["end"]) - max(start, s["start"])) for start, end in compute)
    return 1 - covered / total if total else 0.0
