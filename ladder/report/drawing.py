"""Parts that several figures share."""

import pandas as pd

from ladder.report.style import look
from ladder.report.svg import Panel


def empty_panel(name: str, text: str, size: tuple[float, float] = (3.7, 1.1)) -> Panel:
    """Stands where this run has nothing to draw, and says so."""

    def draw(axes):
        axes.axis("off")
        axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True, transform=axes.transAxes)

    return Panel(name, text, draw, size)


def legend(axes, columns: int = 2, **options) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, **options)


def line(axes, wiring: str, x, y, **options):
    how = look(wiring)
    style = {"color": how.colour, "marker": how.marker, "linestyle": how.dashes, "label": how.label} | options
    return axes.plot(x, y, **style)


def end_labels(axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Name lines at their right ends, each (x, y, colour, text), spread so that no name covers another.

    Call it when scales and limits are set.
    """
    size = 8.5
    axes.get_xlim(), axes.get_ylim()  # settles limits that are still automatic
    gap = 1.25 * size / (72 * axes.get_window_extent().height / axes.figure.dpi)  # of the height of the axes
    frame = axes.transData + axes.transAxes.inverted()
    ends = sorted(ends, key=lambda end: end[1])
    places = [float(frame.transform((x, y))[1]) for x, y, *_ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], places[i + 1] - gap if i + 1 < len(places) else 1.0)
    for place, (x, y, colour, text) in zip(places, ends, strict=True):
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 1, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 2}
        where = {"textcoords": axes.transAxes, "va": "center", "fontsize": size}
        axes.annotate(text, (x, y), (1.06, place), arrowprops=leader, **where)


def tidy(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def throughput_gains(paper: pd.DataFrame) -> pd.DataFrame:
    """Rows of published tokens/s over standard's in the same setting."""
    key = ["p2p", "batch", "tp"]
    base = paper[paper["wiring"] == "standard"].set_index(key)["value"]
    rows = paper[paper["wiring"] != "standard"].copy()
    rows["value"] = [
        value / base[k] for value, *k in zip(rows["value"], *(rows[c] for c in key), strict=True) for k in [tuple(k)]
    ]
    return rows.assign(
        metric="tokens/s speedup over standard", unit="x", note="derived: ratio of the published tokens/s"
    )
