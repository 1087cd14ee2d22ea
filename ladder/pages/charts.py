"""Charts, declared: a chart names a derived table, its axes and its marks; Vega-Lite draws it, in the page (with hover)
and as SVG files for print, for pages without scripts, and for the README. INK becomes the page's colour."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ladder.files import atomic_write
from ladder.looks import look, order
from ladder.markup import escape
from ladder.metrics import METRICS, label
from ladder.metrics import text as cell_text
from ladder.pages.theme import CONFIG, DARK, DASHES, INK, LIGHT, SCHEMA, SERIES, SHAPES
from ladder.pages.words import finding, listing, sentence

Tables = Any  # ladder.pages.page.Sources
POINT = "#4c78a8"  # where nothing else gives a mark its colour: Vega-Lite's own, in both themes
GAP = 13  # pixels between two labels at the ends of lines


@dataclass(frozen=True)
class Layer:
    """One kind of mark: line, point, hollow, tick, bar, rect, band (between low and high), error (the same as a bar),
    text. where: a query on the chart's rows; options: Vega-Lite's own, of the mark."""

    mark: str
    where: str = ""
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Chart:
    """source: a derived table, or a function of all that makes rows; where: a query on it. colour: the column that
    tells series apart. panel: a column whose every value gets a drawing of its own. rule: a line at this y. x2: the
    column of a bar's other end. title: states what was found, from the tables; caption: one sentence. domain: of y."""

    name: str
    title: Callable[[Tables], str]
    caption: str
    source: str | Callable[[Tables], pd.DataFrame]
    x: str
    y: str
    where: str = ""
    colour: str | None = "wiring"
    panel: str | None = None
    layers: tuple[Layer, ...] = (Layer("line"), Layer("point"))
    log: str = ""
    rule: float | None = None
    diagonal: bool = False
    x2: str | None = None
    hover: tuple[str, ...] = ()
    ends: bool = True
    colours: dict[str, str] = field(default_factory=dict)
    domain: tuple[float, float] | None = None
    xdomain: tuple[float, float] | None = None
    size: tuple[int, int] = (250, 200)
    need: str = "This run has no such numbers."

    def write(self, tables: Tables, out: Path) -> list[Path]:
        return write(self, tables, out)

    def rows(self, tables: Tables) -> pd.DataFrame:
        rows = self.source(tables) if callable(self.source) else tables[self.source]
        if len(rows) and self.where:
            rows = rows.query(self.where)
        return rows if rows.empty else rows[rows[[self.x, self.y]].notna().all(axis=1)].reset_index(drop=True)


def panels(chart: Chart, rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """(name, title, rows) of each drawing."""
    if chart.panel is None:
        return [(chart.name, "", rows)]
    found = dict.fromkeys(rows[chart.panel].dropna())
    return [
        (f"{chart.name}-{n}", cell_text(chart.panel, value), rows[rows[chart.panel] == value])
        for n, value in enumerate(found)
    ]


def kind(rows: pd.DataFrame, column: str) -> str:
    return "quantitative" if pd.api.types.is_numeric_dtype(rows[column]) else "nominal"


def series_of(chart: Chart, rows: pd.DataFrame) -> list[str]:
    if chart.colour is None:
        return []
    values = list(dict.fromkeys(rows[chart.colour].dropna().map(str)))
    return sorted(values, key=order) if chart.colour == "wiring" else values


def name_of(chart: Chart, value: str) -> str:
    return look(value).label if chart.colour == "wiring" else value


def spec(chart: Chart, rows: pd.DataFrame, title: str, alt: str) -> dict:
    """The Vega-Lite specification of one drawing."""
    data, names = shown(chart, rows), series_of(chart, rows)
    layers = []
    if chart.rule is not None:
        mark = {"type": "rule", "color": INK, "opacity": 0.6, "strokeWidth": 1}
        layers.append({"mark": mark, "data": {"values": [{}]}, "encoding": {"y": {"datum": chart.rule}}})
    if chart.diagonal:
        ends = data[[chart.x, chart.y]].agg(["min", "max"])
        line = [{"a": v, "b": v} for v in (ends.loc["min"].min(), ends.loc["max"].max())]
        encoding = {"x": {"field": "a", "type": "quantitative"}, "y": {"field": "b", "type": "quantitative"}}
        mark = {"type": "line", "color": INK, "opacity": 0.5, "strokeWidth": 1}
        layers.append({"data": {"values": line}, "mark": mark, "encoding": encoding})
    for layer in chart.layers:
        chosen = rows.query(layer.where) if layer.where else rows
        if len(chosen):
            layers += drawn(chart, layer, data.loc[chosen.index], names, data)
    if chart.ends and chart.colour:
        layers.append(end_labels(chart, data, names))
    made = {"$schema": SCHEMA, "description": alt, "width": chart.size[0], "height": chart.size[1], "config": CONFIG}
    made |= {"title": title} if title else {}
    return made | {"layer": layers}


def shown(chart: Chart, rows: pd.DataFrame) -> pd.DataFrame:
    """The columns drawn and hovered, in the units shown."""
    ends = [f"{axis}_{end}" for axis in (chart.x, chart.y) for end in ("low", "high")]
    columns = dict.fromkeys([chart.x, chart.y, chart.x2, *ends, chart.colour, *chart.hover])
    kept = rows[[c for c in columns if c and c in rows]].copy()
    for column in kept:
        metric = METRICS.get(column.removesuffix("_low").removesuffix("_high"))
        if metric:
            kept[column] = [float(f"{value * metric.scale:.6g}") for value in kept[column]]
    if chart.colour == "wiring":
        kept["wiring"] = [name_of(chart, w) for w in kept["wiring"]]
    return kept


def values(rows: pd.DataFrame) -> list[dict]:
    """Rows without their missing cells."""
    return [{key: value for key, value in row.items() if not pd.isna(value)} for row in rows.to_dict("records")]


def axis(chart: Chart, rows: pd.DataFrame, name: str, column: str) -> dict:
    encoded = {"field": column, "type": kind(rows, column), "title": label(column)}
    domain = {"x": chart.xdomain, "y": chart.domain}[name]
    if encoded["type"] == "nominal":
        values = list(dict.fromkeys(rows[column].dropna()))
        axis = {"grid": False, "labelLimit": 220, "title": None, "labelAngle": 0, "labelOverlap": False}
        return encoded | {"sort": values, "scale": {"domain": values}, "axis": axis}
    scale: dict = {"zero": False}
    if name in chart.log:
        scale = {"type": "log", "nice": False}
        ticks = sorted(set(rows[column].dropna())) if rows[column].nunique() <= 10 else None
        encoded["axis"] = {"format": "~g"} | ({"values": ticks} if ticks and name == "x" else {"grid": False})
    if domain:
        scale |= {"domain": list(domain), "nice": False}
    return encoded | {"scale": scale}


def colour(chart: Chart, names: list[str], wirings: list[str]) -> dict:
    shades = [chart.colours.get(w) or (look(w).colour if chart.colour == "wiring" else SERIES[n % len(SERIES)])
              for n, w in enumerate(wirings)]  # fmt: skip
    named = chart.ends or len(names) < 2 or (chart.colour == "wiring" and chart.y in ("wiring", "name"))
    legend = None if named else {"title": None, "columns": 3}
    return {"field": chart.colour, "type": "nominal", "legend": legend, "scale": {"domain": names, "range": shades}}


def drawn(chart: Chart, layer: Layer, data: pd.DataFrame, wirings: list[str], scaled: pd.DataFrame) -> list[dict]:
    """The Vega-Lite layers of one kind of mark; ``scaled``: all rows of the drawing, which set its axes."""
    x, y = axis(chart, scaled, "x", chart.x), axis(chart, scaled, "y", chart.y)
    names = [name_of(chart, w) for w in wirings]
    encoding: dict = {"x": x, "y": y}
    if chart.colour:
        encoding["color"] = colour(chart, names, wirings)
    if layer.mark in ("band", "error"):
        across = "x" if f"{chart.x}_low" in data and f"{chart.y}_low" not in data else "y"
        column = chart.x if across == "x" else chart.y
        if f"{column}_low" not in data:
            return []
        data = data.dropna(subset=[f"{column}_low", f"{column}_high"])
        encoding[across] = encoding[across] | {"field": f"{column}_low"}
        encoding[f"{across}2"] = {"field": f"{column}_high"}
        mark = {"type": "area", "opacity": 0.15} if layer.mark == "band" else {"type": "rule", "opacity": 0.8}
        mark |= {} if "color" in encoding else {"color": POINT}
        return [{"data": {"values": values(data)}, "mark": mark | layer.options, "encoding": encoding}]
    mark = {"type": {"hollow": "point", "rect": "rect"}.get(layer.mark, layer.mark)}
    if layer.mark == "point":
        mark["filled"] = True
    if layer.mark == "bar" and chart.x2:
        encoding["x2"] = {"field": chart.x2}
    if chart.colour == "wiring" and layer.mark == "line":
        dashes = [DASHES[look(w).dashes] for w in wirings]
        encoding["strokeDash"] = {
            "field": "wiring",
            "legend": encoding["color"]["legend"],
            "scale": {"domain": names, "range": dashes},
        }
    if chart.colour == "wiring" and layer.mark in ("point", "hollow"):
        shapes = [SHAPES[look(w).marker] for w in wirings]
        encoding["shape"] = {
            "field": "wiring",
            "legend": encoding["color"]["legend"],
            "scale": {"domain": names, "range": shapes},
        }
    told = dict.fromkeys([chart.colour, chart.x, chart.y, *chart.hover])
    encoding["tooltip"] = [hover(data, column) for column in told if column and column in data]
    return [{"data": {"values": values(data)}, "mark": mark | layer.options, "encoding": encoding}]


def hover(data: pd.DataFrame, column: str) -> dict:
    told = {"field": column, "title": label(column)}
    if kind(data, column) == "quantitative":
        told |= {"type": "quantitative", "format": METRICS[column].form if column in METRICS else "~g"}
    return told


def end_labels(chart: Chart, data: pd.DataFrame, names: list[str]) -> dict:
    """Each series' name at the right end of its line, spread so that no name covers another."""
    last = data.dropna(subset=[chart.y]).sort_values(chart.x, kind="stable").groupby(chart.colour, sort=False).last()
    low, high = (chart.domain or (data[chart.y].min(), data[chart.y].max())) if len(data) else (0, 1)
    move = math.log if "y" in chart.log else float
    span = (move(high) - move(low)) or 1
    places = sorted((chart.size[1] * (move(last[chart.y][n]) - move(low)) / span, n) for n in last.index)
    spread = [place for place, _ in places]
    for n in range(1, len(spread)):
        spread[n] = max(spread[n], spread[n - 1] + GAP)
    for n in reversed(range(len(spread))):
        spread[n] = min(spread[n], spread[n + 1] - GAP if n + 1 < len(spread) else chart.size[1] + 8)
    rows = []
    for (place, name), at in zip(places, spread, strict=True):
        rows.append({chart.x: last[chart.x][name], chart.y: last[chart.y][name], chart.colour: name,
                     "down": round(place - at, 1)})  # fmt: skip
    layers = []
    for row in rows:
        encoding = {"x": {"field": chart.x, "type": "quantitative"}, "y": {"field": chart.y, "type": "quantitative"}}
        encoding |= {"text": {"field": chart.colour}}
        mark = {"type": "text", "align": "left", "dx": 8, "dy": row.pop("down"), "limit": 150}
        layers.append({"data": {"values": [row]}, "mark": mark, "encoding": encoding})
    return {"layer": layers}


def alt(chart: Chart, rows: pd.DataFrame, title: str) -> str:
    """The drawing for who cannot see it: what is on the axes, and where each series begins and ends."""
    told = []
    for name in series_of(chart, rows)[:8]:
        part = rows[rows[chart.colour].map(str) == name].sort_values(chart.x, kind="stable")
        first, last = part.iloc[0], part.iloc[-1]
        ends = [f"{cell_text(chart.y, row[chart.y])} at {cell_text(chart.x, row[chart.x])}" for row in (first, last)]
        told.append(f"{name_of(chart, name)} {listing(dict.fromkeys(ends))}")
    start = f"{title + ': ' if title else ''}{label(chart.y)} against {label(chart.x)}"
    return sentence(f"{start}. {'; '.join(told)}" if told else start)


def write(chart: Chart, tables: Tables, out: Path) -> list[Path]:
    """NAME.html for the page; of each drawing its specification (.js), and .svg and -dark.svg."""
    import vl_convert

    start = len(tables.read)
    rows = chart.rows(tables)
    origin = tables.read[start]  # of several tables the first has the numbers
    parts, links, written = [], [], []
    for name, title, part in panels(chart, rows) if len(rows) else []:
        words = alt(chart, part, title)
        made = spec(chart, part, title, words)
        text = json.dumps(made, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=lambda v: v.item())
        svg = vl_convert.vegalite_to_svg(text, vl_version="6.4")
        for suffix, shade in (("", LIGHT), ("-dark", DARK)):
            written.append(out / f"{name}{suffix}.svg")
            save(written[-1], svg.replace(INK, shade) + "\n")
        written.append(out / f"{name}.js")
        save(written[-1], f"(window.ladderCharts ??= {{}})[{json.dumps(name)}] = {text};\n")
        parts.append(
            f'<div class="panel" data-chart="{name}">{image(name, "light", words)}{image(name, "dark", words)}</div>'
        )
        links.append(f'<a href="reports/pages/{name}.svg" download>SVG</a>')
    body = f'<div class="panels">{"".join(parts)}</div>' if parts else f'<p class="nothing">{escape(chart.need)}</p>'
    axes = f"{label(chart.y)} against {label(chart.x)}"
    title = finding(chart.title, tables, axes) if parts else chart.caption
    source = f'<a href="reports/analysis/{origin}.csv" download>CSV</a> '
    identity = chart.name.replace("_", "-")
    caption = f"{escape(chart.caption)} " if parts else ""
    page = out / f"{chart.name}.html"
    said = f'{caption}<span class="downloads">{source}{" ".join(links)}</span>'
    text = [
        f'<figure class="chart" id="figure-{identity}" data-search-exclude>',
        f'<p class="finding"><strong>{escape(sentence(title))}</strong></p>',
        body,
    ]
    save(page, "\n".join([*text, f"<figcaption>{said}</figcaption>", "</figure>", ""]))
    return [*written, page]


def image(name: str, scheme: str, alt: str) -> str:
    dark = "-dark" if scheme == "dark" else ""
    return f'<img class="{scheme}" src="reports/pages/{name}{dark}.svg" alt="{escape(alt)}" loading="lazy">'


def save(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
