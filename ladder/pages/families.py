"""Which families of decoders can be rewired, and why others cannot: tried on a tiny random model of each.

    ladder families qwen3 gemma2 opt
    ladder families --out reports/families

Families are the causal language models of the installed transformers, by their model type. Without names all are tried,
in half a minute. Prints a line each; --out writes the table as a CSV and as a page fragment.
"""

import argparse
import logging

import pandas as pd

from ladder.errors import unknown_name
from ladder.markup import write_csv
from ladder.outputs import OutputFolder
from ladder.pages.page import Sources
from ladder.pages.tables import Table

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
        rows = table(verdicts)
        write_csv(rows, args.out / "families.csv")
        TABLE.write(Sources({"families": rows}), args.out)


def table(verdicts: list) -> pd.DataFrame:
    """Of rows of ladder.model.tiny.verdict."""
    rows = []
    for one in sorted(verdicts, key=lambda one: (not one.form, one.family)):
        state = "yes" if one.form else "not tried" if one.reason.startswith(UNTRIED) else "no"
        row = {"family": one.family, "model": one.model, "rewired": state, "form": one.form or None}
        rows.append(
            row | {"wirings": ", ".join(one.wirings) if one.form else None, "reason": None if one.form else one.reason}
        )
    return pd.DataFrame(rows)


def counted(tables: dict) -> str:
    from importlib import metadata

    counts = tables["families"]["rewired"].value_counts()
    return (
        f"Of {counts.sum()} families of transformers {metadata.version('transformers')}, {counts.get('yes', 0)} are "
        f"rewired, {counts.get('no', 0)} are refused, and {counts.get('not tried', 0)} have no small model to try"
    )


TABLE = Table("families", counted, "", "families", ("family", "rewired"), (),
              tail=("model", "form", "wirings", "reason"), csv="families/families.csv")  # fmt: skip
