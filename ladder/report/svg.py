"""Figures as SVG that lives inside a page: text as text, ink in the page's colour, the same bytes in every run."""

import io
import re
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from ladder.files import atomic_write
from ladder.records import cores
from ladder.report.markup import escape, slug, write_csv
from ladder.report.style import INK

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
RC = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a $
    "svg.hashsalt": "ladder",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "figure.constrained_layout.use": True,
} | dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK)
PANEL = (3.7, 2.9)  # inches: two fit beside each other on a page, one fills a phone


@dataclass(frozen=True)
class Panel:
    """One drawing. ``draw(axes)`` paints it; ``alt`` tells what it shows to who cannot see it."""

    name: str
    alt: str
    draw: Callable
    size: tuple[float, float] = PANEL


@dataclass(frozen=True)
class Figure:
    """Panels under one caption. ``data`` holds the numbers drawn, for download."""

    name: str
    title: str
    caption: str
    panels: list[Panel]
    data: pd.DataFrame = field(default_factory=pd.DataFrame)


def render(panel: Panel, title: str) -> str:
    """The panel as an SVG document."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=panel.size)
        FigureCanvasSVG(canvas)
        panel.draw(canvas.add_subplot())
        out = io.StringIO()
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return domesticate(out.getvalue(), slug(panel.name), title, panel.alt)


def domesticate(svg: str, name: str, title: str, alt: str) -> str:
    """Make matplotlib's document fit to stand in a page beside others, in light and dark, read aloud too."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata"):  # a style element would reach the whole page
                parent.remove(child)
    root.attrib.pop("version", None)
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    label(root, name, title, alt)
    text = ElementTree.tostring(root, encoding="unicode")
    text = text.replace(INK, "currentColor")
    text = re.sub(r"(font: [^;\"]*?px) 'DejaVu Sans'", rf"\1 {FONT}", text)
    text = re.sub(r'\bid="(?!t-|d-)', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    return re.sub(r"\n\s*\n", "\n", text) + "\n"


def label(root: ElementTree.Element, name: str, title: str, alt: str) -> None:
    """Give an SVG element its accessible name and description."""
    root.attrib |= {"role": "img", "aria-labelledby": f"t-{name} d-{name}"}
    for tag, id_, words in (("desc", f"d-{name}", alt), ("title", f"t-{name}", title)):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": id_})
        element.text = words
        root.insert(0, element)


def write_all(figures: list[Figure], folder: Path) -> list[Path]:
    """:func:`write` of each figure. Drawing is most of a report's time, so all cores draw; only this process where it
    has threads, torch's too, which a fork would lose."""
    global _drawn  # closures cannot be sent to another process, but it inherits them
    _drawn = [(figure, panel) for figure in figures for panel in figure.panels]
    numbers, workers = range(len(_drawn)), min(cores(), len(_drawn))
    if workers < 2 or threading.active_count() > 1 or "torch" in sys.modules:
        done = list(map(_draw, numbers))
    else:
        with ProcessPoolExecutor(workers, get_context("fork")) as pool:
            done = list(pool.map(_draw, numbers, chunksize=2))
    left = iter(done)
    return [path for figure in figures for path in write(figure, folder, [next(left) for _ in figure.panels])]


_drawn: list[tuple[Figure, Panel]] = []


def _draw(number: int) -> str:
    figure, panel = _drawn[number]
    return render(panel, f"{figure.title}: {panel.name.replace('_', ' ').replace('-', ', ')}")


def write(figure: Figure, folder: Path, drawn: list[str]) -> list[Path]:
    """Write NAME.csv, one SVG a panel (``drawn``), and NAME.html for the page; returns the paths."""
    written, drawings, links = [], [], []
    for panel, svg in zip(figure.panels, drawn, strict=True):
        path = folder / f"{slug(panel.name)}.svg"
        with atomic_write(path) as part:
            part.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + svg, encoding="utf-8")
        written.append(path)
        drawings.append(f'<div class="panel">{svg.strip()}</div>')
        links.append(f'<a href="reports/figures/{path.name}" download>SVG</a>')
    if len(figure.data):
        path = folder / f"{figure.name}.csv"
        write_csv(figure.data, path)
        written.append(path)
        links.append(f'<a href="reports/figures/{path.name}" download>CSV</a>')
    page = folder / f"{figure.name}.html"
    inside = f'<div class="panels">{"".join(drawings)}</div>\n' if drawings else ""
    with atomic_write(page) as part:
        part.write_text(
            f'<figure class="chart" id="figure-{figure.name.replace("_", "-")}" data-search-exclude>\n{inside}'
            f"<figcaption><strong>{escape(figure.title)}.</strong> {escape(figure.caption)} "
            f'<span class="downloads">{" ".join(links)}</span></figcaption>\n</figure>\n',
            encoding="utf-8",
        )
    return [*written, page]
