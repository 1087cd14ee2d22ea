"""Copy the data sets of lm-eval's tasks from the Hugging Face hub to a folder, for machines without a network.

Writes OUT/DATA SET/CONFIGURATION/SPLIT, every split that a data set has, as `datasets` saves it. What is there already
is not fetched again. `ladder evaluate --data OUT`, or `evaluate: {data: OUT}` in a profile, reads it.

  ladder fetch piqa arc_easy hellaswag winogrande mmlu --out data
"""

import argparse
import sys

from ladder.errors import UserError
from ladder.files import atomic_write
from ladder.outputs import OutputFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", nargs="+", metavar="TASK", help="lm-eval's name of a task, group or tag")
    parser.add_argument("--out", action=OutputFolder, required=True, help="folder to write")


def main(args: argparse.Namespace) -> None:
    from ladder.evaluate import harness, offline
    from ladder.model.checkpoint import seal

    def save(place: str, splits: dict) -> None:
        with atomic_write(args.out / place, directory=True) as part:
            for name, rows in splits.items():
                rows.save_to_disk(part / name)
            seal(part, {"data": place})
        counts = ", ".join(f"{name} {len(rows):,}" for name, rows in splits.items())
        print(f"{args.out / place}: {counts}", file=sys.stderr, flush=True)

    with harness.own_cache(), offline.saving(args.out, save):
        manager = harness.manager_of(args.tasks)
        for name in args.tasks:
            try:
                manager.load([name])
            except UserError:
                raise
            except (OSError, ValueError, ImportError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise UserError(
                    f"task {name!r}: its data cannot be had from the Hugging Face hub ({reason})"
                ) from error
