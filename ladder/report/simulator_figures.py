"""Figures of the simulator: predicted over published, what interference is good for, and where the errors are."""

from ladder.report.drawing import empty_panel, legend, tidy
from ladder.report.frames import Frames
from ladder.report.simulator_tables import NOT_HERE, digits, published, statistic, validation
from ladder.report.style import COMMUNICATION, HYBRIDS, INK, listing, look, order, percent, times
from ladder.report.svg import Figure, Panel
from ladder.simulate.scores import FIT, GROUPS, HELD_OUT, LINK, OTHER, SOURCES, UNSEEN

OTHERS = {UNSEEN: "8B", "1B and 3B": "1B and 3B", "405B on two nodes": "405B"}  # and their names in a legend
BARS = {"fmt": "none", "elinewidth": 0.7, "alpha": 0.45}


def entries(record: dict, *groups: str) -> list[dict]:
    """The speed-ups of these groups, each once."""
    found = [e for e in record["validation"] if e["what"] == "speedup" and not e["copy"]]
    return [e for e in found if e["group"] in groups]


def off(entry: dict) -> float:
    return entry["predicted"] / entry["published"] - 1


def tidy_rows(found: list[dict]) -> list[dict]:
    """Of each speed-up drawn, the published row and the simulated one."""
    rows = []
    for e in found:
        row = published(e)
        made = {"stage": "simulate", "origin": "simulated", "value": e["predicted"], "note": f"group: {e['group']}"}
        rows += [row, row | made | {"low": e["low"], "high": e["high"], "source": None}]
    return rows


def scatter(axes, found: list[dict], **style) -> None:
    """Predicted over published, with 90 % bars."""
    if found:
        x, y = [e["published"] for e in found], [e["predicted"] for e in found]
        bars = [[e["predicted"] - e["low"] for e in found], [e["high"] - e["predicted"] for e in found]]
        axes.errorbar(x, y, bars, ecolor=style["color"], **BARS)
        axes.plot(x, y, linestyle="none", **style)


def diagonal(axes) -> None:
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color=INK, linewidth=0.8, alpha=0.6, zorder=0)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("published speed-up over standard")
    axes.set_ylabel("simulated speed-up")


def speedup(frames: Frames) -> Figure:
    title = "Predicted over published speed-up"
    record = validation(frames)
    if record is None:
        return Figure(
            "simulator_speedup", title, f"{NOT_HERE.capitalize()}.", [empty_panel("simulator_speedup", NOT_HERE)]
        )
    ours, fitted = entries(record, HELD_OUT, OTHER, SOURCES), entries(record, FIT)
    others = {group: entries(record, group) for group in OTHERS}

    def seventy(axes):
        for wiring in sorted({e["wiring"] for e in (*ours, *fitted)}, key=order):
            how = look(wiring)
            mine, theirs = ([e for e in found if e["wiring"] == wiring] for found in (ours, fitted))
            scatter(axes, mine, marker=how.marker, color=how.colour, label=how.label, ms=5)
            scatter(axes, theirs, marker=how.marker, color=how.colour, mfc="none", label=f"{how.label}, fitted", ms=5)
        diagonal(axes)
        legend(axes, 2, columnspacing=0.8, handletextpad=0.2)

    def rest(axes):
        for (group, found), (colour, _, _), marker in zip(others.items(), HYBRIDS, "oPD", strict=True):
            scatter(axes, found, marker=marker, color=colour, label=OTHERS[group], ms=5)
        diagonal(axes)
        legend(axes, 3, columnspacing=0.8, handletextpad=0.2)

    held, unseen = statistic(record, HELD_OUT, "speedup"), statistic(record, UNSEEN, "speedup")
    parts = [f"{digits(row['median'])} for {name}" for row, name in ((held, "held-out 70B"), (unseen, "the 8B")) if row]
    caption = f"Median error of the simulated speed-up: {listing(parts)}. " if parts else ""
    caption += (
        "Each point is a published speed-up (H100); on the line the simulated one is the same. Bars: 90 % interval."
    )
    alts = [told("70B held out", ours), told("70B of the fit", fitted)]
    panels = [Panel("simulator_speedup-70b", " ".join(filter(None, alts)), seventy, (3.7, 3.5))]
    alt = " ".join(filter(None, (told(group, found) for group, found in others.items())))
    panels.append(Panel("simulator_speedup-others", alt or "No other model was compared.", rest, (3.7, 3.5)))
    drawn = [*ours, *fitted, *(e for found in others.values() for e in found)]
    return Figure("simulator_speedup", title, caption, panels, tidy(tidy_rows(drawn)))


def told(name: str, found: list[dict]) -> str:
    if not found:
        return ""
    worst = max(found, key=lambda e: abs(off(e)))
    seen = [e["published"] for e in found]
    return (
        f"{name}: {len(found)} speed-ups from {times(min(seen))} to {times(max(seen))}, at worst "
        f"{percent(off(worst), signed=True)} off ({look(worst['wiring']).label}, TP {worst['tp']}, "
        f"batch {worst['batch']}, {worst['link']})."
    )


def error(frames: Frames) -> Figure:
    title = "Where the errors are"
    record = validation(frames)
    if record is None:
        return Figure("simulator_error", title, f"{NOT_HERE.capitalize()}.", [empty_panel("simulator_error", NOT_HERE)])
    groups = [row for g in GROUPS if g not in (FIT, LINK) and (row := statistic(record, g, "speedup"))]
    noise = record["noise"].get("speedup")
    ours = entries(record, HELD_OUT, *OTHERS)

    def interference(axes):
        for n, row in enumerate(groups):
            for prefix, colour, shift in (("", look("ladder").colour, -0.14), ("without_", COMMUNICATION, 0.14)):
                ends = [100 * row[prefix + key] for key in ("median", "p90")]
                axes.plot(ends, [n + shift] * 2, color=colour, linewidth=1.2)
                for end, face in zip(ends, (colour, "none"), strict=True):
                    axes.plot(end, n + shift, "o" if prefix == "" else "s", color=colour, mfc=face, ms=5)
        if noise:
            n = len(groups)
            axes.plot([100 * noise["median"], 100 * noise["p90"]], [n, n], color=INK, linewidth=1.2)
            axes.plot(100 * noise["median"], n, "D", color=INK, ms=4.5)
            axes.plot(100 * noise["p90"], n, "D", color=INK, mfc="none", ms=4.5)
        names = [row["group"] for row in groups]
        axes.set_yticks(range(len(groups) + bool(noise)), names + ["authors' repeats"] * bool(noise))
        axes.invert_yaxis()
        axes.margins(y=0.12)
        axes.set_xlim(left=0)
        axes.set_xlabel("error in speed-up, %")
        for colour, marker, label in (
            (look("ladder").colour, "o", "simulated"),
            (COMMUNICATION, "s", "no interference"),
        ):
            axes.plot([], [], marker, color=colour, label=label)
        legend(axes, 2, columnspacing=0.8, handletextpad=0.2)

    def by_batch(axes):
        batches = sorted({e["batch"] for e in ours})
        for group, (colour, _, _), marker in zip(
            (HELD_OUT, *OTHERS), (("#d55e00", "", ""), *HYBRIDS), "soPD", strict=True
        ):
            mine = [e for e in ours if e["group"] == group]
            x = [batches.index(e["batch"]) + 0.05 * (e["tp"].bit_length() - 3) for e in mine]
            axes.plot(x, [100 * off(e) for e in mine], marker, color=colour, ms=4.5, alpha=0.8,
                      label=OTHERS.get(group, "70B"))  # fmt: skip
        if noise:
            axes.axhspan(-100 * noise["p90"], 100 * noise["p90"], color=INK, alpha=0.08, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8, alpha=0.6)
        axes.set_xticks(range(len(batches)), [str(b) for b in batches])
        axes.set_xlabel("batch")
        axes.set_ylabel("simulated over published, % off")
        legend(axes, 4, columnspacing=0.6, handletextpad=0.1)

    held = statistic(record, HELD_OUT, "speedup")
    caption = ""
    if held:
        caption = (
            "Compute slows while an all-reduce is under way: without that, the 90th percentile of the held-out 70B's "
            f"error would be {digits(held['without_p90'])} instead of {digits(held['p90'])}. "
        )
    if noise:
        caption += f"Band: what the authors' own repeats differ by at the 90th percentile, {digits(noise['p90'])}. "
    caption += "Held-out speed-ups only; filled: the median, open: the 90th percentile."
    said = [
        f"{row['group']} {digits(row['median'])} and {digits(row['p90'])}, without interference "
        f"{digits(row['without_median'])} and {digits(row['without_p90'])}"
        for row in groups
    ]
    panels = [
        Panel(
            "simulator_error-interference", f"Median and 90th percentile: {'; '.join(said)}.", interference, (4.6, 3.1)
        )
    ]
    parts = []
    for batch in sorted({e["batch"] for e in ours}):
        mine = [off(e) for e in ours if e["batch"] == batch]
        parts.append(f"{percent(min(mine), signed=True)} to {percent(max(mine), signed=True)} at batch {batch}")
    alt = f"Errors in speed-up by batch: {listing(parts)}." if parts else "No speed-up was compared."
    panels.append(Panel("simulator_error-batch", alt, by_batch, (3.7, 3.1)))
    return Figure("simulator_error", title, caption.strip(), panels, tidy(tidy_rows(ours)))


FIGURES = [speedup, error]
