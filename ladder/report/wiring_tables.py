"""The table of wirings as data: every row of `ladder.wiring`, and what follows from it."""

import math

from ladder.report.cells import Cell, Column, Table, missing, words
from ladder.report.diagrams import EXAMPLES, summary
from ladder.report.frames import Frames
from ladder.report.style import family, listing, order
from ladder.residual import Row
from ladder.wiring import PATTERNS, Wiring, table

FIELDS = ("lag", "joint", "own", "weight")
LAYERS = 8
DEGREES = (4, 9)  # numbers of ranks at which a row that depends on T is read, to write it in terms of T
SYMBOLS = {"√T": math.sqrt, "1/T": lambda tp: 1 / tp}
SOURCES = {
    "parallel": "GPT-J; PaLM",
    "ladder": "arXiv 2501.06589",
    "partial": "FarSkip-Collective",
    "dtp-<k>": "DTP (2026)",
    "spd": "arXiv 2502.20727",
    "desync-<k>x": "Ladder Residual's code",
    "desync-nx": "Ladder Residual's code",
    "fal": "First Attentions Last",
    "fal+": "First Attentions Last",
}
OURS = "no paper of its own"


def wirings(frames: Frames) -> Table:
    columns = [Column("Wiring", words=True), Column("In words", words=True), Column("All-reduces", words=True)]
    columns += [Column("Depends on T", words=True), *(Column(field, "its rows", words=True) for field in FIELDS)]
    columns += [Column("Source", words=True)]
    shown = sorted([*PATTERNS, *(name for name in EXAMPLES if "@" not in name)], key=order)
    rows = []
    for name in shown:
        cells = [words(name), words(summary(name).partition(" (")[0])]
        cells += [all_reduces(name), words("yes" if Wiring.parse(name).tied else "no")]
        cells += [words(sequence(name, field)) for field in FIELDS]
        source = SOURCES.get(family(name))
        rows.append([*cells, words(source) if source else missing(OURS)])
    notes = [
        "Where attention and MLP differ: attention, MLP. lag: how many of the latest outputs an input lacks; joint: "
        "held back and reduced with the next output; own: weight of a rank's un-reduced share until the sum lands; "
        "weight: of the sum. L: layers of the model; T: the tensor-parallel degree."
    ]
    twice, never = (sum(slope(name) == counts for name in shown) for counts in ((2, 0), (0, 0)))
    apart = [w.name for w in map(Wiring.parse, shown) if w.tied and not w.timing_only]
    caption = (
        f"Of {len(shown)} wirings, {twice} reduce twice in every layer, {never} never, and the others less often. "
        f"Another function at every tensor-parallel degree T: {listing(apart)}."
    )
    return Table("wirings", "The wirings, as the code has them", caption, columns, rows, notes)


def sequence(name: str, field: str) -> str:
    """A field over all modules, as short as it can be said: 'yes, no', '1; last 0', '0, 1, 2, …'."""
    values = [symbol(field, *rows) for rows in zip(*(table(name, LAYERS, tp) for tp in DEGREES), strict=True)]
    for period in (1, 2, 4):
        for head, tail in ((0, 0), (0, 1), (2, 0), (0, 2), (1, 1), (2, 2)):
            middle = values[head : len(values) - tail]
            if all(value == middle[i % period] for i, value in enumerate(middle)):
                parts = [", ".join(middle[:period])]
                parts += [f"first {repeated(values[:head])}"] if head else []
                parts += [f"last {repeated(values[-tail:])}"] if tail else []
                return "; ".join(parts)
    return ", ".join(values[:3]) + ", …"


def repeated(values: list[str]) -> str:
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def symbol(field: str, *rows: Row) -> str:
    """The field's value at each of DEGREES in one word: 'yes', '1', or '√T' where it depends on T."""
    found = [getattr(row, field) for row in rows]
    if isinstance(found[0], bool):
        return "yes" if found[0] else "no"
    if len(set(found)) == 1:
        return f"{found[0]:g}"
    fits = (text for text, of in SYMBOLS.items() if all(map(math.isclose, found, map(of, DEGREES))))
    return next(fits, listing(f"{value:.2f} at T = {tp}" for value, tp in zip(found, DEGREES, strict=True)))


def slope(name: str) -> tuple[float, float]:
    """(all-reduces per layer, how many more or fewer there are in all), from two depths."""
    one, two = (len(table(name, layers, DEGREES[0]).launches) for layers in (LAYERS, 2 * LAYERS))
    return (two - one) / LAYERS, 2 * one - two


def all_reduces(name: str) -> Cell:
    """How many there are in a model of L layers: 2L, 2L − 1, L/2, 1."""
    each, more = slope(name)
    total = f"L/{1 / each:g}" if 0 < each < 1 else {0: "", 1: "L"}.get(each, f"{each:g}L")
    rest = f"{abs(more):g}" if more or not each else ""
    return words(f"{total} {'−' if more < 0 else '+'} {rest}" if total and rest else total + rest, each)


TABLES = [wirings]
