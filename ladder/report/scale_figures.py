"""Figures of the scale study: maps of winners, gains over batch and latency, a fast all-reduce, and the price of speed.
All of it is simulated."""

import pandas as pd

from ladder.report.batch_figures import log_batches, log_ticks
from ladder.report.drawing import empty_panel, legend, line
from ladder.report.frames import Frames
from ladder.report.scale_tables import equal_words, one_shot_caption, place_words, study, won
from ladder.report.style import INK, listing, look, number, order, times
from ladder.report.svg import Figure, Panel

NO_FIT = "No model of the study fits."
NOTHING = "This run has no scale study; `ladder simulate study` makes its record."
GREY, LIGHT = "#8a8a8a", 0.3  # nothing to gain; opacity where the winner is not decidable
MAP = (3.7, 3.2)
BANDS = ("parallel", "ladder", "upper_bound")
BOUND = 2.6  # speed-up up to which axes reach


def empty(name: str, title: str, text: str = NOTHING) -> Figure:
    return Figure(name, title, text, [empty_panel(name, text)])


def panel_name(name: str, model: str) -> str:
    """A panel's name is read aloud: dashes part its words."""
    return f"{name}-{model.replace('-', '_')}"


def models(done: dict) -> list[str]:
    return list(dict.fromkeys(cell["model"] for cell in done["cells"]))


def data(cells: list[dict] | pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(cells).assign(origin="simulated")


def setting(cell: dict, *more: str) -> dict:
    return {key: cell[key] for key in ("model", *more, "tp", "batch")}


def ends(found: dict, names) -> dict:
    """(value, low, high) of each name in columns of their own."""
    return {f"{name}{end}": found[name][n] for name in names for n, end in enumerate(("", "_low", "_high"))}


def winners(frames: Frames) -> Figure:
    return maps(frames, "scale_winners", 0)


def all_winners(frames: Frames) -> Figure:
    return maps(frames, "scale_winners_all", 1)


def maps(frames: Frames, name: str, which: int) -> Figure:
    """Maps of TP degree and batch; which: the contest, by its place."""
    title = ("Where each wiring wins", "Where each wins, wirings tied to a TP degree included")[which]
    if (found := study(frames)) is None:
        return empty(name, title)
    done = found[0]
    contest = list(done["contests"])[which]
    panels = [winner_map(name, done, model, contest) for model in models(done)]
    caption = (
        f"{won(done, contest)} Full colour: faster than every other by more than the 90 % interval; faint: the "
        "fastest, but not decidable; grey: nothing to gain; blank: it does not fit, or has fewer heads than ranks. "
        f"* rests on assumptions. {equal_words(done)}"
    )
    keep = ("model", "link", "tp", "batch", "hardware", "fits")
    cells = [
        {key: cell[key] for key in keep} | {"leaders": " ".join(cell["leaders"][contest]) if cell["fits"] else None}
        for cell in done["cells"]
    ]
    return Figure(name, title, caption.strip(), panels, data(cells))


def winner_map(name: str, done: dict, model: str, contest: str) -> Panel:
    cells = [cell for cell in done["cells"] if cell["model"] == model and cell["fits"]]
    columns = [(place["link"], place["tp"]) for place in done["places"]]
    links, told = list(dict.fromkeys(link for link, _ in columns)), place_words(done)
    starred = [(place["link"], place["tp"]) for place in done["places"] if place["assumed"]]
    x = {column: n + 0.6 * links.index(column[0]) for n, column in enumerate(columns)}
    y = {batch: n for n, batch in enumerate(done["batches"])}

    def draw(axes):
        from matplotlib.patches import Rectangle

        shown = set()
        for cell in cells:
            leaders = cell["leaders"][contest]
            colour = look(leaders[0]).colour if leaders else GREY
            corner = (x[cell["link"], cell["tp"]] - 0.5, y[cell["batch"]] - 0.5)
            alpha = LIGHT if len(leaders) > 1 else 1
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, alpha=alpha, linewidth=0))
            if len(leaders) == 1:
                middle = (corner[0] + 0.5, corner[1] + 0.5)
                axes.plot(*middle, look(leaders[0]).marker, color="white", ms=2.6, mew=0)
            shown |= set(leaders[:1])
        for wiring in sorted(shown, key=order):
            how = look(wiring)
            axes.plot([], [], how.marker, color=how.colour, ms=7, label=how.label)
        axes.set_xlim(-0.6, max(x.values()) + 0.6)
        axes.set_ylim(-0.6, len(y) - 0.4)
        for column in starred:
            axes.text(x[column], len(y) - 0.55, "*", ha="center", va="baseline", fontsize=7)
        axes.set_xticks(list(x.values()), [f"{tp}" for _, tp in x], fontsize=5.5)
        axes.set_yticks(list(y.values()), [f"{batch:g}" for batch in y])
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        for link in links:
            at = [place for column, place in x.items() if column[0] == link]
            below = {"transform": axes.get_xaxis_transform(), "rotation": 30, "rotation_mode": "anchor", "fontsize": 8}
            axes.text(sum(at) / len(at), -0.08, told[link], ha="right", va="top", **below)
        axes.set_ylabel("batch")
        axes.set_title(f"{model}, by TP degree", pad=24)
        if shown:
            legend(axes, len(shown), columnspacing=1.0, handletextpad=0.1, borderaxespad=0.6)

    parts = []
    for link in links:
        mine = [cell["leaders"][contest] for cell in cells if cell["link"] == link]
        wins = [f"{look(w).label} {n}" for w in done["contests"][contest] if (n := mine.count([w]))]
        parts.append(
            f"{told[link]}: {listing(wins) or 'no winner'} of {len(mine)}" if mine else f"{told[link]}: none fits"
        )
    return Panel(panel_name(name, model), f"{model}, settings won by link. {'; '.join(parts)}.", draw, MAP)


def usual(done: dict, model: str) -> list[dict]:
    """A model's cells over the batch at its usual place: the largest TP degree of the first link on which it fits."""
    fitting = [cell for cell in done["cells"] if cell["model"] == model and cell["fits"]]
    if not fitting:
        return []
    link = fitting[0]["link"]
    tp = max(cell["tp"] for cell in fitting if cell["link"] == link)
    if link == "nvl72":  # a cluster of the calibrated device says more, where there is one
        other = [cell for cell in fitting if cell["hardware"] == done["hardware"]]
        link, tp = (other[0]["link"], other[0]["tp"]) if other else (link, tp)
    return [cell for cell in fitting if (cell["link"], cell["tp"]) == (link, tp)]


def band(axes, wiring: str, x, found, **options) -> None:
    """A line of (value, low, high) with its interval."""
    middle, low, high = zip(*found, strict=True)
    line(axes, wiring, x, middle, **options)
    axes.fill_between(x, low, high, color=look(wiring).colour, alpha=0.15, linewidth=0)


def gains_axes(axes, top: float) -> None:
    axes.axhline(1, color=INK, linewidth=0.8, alpha=0.6)
    axes.set_ylim(0.95, top)
    axes.set_ylabel("tokens/s over standard (simulated)")
    legend(axes, 3, columnspacing=0.8, handletextpad=0.4)


def gain_by_batch(frames: Frames) -> Figure:
    name, title = "scale_gain_by_batch", "Gain over the batch"
    if (found := study(frames)) is None:
        return empty(name, title)
    done, told = found[0], place_words(found[0])
    panels, drawn, said = [], [], []
    for model in models(done):
        cells = usual(done, model)
        if not cells:
            continue
        where, batches = f"{model}, {told[cells[0]['link']]}, TP {cells[0]['tp']}", [cell["batch"] for cell in cells]

        def draw(axes, cells=cells, where=where, batches=batches):
            for wiring in BANDS:
                band(axes, wiring, batches, [cell["speedup"][wiring] for cell in cells])
            log_batches(axes, batches, f"batch ({where})")
            gains_axes(axes, 1.02 * max(cell["speedup"]["upper_bound"][2] for cell in cells))

        pair = [f"{times(cell['speedup']['ladder'][0])} at batch {cell['batch']:g}" for cell in (cells[0], cells[-1])]
        panels.append(Panel(panel_name(name, model), f"{where}: ladder {listing(pair)}.", draw))
        said.append(f"{listing(pair)} ({where})")
        drawn += cells
    if not panels:
        return empty(name, title, NO_FIT)
    caption = f"Ladder's gain: {'; '.join(said)}. Bands are 90 % intervals."
    flat = [setting(cell, "link") | ends(cell["speedup"], BANDS) for cell in drawn]
    return Figure(name, title, caption, panels, data(flat))


def gain_by_latency(frames: Frames) -> Figure:
    name, title = "scale_gain_by_latency", "Gain over the link's latency"
    if (found := study(frames)) is None:
        return empty(name, title)
    done = found[0]
    first = min((curve["batch"] for curve in done["latency"]), default=None)
    panels, flat, said = [], [], []
    for curve in [curve for curve in done["latency"] if curve["batch"] == first]:

        def draw(axes, curve=curve):
            for wiring in BANDS:
                some = [n for n, found in enumerate(curve[wiring]) if found[0] < 2 * BOUND]
                band(axes, wiring, [curve["us"][n] for n in some], [curve[wiring][n] for n in some], marker="")
            axes.set_xscale("log")
            ticks = [tick for tick in (1, 10, 100, 1000) if tick <= max(curve["us"])]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel(f"µs of an all-reduce ({curve['model']}, TP {curve['tp']}, batch {curve['batch']})")
            gains_axes(axes, BOUND)

        gains = [found[0] for found in curve["ladder"]]
        peak = gains.index(max(gains))
        where = f"{curve['model']}, TP {curve['tp']}"
        said.append(f"{times(gains[peak])} at {curve['us'][peak]:.0f} µs ({where})")
        panels.append(
            Panel(panel_name(name, curve["model"]), f"{where}, batch {first:g}: ladder gains most, {said[-1]}.", draw)
        )
        for n, us in enumerate(curve["us"]):
            flat.append(setting(curve) | {"latency_us": us} | ends({w: curve[w][n] for w in BANDS}, BANDS))
    if not panels:
        return empty(name, title, NO_FIT)
    caption = (
        f"Ladder gains most where an all-reduce takes about as long as the module beside it: {listing(said)}. Beyond "
        "that it can hide no more, while parallel, with half as many all-reduces, keeps its share."
    )
    return Figure(name, title, caption, panels, data(flat))


def one_shot(frames: Frames) -> Figure:
    name, title = "scale_one_shot", "Another wiring against a faster all-reduce"
    if (found := study(frames)) is None:
        return empty(name, title)
    cells = found[0]["one_shot"]
    kinds = (("standard_one_shot", "standard", "standard, one-shot", "--"), ("ladder", "ladder", "ladder, NCCL", "-"))
    kinds += (("ladder_one_shot", "ladder", "ladder, one-shot", "--"),)
    panels = []
    for model in dict.fromkeys(cell["model"] for cell in cells):
        tp = max(cell["tp"] for cell in cells if cell["model"] == model)
        mine = [cell for cell in cells if cell["model"] == model and cell["tp"] == tp]

        def draw(axes, mine=mine, model=model, tp=tp):
            x = [cell["batch"] for cell in mine]
            for key, wiring, label, dashes in kinds:
                band(axes, wiring, x, [cell[key] for cell in mine], linestyle=dashes, label=label)
            log_batches(axes, x, f"batch ({model}, NVLink, TP {tp})")
            axes.axhline(1, color=INK, linewidth=0.8, alpha=0.6)
            axes.set_ylabel("over standard with NCCL (simulated)")
            legend(axes, 2, columnspacing=0.8, handletextpad=0.4)

        said = [f"{label} {times(mine[0][key][0])}" for key, _, label, _ in kinds]
        panels.append(
            Panel(panel_name(name, model), f"{model}, TP {tp}, batch {mine[0]['batch']:g}: {listing(said)}.", draw)
        )
    if not panels:
        return empty(name, title, "The study has no link with a fast all-reduce.")
    flat = [setting(cell) | ends(cell, [key for key, *_ in kinds]) for cell in cells]
    return Figure(name, title, one_shot_caption(found[0]), panels, data(flat))


def cost(frames: Frames) -> Figure:
    name, title = "scale_cost", "Throughput of a GPU against latency"
    if (found := study(frames)) is None:
        return empty(name, title)
    lines_, panels, said = found[0]["cost"], [], []
    for model in dict.fromkeys(one["model"] for one in lines_):
        mine = {one["wiring"]: one for one in lines_ if one["model"] == model}

        def draw(axes, mine=mine, model=model):
            for wiring in sorted(mine, key=order):
                how = look(wiring)
                axes.plot(mine[wiring]["ms"], mine[wiring]["per_gpu"], how.dashes, color=how.colour, label=how.label)
            axes.set_xscale("log")
            axes.set_yscale("log")
            ticks = [2, 5, 10, 20, 50, 100]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            every = [value for one in mine.values() for value in one["per_gpu"]]
            log_ticks(axes, min(every), max(every))
            axes.set_xlabel(f"ms per token ({model})")
            axes.set_ylabel("tokens/s per GPU (simulated)")
            legend(axes, 3, columnspacing=0.8, handletextpad=0.4)

        fastest = {w: (one["ms"][0], one["tp"][0]) for w, one in mine.items()}
        most = {w: max(one["per_gpu"]) for w, one in mine.items()}
        cells = [
            f"{look(w).label} from {ms:.1f} ms (TP {tp}), up to {number(most[w], 0)} tokens/s per GPU"
            for w, (ms, tp) in sorted(fastest.items(), key=lambda item: order(item[0]))
        ]
        panels.append(Panel(panel_name(name, model), f"{model}: {'; '.join(cells)}.", draw))
        if {"ladder", "standard"} <= set(fastest):
            said.append(f"{fastest['ladder'][0]:.1f} instead of {fastest['standard'][0]:.1f} ms ({model})")
    if not said:
        return empty(name, title, "The study has no nodes with NVLink and InfiniBand.")
    caption = (
        f"The shortest time per token in reach is {listing(said)} with ladder instead of standard. Each point "
        "takes the TP degree that gives most, on H100 nodes with NVLink and InfiniBand."
    )
    columns = {"ms": "ms_per_token", "per_gpu": "tokens_per_second_per_gpu", "tp": "tp"}
    flat = pd.DataFrame(lines_).explode(list(columns)).rename(columns=columns)
    return Figure(name, title, caption, panels, data(flat))


FIGURES = [winners, all_winners, gain_by_batch, gain_by_latency, one_shot, cost]
