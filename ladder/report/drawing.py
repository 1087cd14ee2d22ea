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
