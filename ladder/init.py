"""Check a configuration and write run.json, which ties jobs to it (its name and digest go into every record).

Without --out it is only checked.

  ladder init --config config/default.yaml --out results/default/run.json
"""

import argparse
from pathlib import Path

from ladder import config as configuration
from ladder.files import digest, write_json
from ladder.outputs import OutputFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument("--out", action=OutputFile, help="run.json to write")


def main(args: argparse.Namespace) -> None:
    config = configuration.read(args.config)
    if args.out:
        write_run(config, args.out)


def write_run(config: dict, out: str | Path) -> None:
    write_json(out, {"name": config["name"], "digest": digest(config), "config": config})
