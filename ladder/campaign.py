"""Run a list of measurements in order of their value, within a time, and say which bars they meet.

FILE is a YAML with entries. An entry has a name, the minutes it is expected to take, its commands (of this program,
without the word `ladder`), and bars: a metric, the columns of the rows it is about, and one of least, most, or near
with within. Its records go into {out}/NAME. In a command, {out} and {work} are --out and --work, {KEY} is what --set
gives, and a word with * stands for the files it matches.

    ladder campaign config/campaigns/h100.yaml --plan
    ladder campaign config/campaigns/h100.yaml --out reports/measured/h100 --minutes 28
    ladder campaign config/campaigns/h100.yaml --out build/dry --pretend     (no GPU: small shapes, on the CPU)

An entry that would not end in time is passed over for a shorter one; what runs at the end is stopped by SIGTERM, and
goes on where it was when the same line is given again. OUT/campaign.csv has a line for each bar: met, missed, by how
much. Needs torch, transformers and safetensors only.
"""

import argparse
import csv
import glob
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ladder import records
from ladder.errors import UserError
from ladder.files import atomic_write, mark
from ladder.outputs import OutputFolder
from ladder.reading import read_csv, read_yaml, take

LONGEST = 9  # minutes of an entry: machines are lent for ten minutes a command
GRACE = 30  # seconds between SIGTERM and SIGKILL: a training writes a checkpoint
SUMMARY = "campaign.csv"
COLUMNS = ("entry", "status", "seconds", "bar", "value", "low", "high", "verdict", "commands")


@dataclass(frozen=True)
class Bar:
    """What an entry should show: the value of a metric in all rows whose columns are as in ``where``."""

    metric: str
    where: dict
    least: float | None = None
    most: float | None = None
    near: float | None = None
    within: float | None = None

    def __str__(self) -> str:
        place = " ".join(f"{key}={value}" for key, value in self.where.items())
        limit = f"{self.near:g} ± {self.within:g}" if self.near is not None else ""
        limit = limit or (f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}")
        return " ".join(filter(None, (self.metric, place, limit)))

    def margin(self, value: float) -> float:
        """How far inside the bar a value is; below 0 it misses."""
        if self.near is not None:
            return self.within - abs(value - self.near)
        return value - self.least if self.least is not None else self.most - value

    def verdict(self, rows: list[dict]) -> dict:
        """Columns of the summary, from the row that is worst."""
        match = {"metric": self.metric, **self.where}
        rows = [row for row in rows if all(row.get(key) == value for key, value in match.items())]
        if not rows:
            return {"bar": str(self), "verdict": "not measured"}
        worst = min(rows, key=lambda row: self.margin(row["value"]))
        margin = self.margin(worst["value"])
        verdict = f"{'met' if margin >= 0 else 'missed'} by {abs(margin):.3g}"
        return {"bar": str(self), "verdict": verdict, **{key: worst.get(key) for key in ("value", "low", "high")}}


@dataclass(frozen=True)
class Entry:
    name: str
    minutes: float
    commands: tuple[str, ...]
    bars: tuple[Bar, ...]

    def records(self, out: Path) -> list[dict]:
        """The rows of the records in {out}/NAME."""
        return [row for path in sorted((out / self.name).glob("*.json")) for row in records.read(path)["rows"]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("campaign", type=Path, metavar="FILE", help="YAML file")
    parser.add_argument("--out", action=OutputFolder, writes=(SUMMARY, "*.log"), help="directory to write in")
    work = {"default": Path("build/campaign"), "help": "where data and models go (default: %(default)s)"}
    parser.add_argument("--work", action=OutputFolder, **work)
    parser.add_argument("--minutes", type=float, help="stop after so long (default: when all is done)")
    parser.add_argument("--only", nargs="+", metavar="ENTRY", help="these entries only")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="what {KEY} in a command stands for")
    parser.add_argument("--plan", action="store_true", help="print the entries, and run nothing")
    parser.add_argument("--pretend", action="store_true", help="replace texts in commands as FILE says: a dry run")


def main(args: argparse.Namespace) -> None:
    if wrong := next((word for word in args.set if "=" not in word), None):
        raise UserError(f"--set {wrong} is not KEY=VALUE")
    settings = dict(word.split("=", 1) for word in args.set) | {"work": str(args.work)}
    settings |= {"out": str(args.out)} if args.out else {}
    entries = read(args.campaign, settings, args.pretend)
    if unknown := sorted(set(args.only or ()) - {entry.name for entry in entries}):
        raise UserError(f"--only {unknown[0]}: {args.campaign} has {', '.join(entry.name for entry in entries)}")
    entries = [entry for entry in entries if not args.only or entry.name in args.only]
    if args.plan:
        return print(plan(entries))
    if not args.out:
        raise UserError("--out is missing: where the records go (or --plan, to see the entries only)")
    args.out.mkdir(parents=True, exist_ok=True)
    mark(args.out, "*.log")
    deadline = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    summary = Summary(args.out)
    for entry in entries:
        if summary.is_done(entry):
            say(f"{entry.name}: done before")
        elif missing := sorted(set(re.findall(r"\{(\w+)\}", " ".join(entry.commands)))):
            summary.add(entry, f"needs --set {missing[0]}=...", 0)
        elif time.monotonic() + 60 * entry.minutes > deadline:
            summary.add(entry, "left: not enough time", 0)
        else:
            began = time.monotonic()
            say(f"{entry.name}: about {entry.minutes:g} minutes; its output: {args.out / entry.name}.log")
            summary.add(entry, run(entry, args.out, deadline), time.monotonic() - began)
    print(summary.text())


def read(path: Path, settings: dict[str, str], pretend: bool = False) -> list[Entry]:
    """The entries of a campaign, in order. Raises UserError naming file, entry, key and value."""
    content = read_yaml(path)
    replaced = take(content, "pretend", dict, str(path), default={}) if pretend else {}
    entries = []
    for number, item in enumerate(take(content, "entries", list, str(path))):
        where = f"{path}: entries[{number}]"
        if not isinstance(item, dict):
            raise UserError(f"{where} is no object; give it name, minutes, commands and bars")
        name = take(item, "name", str, where)
        where = f"{path}: {name}"
        if not re.fullmatch(r"[\w.-]+", name) or name in {entry.name for entry in entries}:
            raise UserError(f"{where}: names a folder, so it must be of letters, digits, . _ - and stand there once")
        commands = []
        for command in take(item, "commands", list, where):
            if not isinstance(command, str):
                raise UserError(f"{where}: commands holds {command!r}, and text is needed")
            for text, instead in replaced.items():
                command = command.replace(text, str(instead))
            for key, value in settings.items():
                command = command.replace(f"{{{key}}}", shlex.quote(value))
            commands.append(command)
        bars = tuple(_bar(bar, f"{where}: bars[{i}]") for i, bar in enumerate(take(item, "bars", list, where, [])))
        minutes = take(item, "minutes", float, where, least=0, most=LONGEST)
        entries.append(Entry(name, minutes, tuple(commands), bars))
    return entries


def _bar(item, where: str) -> Bar:
    if not isinstance(item, dict) or set(item) - set(Bar.__annotations__):
        raise UserError(f"{where}: is {item!r}; its keys are {', '.join(Bar.__annotations__)}")
    limits = {key: take(item, key, float, where, None) for key in ("least", "most", "near", "within")}
    given = {key for key, value in limits.items() if value is not None}
    if given not in ({"least"}, {"most"}, {"near", "within"}):
        raise UserError(f"{where}: has {', '.join(sorted(given)) or 'no limit'}; give least, most, or near and within")
    return Bar(take(item, "metric", str, where), take(item, "where", dict, where, {}), **limits)


def plan(entries: list[Entry]) -> str:
    lines, total = [], 0.0
    for entry in entries:
        total += entry.minutes
        lines += [f"{entry.name:<24} {entry.minutes:>5g} min  {total:>6g} in all"]
        lines += [f"    ladder {command}" for command in entry.commands]
        lines += [f"    bar: {bar}" for bar in entry.bars]
    return "\n".join(lines)


def run(entry: Entry, out: Path, deadline: float) -> str:
    """Run the commands of an entry in order; how it ended: ``done``, ``failed: REASON`` or ``stopped: CURE``."""
    with (out / f"{entry.name}.log").open("a", encoding="utf-8") as log:
        for command in entry.commands:
            print(f"$ ladder {command}", file=log, flush=True)
            words = [path for word in shlex.split(command) for path in sorted(glob.glob(word)) or [word]]
            words = [sys.executable, "-m", "ladder", *words]
            process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
            try:
                process.wait(None if deadline == float("inf") else max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return f"stopped: {_stop(process)}"
            except KeyboardInterrupt:
                _stop(process)
                raise
            if process.returncode:
                last = Path(log.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
                return f"failed: {last[:200]}"
    return "done"


def _stop(process: subprocess.Popen) -> str:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return "the time was over; give the same line again to go on"


class Summary:
    """OUT/campaign.csv, written anew after each entry; entries of earlier calls stay."""

    def __init__(self, out: Path):
        self.out, self.path = out, out / SUMMARY
        self.rows = [row for _, row in read_csv(self.path, COLUMNS)] if self.path.exists() else []

    def is_done(self, entry: Entry) -> bool:
        """Whether the entry ended well, with the same commands."""
        mine = [row for row in self.rows if row["entry"] == entry.name]
        return bool(mine) and all(r["status"] == "done" and r["commands"] == "; ".join(entry.commands) for r in mine)

    def add(self, entry: Entry, status: str, seconds: float) -> None:
        shared = {
            "entry": entry.name,
            "status": status,
            "seconds": round(seconds),
            "commands": "; ".join(entry.commands),
        }
        measured = entry.records(self.out)
        verdicts = [bar.verdict(measured) for bar in entry.bars] or [{}]
        self.rows = [row for row in self.rows if row["entry"] != entry.name] + [shared | v for v in verdicts]
        say(f"{entry.name}: {status}" + "".join(f"\n    {v['bar']}: {v['verdict']}" for v in verdicts if v))
        with atomic_write(self.path) as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def text(self) -> str:
        """How many bars were met, and where the rest is written."""
        verdicts = [str(row.get("verdict") or "") for row in self.rows]
        counts = {word: sum(v.startswith(word) for v in verdicts) for word in ("met", "missed", "not measured")}
        return f"bars: {', '.join(f'{n} {word}' for word, n in counts.items())}; {self.path}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
