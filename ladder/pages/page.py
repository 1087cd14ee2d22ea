"""A page of the site: what it answers, and the charts and tables that it shows, each a fragment that the hand-written
Markdown includes by its name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ladder.pages import charts, tables
from ladder.pages.charts import Chart, Tables, save
from ladder.pages.tables import Table
from ladder.report.markup import escape


class Sources(dict):
    """The derived tables by name; of one that this run cannot make, an empty frame."""

    def __missing__(self, name: str) -> pd.DataFrame:
        return pd.DataFrame()


@dataclass(frozen=True)
class Page:
    """name: of the Markdown file; answer: two lines at its top, written by hand around numbers of the tables, or ""
    where this run has none."""

    name: str
    items: tuple[Chart | Table, ...]
    answer: Callable[[Tables], str] | None = None

    def write(self, found: Tables, out: Path) -> list[Path]:
        written = []
        if self.answer:
            written.append(out / f"{self.name}.answer.html")
            save(written[-1], f'<p class="answer">{escape(self.answer(found))}</p>\n')
        for item in self.items:
            written += (charts if isinstance(item, Chart) else tables).write(item, found, out)
        return written
