"""Tables, declared: a table names a derived table and the columns of it that it shows; heads, units, formats and
intervals come from the table of metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ladder.looks import look, order
from ladder.markup import escape
from ladder.metrics import METRICS, label, text
from ladder.pages.charts import Tables, save
from ladder.pages.words import finding, sentence

LONG = 20  # rows from which on a table gets a filter


@dataclass(frozen=True)
class Table:
    """source, where: as of a chart. rows: columns that name a row; columns: its metrics, or (group, column, ...) for
    columns under one head; across: a column whose every value gets the metrics once more, under its name. tail: columns
    about the whole row. key: metrics that a phone shows before it is asked for the rest. note: a column of footnotes.
    title and caption: text, or made from the tables; need: stands where there are no rows. fold: closed at first."""

    name: str
    title: str | Callable[[Tables], str]
    caption: str | Callable[[Tables], str]
    source: str | Callable[[Tables], pd.DataFrame]
    rows: tuple[str, ...]
    columns: tuple
    where: str = ""
    across: str | None = None
    tail: tuple[str, ...] = ()
    key: int = 2
    note: str | None = None
    need: str = "This run has no such numbers."
    missing: str = "not measured, or not published"
    fold: bool = False
    heads: dict[str, str] | None = None
    csv: str | None = None  # below reports/, where it is no derived table

    def write(self, tables: Tables, out: Path) -> list[Path]:
        path, start = out / f"{self.name}.html", len(tables.read)
        rows = self.select(tables)
        csv = self.csv or f"analysis/{tables.read[start]}.csv"
        save(path, render(self, tables, rows, csv) + "\n")
        return [path]

    def select(self, tables: Tables) -> pd.DataFrame:
        rows = self.source(tables) if callable(self.source) else tables[self.source]
        return rows.query(self.where) if len(rows) and self.where else rows


@dataclass(frozen=True)
class Head:
    column: str
    group: str = ""
    value: object = None  # of the column ``across``

    def words(self, table: Table) -> str:
        if self.value is not None and self.group != value_text(table.across, self.value, {}):
            return value_text(table.across, self.value, {})
        return (table.heads or {}).get(self.column) or label(self.column)


def heads_of(table: Table, rows: pd.DataFrame) -> list[Head]:
    flat = []
    for entry in table.columns:
        group, *columns = ("", entry) if isinstance(entry, str) else entry
        flat += [Head(column, group) for column in columns]
    flat = [head for head in flat if head.column in rows or table.across]
    if table.across is None:
        return flat
    values = list(dict.fromkeys(rows[table.across].dropna()))
    if table.across == "wiring":
        values.sort(key=order)
    if len(flat) == 1:
        return [Head(flat[0].column, label(flat[0].column), value) for value in values]
    shown = [Head(head.column, value_text(table.across, value, {}), value) for value in values for head in flat]
    return [h for h in shown if h.column in rows and rows.loc[rows[table.across] == h.value, h.column].notna().any()]


def lines(table: Table, rows: pd.DataFrame) -> list[list[dict]]:
    """The rows behind each line: one, or several that differ in ``across``."""
    if table.across is None:
        return [[row] for row in rows.to_dict("records")]
    return [group.to_dict("records") for _, group in rows.groupby(list(table.rows), dropna=False, sort=False)]


def value_text(column: str | None, value, row: dict) -> str:
    """A cell's text; a column of several metrics (``value``, ``difference``, ...) is written as its row's metric is."""
    if column == "wiring" and isinstance(value, str):
        degree = row.get("degree")
        return look(value, None if degree is None or pd.isna(degree) else degree).label
    if column == "metric" and value in METRICS:
        return METRICS[value].title
    named = row.get("metric")
    if column in ("value", "published", "simulated") and named in METRICS:
        column = named
    return text(column or "", value)


def cell(column: str, row: dict, table: Table) -> tuple[str, str]:
    """(HTML inside, sorting key) of a cell."""
    value = row.get(column)
    written = value_text(column, value, row)
    if not written:
        return f'<span class="missing" title="{escape(table.missing)}">–</span>', ""
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    inside = escape(written)
    if low is not None and high is not None and pd.notna(low) and pd.notna(high) and low < high:
        ends = ", ".join(value_text(column, end, row) for end in (low, high))
        inside += f' <span class="interval">{escape(ends)}</span>'
    return inside, str(order(value)[0]) if column == "wiring" else str(value).lower()


def plain(table: Table) -> str:
    return table.title if isinstance(table.title, str) else table.name.replace("_", " ").capitalize()


def render(table: Table, tables: Tables, rows: pd.DataFrame, csv: str) -> str:
    identity = f"table-{table.name.replace('_', '-')}"
    if rows.empty:
        words = f"<strong>{escape(plain(table))}.</strong> {escape(table.need)}"
        return f'<div class="results" id="{identity}" data-search-exclude>\n<p class="caption">{words}</p>\n</div>'
    metrics = heads_of(table, rows)
    names = [name for name in table.rows if name in rows]
    tail = [name for name in table.tail if name in rows and rows[name].notna().any()]
    columns = [*map(Head, names), *metrics, *map(Head, tail)]
    kinds = [classes(n, head, rows, table, columns) for n, head in enumerate(columns)]
    notes: dict[str, int] = {}
    body = []
    for members in lines(table, rows):
        cells = []
        for n, head in enumerate(columns):
            row = members[0]
            if head.value is not None:
                row = next((one for one in members if one[table.across] == head.value), {})
            inside, key = cell(head.column, row, table)
            if n == 0 and table.note and isinstance(row.get(table.note), str) and row[table.note]:
                inside += f"<sup>{notes.setdefault(row[table.note], len(notes) + 1)}</sup>"
            cells.append(tag(n, head, inside, f' data-sort="{escape(key)}"' if key else "", kinds[n]))  # fmt: skip
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(
        f'<th scope="col" class="{kinds[n]}">{grouped(head)}{escape(head.words(table))}</th>'
        for n, head in enumerate(columns)
    )
    title, caption = sentence(finding(table.title, tables, plain(table))), finding(table.caption, tables, "")
    tools = ""
    if len(body) > LONG:
        tools = '<label class="filter">Filter <input type="search" aria-label="Filter the rows of this table"></label>'
        tools += f'<span class="count" aria-live="polite">{len(body)} rows</span>'
    if any("more" in kind for kind in kinds):
        tools += '<label class="all"><input type="checkbox"> all columns</label>'
    source = f'<a href="reports/{csv}" download>CSV</a>'
    parts = [
        f'<p class="caption" id="{identity}-caption"><strong>{escape(title)}</strong> {escape(caption)} '
        f'<span class="downloads">{source}</span></p>',
        f'<p class="tools">{tools}</p>' if tools else "",
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{identity}-caption">',
        f'<table class="sortable" aria-describedby="{identity}-caption">',
        f"<thead>{groups(columns)}<tr>{head}</tr></thead>",
        "<tbody>\n" + "\n".join(body) + "\n</tbody>",
        "</table>\n</div>",
        "".join(f'<p class="note"><sup>{n}</sup> {escape(words)}</p>' for words, n in notes.items()),
    ]
    inside = "\n".join(part for part in parts if part)
    if table.fold:
        inside = f"<details>\n<summary>{escape(title)} <span>{len(body)} rows</span></summary>\n{inside}\n</details>"
    return f'<div class="results" id="{identity}" data-search-exclude>\n{inside}\n</div>'


def tag(n: int, head: Head, inside: str, key: str, kind: str) -> str:
    return f'<th scope="row" class="{kind}"{key}>{inside}</th>' if n == 0 else f'<td class="{kind}"{key}>{inside}</td>'


def classes(n: int, head: Head, rows: pd.DataFrame, table: Table, columns: list[Head]) -> str:
    """number or words; more: what a phone hides at first."""
    number = head.column in METRICS or head.column in ("value", "published", "simulated")
    number = number or (head.column in rows and pd.api.types.is_numeric_dtype(rows[head.column]))
    first = next((i for i, one in enumerate(columns) if one.column not in table.rows), len(columns))
    hidden = n > 0 and not (n < min(2, first) or first <= n < first + table.key)
    return ("number" if number else "words") + (" more" if hidden else "")


def grouped(head: Head) -> str:
    """The group in the head itself, for a phone, which leaves the upper row out."""
    return f'<span class="group">{escape(head.group)} </span>' if head.group else ""


def groups(columns: list[Head]) -> str:
    """The upper row of heads, if any column has a group."""
    if not any(head.group for head in columns):
        return ""
    spans: list[list] = []
    for head in columns:
        if spans and spans[-1][0] == head.group:
            spans[-1][1] += 1
        else:
            spans.append([head.group, 1])
    cells = [
        f'<th scope="colgroup" colspan="{n}">{escape(name)}</th>' if name else f'<td colspan="{n}"></td>'
        for name, n in spans
    ]
    return f'<tr class="groups">{"".join(cells)}</tr>'
