"""The columns that say where a timing is from: the same words in every table of speed, for ours and the paper's.

What tells rows apart and their origin stand before the values (``heads``), how they were made after them (``TAIL``).
"""

from ladder.report.cells import Cell, Column, missing, words
from ladder.report.points import Measurement, none_if_nan

P2P = {"enabled": "NVLink, P2P on", "enabled (NVLink)": "NVLink, P2P on", "disabled": "P2P off"}
PAPER = {"Hardware": "H100", "Origin": "published"}
NUMBERS = ("TP", "Batch")
TAIL = ("Hardware",)


def heads(*names: str) -> list[Column]:
    return [Column(name, words=name not in NUMBERS) for name in names]


def own(point: Measurement, *names: str, link: str | None = None) -> list[Cell]:
    """The cells of a point of ours under the heads ``names``. link: what the link is called, if not by its rho."""
    key = point.key
    tp, batch = f"{key['tp']:g}", f"{key['batch']:g}"
    layers = none_if_nan(key["timed_layers"])
    note = "" if layers is None else f"{layers:g} of the model's layers were run; see the CSV's notes"
    cells = {
        "Model": words(key["model"], note=note),
        "Shape": words(f"{key['model']}, TP {tp}, batch {batch}", note=note),
        "TP": words(tp, key["tp"]),
        "Batch": words(batch, key["batch"]),
        "Link": words((link or point.link).removeprefix("emulated, ")),
        "Computed": words(point.how) if point.how else missing("an old record, which does not say"),
        "Hardware": words(point.hardware),
        "Origin": words(point.origin),
    }
    return [cells[name] for name in names]


def published(*names: str, **said) -> list[Cell]:
    """The cells of a row of the paper; ``said`` has the words (or cells) of the heads that the paper tells."""
    found = []
    for name in names:
        content = (PAPER | said).get(name)
        if content is None:
            content = missing("the paper does not say")
        found.append(content if isinstance(content, Cell) else number(content) if name in NUMBERS else words(content))
    return found


def number(value: float) -> Cell:
    return words(f"{value:g}", value)
