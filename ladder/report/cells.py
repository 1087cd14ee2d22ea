"""Tables whose page and CSV cannot differ: a cell knows the tidy rows that it was made from."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ladder.files import atomic_write
from ladder.report.frames import COLUMNS
from ladder.report.markup import escape, link, segment, write_csv
from ladder.report.style import listing

TOKENS = {"prompt": "prompt tokens", "new_tokens": "new tokens"}
SHORT = 26  # characters of a cell that are kept on one line
CSV_COLUMNS = [*COLUMNS, "p2p", "table", "version", "source"]


@dataclass(frozen=True)
class Cell:
    """text: what the page shows; sort: number or word to sort by; rows: the tidy rows behind it;
    reason: why it is empty; note: a footnote."""

    text: str
    sort: float | str | None = None
    rows: tuple[dict, ...] = ()
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Column:
    name: str
    group: str = ""  # columns with the same group stand under one heading, which names their origin
    words: bool = False  # text, not numbers


@dataclass(frozen=True)
class Table:
    """caption states the finding, computed from the numbers; notes are footnotes that hold for the whole table; place
    is its folder below reports/."""

    name: str
    title: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    place: str = "tables"

    def tidy(self) -> pd.DataFrame:
        rows = [row for cells in self.rows for cell in cells for row in cell.rows]
        frame = pd.DataFrame(rows, columns=CSV_COLUMNS)
        return frame.dropna(axis=1, how="all").drop_duplicates()

    def shown(self) -> pd.DataFrame:
        """The texts as the page has them, with their footnotes."""
        rows = [[f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in row] for row in self.rows]
        return pd.DataFrame(rows, columns=[c.name for c in self.columns])


def words(text: object, sort: float | str | None = None, note: str = "") -> Cell:
    return Cell(str(text), str(text).lower() if sort is None else sort, note=note)


def missing(reason: str, **what) -> Cell:
    """An empty cell that says why."""
    return Cell("", None, ({**what, "note": f"empty: {reason}"},) if what else (), reason)


def value(row: dict | None, form, reason: str, note: str = "", **what) -> Cell:
    """One row's value written by ``form``, with its interval where it has one; or the reason why there is none."""
    if row is None:
        return missing(reason, **what)
    text = form(row["value"])
    if pd.notna(row.get("low")) and pd.notna(row.get("high")) and row["low"] < row["high"]:
        text += interval(form(row["low"]), form(row["high"]))
    return Cell(text, row["value"], (row,), note=note)


def interval(low: str, high: str) -> str:
    return f" [{low}, {high}]"


def over_seeds(frame: pd.DataFrame, form, reason: str, note: str = "", **what) -> Cell:
    """Mean over the seeds, with the range from lowest to highest; or the reason why there is none."""
    if frame.empty:
        return missing(reason, **what)
    rows = frame.to_dict("records")
    values = frame.groupby("seed", dropna=False)["value"].last()
    mean = float(values.mean())
    if len(values) == 1:
        return Cell(form(mean), mean, tuple(rows), note=note)
    same = {key: rows[0][key] for key in frame.columns if frame[key].nunique(dropna=False) == 1}
    summary = same | {"seed": None, "value": mean, "low": values.min(), "high": values.max(), "n": len(values)}
    summary |= {"stderr": None, "note": f"mean of {len(values)} seeds; low and high are the lowest and highest"}
    return Cell(form(mean) + interval(form(values.min()), form(values.max())), mean, (*rows, summary), note=note)


def write(table: Table, folder: Path, ui: str) -> list[Path]:
    """Write NAME.csv (tidy and complete; of a table of words, what it shows) and NAME.html (for the page; run ids link
    to the MLflow UI at ``ui``)."""
    csv, page = folder / f"{table.name}.csv", folder / f"{table.name}.html"
    tidy = table.tidy()
    write_csv(tidy if len(tidy) else table.shown(), csv)
    with atomic_write(page) as part:
        part.write_text(render(table, tidy, ui), encoding="utf-8")
    return [csv, page]


def render(table: Table, tidy: pd.DataFrame, ui: str) -> str:
    marks: dict[str, str] = {}

    def mark(note: str) -> str:
        letter = marks.setdefault(note, chr(ord("a") + len(marks)))
        return f"<sup>{letter}</sup>"

    def cell(content: Cell, column: Column, first: bool) -> str:
        sort = "" if content.sort is None else f' data-sort="{escape(content.sort)}"'
        inside = escape(content.text)
        if content.reason:
            inside = f'<span class="missing" title="{escape(content.reason)}">–</span>{mark(content.reason)}'
        elif content.note:
            inside += mark(content.note)
        if " [" in content.text:
            inside = inside.replace(" [", ' <span class="interval">[', 1).replace("]", "]</span>", 1)
        kind = "number" if not column.words else "short" if len(content.text) < SHORT else "long"
        title = f' title="{escape(told)}"' if (told := facts(content)) else ""
        return (
            f'<th scope="row" class="{kind}"{sort}>{inside}</th>'
            if first
            else f'<td class="{kind}"{sort}{title}>{inside}</td>'
        )

    identity = f"table-{table.name.replace('_', '-')}"
    body = "\n".join(
        "<tr>" + "".join(cell(c, table.columns[i], i == 0) for i, c in enumerate(row)) + "</tr>" for row in table.rows
    )
    heads = "".join(
        f'<th scope="col"{"" if column.words else " class=number"}>{escape(column.name)}</th>'
        for column in table.columns
    )
    lines = [
        f'<div class="results" id="{identity}" data-search-exclude>',
        f'<p class="caption" id="{identity}-caption"><strong>{escape(table.title)}.</strong> '
        f"{escape(table.caption)}</p>",
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{identity}-caption">',
        f'<table class="sortable" aria-describedby="{identity}-caption">',
        f"<thead>{groups(table.columns)}<tr>{heads}</tr></thead>",
        f"<tbody>\n{body}\n</tbody>",
        "</table>",
        "</div>",
    ]
    notes = [f"<li><sup>{letter}</sup> {escape(note)}</li>" for note, letter in marks.items()]
    notes += [f"<li>{escape(note)}</li>" for note in table.notes]
    if notes:
        lines.append(f'<ul class="notes">{"".join(notes)}</ul>')
    lines.append(f'<p class="downloads"><a href="reports/{table.place}/{table.name}.csv" download>CSV</a></p>')
    lines += runs(tidy, ui)
    return "\n".join([*lines, "</div>", ""])


def facts(cell: Cell) -> str:
    """How a timing of ours was made, for the cell's title: what no column says."""
    row = cell.rows[0] if cell.rows else {}
    if row.get("stage") != "bench" or pd.isna(row.get("value")):
        return ""
    said = [row.get(key) for key in ("origin", "backend", "link", "dtype", "compute", "hardware")]
    said += [f"{row[key]:g} {word}" for key, word in TOKENS.items() if pd.notna(row.get(key))]
    said += [f"n = {row['n']:g}"] if pd.notna(row.get("n")) else []
    said += ["95 % interval"] if pd.notna(row.get("low")) else []
    return "; ".join(str(word) for word in [*said, row.get("note")] if pd.notna(word))


def groups(columns: list[Column]) -> str:
    """The upper heading row, if any column has a group."""
    if not any(column.group for column in columns):
        return ""
    spans: list[list] = []
    for column in columns:
        if spans and spans[-1][0] == column.group:
            spans[-1][1] += 1
        else:
            spans.append([column.group, 1])
    cells = [
        f'<th scope="colgroup" colspan="{n}">{escape(name)}</th>' if name else f'<td colspan="{n}"></td>'
        for name, n in spans
    ]
    return f'<tr class="groups">{"".join(cells)}</tr>'


def runs(tidy: pd.DataFrame, ui: str) -> list[str]:
    """Which runs the table's own numbers come from."""
    if "run" not in tidy:
        return []
    own = tidy.dropna(subset=["run"]).reindex(columns=["run", "hardware", "mlflow_run_id", "commit"]).drop_duplicates()
    items = []
    for row in own.itertuples():
        tracked = pd.notna(row.mlflow_run_id)
        name = link(f"{ui}/runs/{segment(row.mlflow_run_id)}", row.run) if tracked else escape(row.run)
        facts = [str(row.hardware)] if pd.notna(row.hardware) else []
        facts += [f"commit {row.commit[:10]}"] if pd.notna(row.commit) else []
        items.append(f"<li>{name}{': ' if facts else ''}{escape(listing(facts))}</li>")
    if not items:
        return []
    where = "<p>The links open the MLflow UI that <code>make ui</code> starts on this machine.</p>"
    return [
        f"<details><summary>Runs behind this table: {len(items)}</summary>{where}<ul>{''.join(items)}</ul></details>"
    ]
