"""Run several `ladder` commands in one process, one after the other: importing torch takes longer than a small job.

Each COMMAND is one word in quotes. One that fails does not keep the others from running; the exit code says so.

  ladder together "convert smollm2 a --wiring ladder@15-29" "convert smollm2 b --wiring parallel@15-29"
"""

import argparse
import shlex

from ladder.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("commands", nargs="+", metavar="COMMAND", help="as in a shell, without `ladder`")


def main(args: argparse.Namespace) -> None:
    from ladder.cli import main as ladder

    failed = [command for command in args.commands if ladder(shlex.split(command))]
    if failed:
        raise UserError(f"{len(failed)} of {len(args.commands)} commands failed, the first was: ladder {failed[0]}")
