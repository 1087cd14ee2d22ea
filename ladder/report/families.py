"""Which families of decoders can be rewired, and why others cannot: tried on a tiny random model of each.

    ladder families qwen3 gemma2 opt
    ladder families --out reports/families

Families are the causal language models of the installed transformers, by their model type. Without names all are tried,
in half a minute. Prints a line each; --out writes the table as a CSV and as a page fragment.
"""

import argparse
import logging

from ladder.errors import unknown_name
from ladder.outputs import OutputFolder
from ladder.report.cells import Column, Table, words, write

UNTRIED = "no small model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="model types (default: all)")
    parser.add_argument(
        "--out", action=OutputFolder, writes=("families.csv", "families.html"), help="directory of the table to write"
    )


def main(args: argparse.Namespace) -> None:
    from ladder.model.tiny import NAMES, verdict

    logging.getLogger("transformers").setLevel(logging.CRITICAL)  # what its families think of a small model
    if unknown := [name for name in args.families if name not in NAMES]:
        raise unknown_name("family", unknown[0], NAMES)
    verdicts = [verdict(name) for name in args.families or NAMES]
    for one in verdicts:
        print(f"{one.family}: " + (f"{', '.join(one.wirings)}; {one.form}" if one.form else one.reason))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        write(table(verdicts), args.out, "")


def table(verdicts: list) -> Table:
    """Of rows of ladder.model.tiny.verdict."""
    from importlib import metadata

    columns = [Column(name, words=True) for name in ("Family", "Model", "Rewired", "Layers", "Wirings", "Why not")]
    rows = []
    for one in sorted(verdicts, key=lambda one: (not one.form, one.family)):
        state = "yes" if one.form else "not tried" if one.reason.startswith(UNTRIED) else "no"
        cells = [words(one.family), words(one.model), words(state)]
        if one.form:
            cells += [words(one.form), words(", ".join(one.wirings)), words("")]
        else:
            cells += [words(""), words(""), words(one.reason)]
        rows.append(cells)
    counts = {state: sum(row[2].text == state for row in rows) for state in ("yes", "no", "not tried")}
    caption = (
        f"Of {len(rows)} families of transformers {metadata.version('transformers')}, {counts['yes']} are rewired, "
        f"{counts['no']} are refused, and {counts['not tried']} have no small model to try."
    )
    return Table("families", "Families of decoders", caption, columns, rows, place="families")
