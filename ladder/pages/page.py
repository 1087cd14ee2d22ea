"""A page of the site: what it answers, and what it shows, each a fragment that the hand-written Markdown includes by
its name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ladder.markup import escape
from ladder.pages.charts import Chart, Tables, save
from ladder.pages.tables import Table
from ladder.pages.words import finding

LITTLE = "This run has too few records for an answer."


class Rows(pd.DataFrame):
    """A derived table. A query for a column that no row of this run has finds nothing."""

    @property
    def _constructor(self):
        return Rows

    def query(self, expr, **options):
        try:
            return super().query(expr, **options)
        except pd.errors.UndefinedVariableError:
            return self[:0]


class Sources(dict):
    """The derived tables by name; of one that this run cannot make, an empty frame. read: which were asked for."""

    def __init__(self, tables: Tables):
        super().__init__({name: Rows(table) for name, table in tables.items()})
        self.read: list[str] = []

    def __getitem__(self, name: str) -> pd.DataFrame:
        self.read.append(name)
        return super().__getitem__(name)

    def __missing__(self, name: str) -> pd.DataFrame:
        return Rows()


@dataclass(frozen=True)
class Html:
    """A fragment of a form of its own."""

    name: str
    make: Callable[[Tables], str]

    def write(self, tables: Tables, out: Path) -> list[Path]:
        path = out / f"{self.name}.html"
        save(path, self.make(tables) + "\n")
        return [path]


@dataclass(frozen=True)
class Page:
    """name: of the Markdown file; answer: two lines at its top, written by hand around numbers of the tables."""

    name: str
    items: tuple[Chart | Table | Html, ...]
    answer: Callable[[Tables], str] | None = None

    def write(self, tables: Tables, out: Path) -> list[Path]:
        items = list(self.items)
        if answer := self.answer:
            items.append(
                Html(
                    f"{self.name}.answer",
                    lambda found: f'<p class="answer">{escape(finding(answer, found, LITTLE))}</p>',
                )
            )
        return [path for item in items for path in item.write(tables, out)]
