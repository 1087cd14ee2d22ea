"""Hold predictions against what was published and against what `ladder bench` timed.

    ladder simulate rows --out rows.csv
    ladder simulate validate --rows rows.csv --record validation.json

Every published number is compared: those of the fit, those held out, and (never scored) those that contradict others.
Of --bench records seconds are predicted too: with the published calibration on hardware that the table of devices has,
otherwise with one fitted to standard and upper_bound of the records themselves, if they identify it. Of all records,
the share that the schedule hides is shown beside the share that was hidden.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ladder import records
from ladder.devices import DEVICES
from ladder.errors import UserError
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.reading import read_json
from ladder.simulate.calibration import DEFAULT, Calibration, load
from ladder.simulate.fit import fit
from ladder.simulate.model import Scenario, interval, predict
from ladder.simulate.points import check, read
from ladder.simulate.published import USES, VALUES
from ladder.simulate.records import CALIBRATES, QUIET, bench_rows, emulated, own_device
from ladder.simulate.scores import HELD_OUT, POINT, WHAT, group, once, repeats, short, statistics, winners

BANDED = ("speedup", "tokens_per_s", "prefill_s")  # those with an interval
RULE = 0.66  # share of the communication that the rule of thumb says ladder hides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rows", type=Path, required=True, metavar="CSV", help="of `ladder simulate rows`")
    add("--calibration", type=Path, default=DEFAULT, metavar="JSON", help="of `ladder calibrate` (default: published)")
    add("--bench", type=Path, nargs="*", default=[], metavar="RECORD", help="records of `ladder bench`")
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    calibration = load(args.calibration)
    lines = read(args.rows, calibration, VALUES)
    if unknown := next((line for _, line in lines if line.get("use") not in USES or not line.get("set")), None):
        raise UserError(
            f"{args.rows}: use = {unknown.get('use')!r}: not a file of `ladder simulate rows`; make it again"
        )
    timed = [(path, records.read(path)) for path in args.bench]
    with job(args, "simulate", "validate") as this:
        entries = compare(lines, calibration)
        groups, noise = statistics(entries), repeats(entries)
        own = own_calibrations(timed)
        ours = [entry for path, record in timed for entry in against(path, record, own, calibration)]
        this.finish(
            [this.row(**row) for row in [*predictions(entries), *summaries(groups), *seconds(ours)]],
            tracked=summaries(groups),
            validation=entries,
            groups=groups,
            noise=noise,
            winners=winners(entries),
            calibration=described(args.calibration),
            own=ours,
        )
    held = next((row for row in groups if (row["group"], row["what"]) == (HELD_OUT, "speedup")), None)
    if held:
        print(f"{HELD_OUT}: speed-up off by {100 * held['median']:.1f} % (median), {100 * held['p90']:.1f} % (p90)")
    print(f"{args.record}: {len(lines)} published points, {len(ours)} of our own")


def compare(lines: Sequence[tuple[Scenario, dict]], calibration: Calibration) -> list[dict]:
    """One dict for each published number: the point, where it is from, ``published``, ``predicted``, its 90 % interval
    (``low``, ``high``), ``without`` interference and by the ``rule`` of thumb; None where there is none.

    A speed-up is compared where it is published, or standard's tokens/s of the same cell in the same source.
    """
    points = [point for point, _ in lines]
    done, bare = predict(points, calibration, intervals=True), predict(points, calibration, interference=False)
    ends = {what: interval(done, what, calibration) for what in BANDED}
    found = {"speedup": done.speedup, "tokens_per_s": done.tokens_per_s, "prefill_s": done.prefill}
    found["memory_gb"] = done.memory / WHAT["memory_gb"][2]
    without = {"speedup": bare.speedup, "tokens_per_s": bare.tokens_per_s}
    rule = done.standard / (done.standard - RULE * (done.standard - done.silent))
    base = {(line["set"], point): line["tokens_per_s"] for point, line in lines}
    entries = []
    for n, (point, line) in enumerate(lines):
        standard = base.get((line["set"], point._replace(wiring="standard")))
        if line["speedup"] is None and standard and line["tokens_per_s"] and point.wiring != "standard":
            line = line | {"speedup": line["tokens_per_s"] / standard}
        for what in WHAT:
            if line[what] is None:
                continue
            entry = point._asdict() | {key: line[key] for key in ("set", "use", "reason", "source")}
            entry |= {"group": group(point, line), "what": what, "published": line[what]}
            numbers = {
                "predicted": found[what][n],
                "low": ends[what][0][n] if what in ends else None,
                "high": ends[what][1][n] if what in ends else None,
                "without": without[what][n] if what in without else None,
                "rule": rule[n] if what == "speedup" and point.wiring == "ladder" else None,
            }
            entries.append(entry | {key: short(value) for key, value in numbers.items()})
    return once(entries)


def described(path: Path) -> dict:
    """The calibration with each parameter's relative standard error, and how far it is from the committed one."""
    content, mine, committed = read_json(path), load(path), load(DEFAULT)
    error = dict(zip(mine.fitted, np.sqrt(np.diag(mine.covariance)), strict=True))
    both = mine.parameters.keys() & committed.parameters.keys()
    return {
        "name": mine.name,
        "hardware": mine.hardware,
        "parameters": [
            {"name": name, "value": value, "stderr": short(error.get(name)), "kept": content.get("kept", {}).get(name)}
            for name, value in mine.parameters.items()
        ],
        "residual": mine.residual,
        "quantile": mine.quantile,
        "difference": short(max(abs(mine.parameters[key] / committed.parameters[key] - 1) for key in both)),
        "other_parameters": sorted(mine.parameters.keys() ^ committed.parameters.keys()),
    }


def own_calibrations(timed: Sequence[tuple[Path, dict]]) -> dict[str, Calibration | str]:
    """Hardware that no table has -> what was fitted to its records, or why its records do not identify it."""
    found: dict[str, Calibration | str] = {}
    by_hardware = defaultdict(list)
    for path, record in timed:
        rows = [row for row in bench_rows(path, record) if row.point.tp > 1]
        if rows and emulated(rows) and rows[0].point.hardware not in DEVICES:
            by_hardware[rows[0].point.hardware].append((rows, record))
    for hardware, parts in by_hardware.items():
        rows = [row for several, _ in parts for row in several]
        quiet = {"interference_small": QUIET, "interference_large": QUIET}
        try:
            device = own_device([record for _, record in parts])
            found[hardware] = fit(rows, "own", hold=quiet, device=device).calibration
        except UserError as error:
            found[hardware] = f"its records identify no calibration: {error}"
    return found


def against(path: Path, record: dict, own: dict[str, Calibration | str], published: Calibration) -> list[dict]:
    """One dict for each wiring of a record of ``ladder bench``: what was timed, and what is predicted of it."""
    rows = bench_rows(path, record, tuple((record.get("settings") or {}).get("wirings", ())))
    timed = {row.point.wiring: row for row in rows}
    schedule = {row.get("wiring"): row["value"] for row in record["rows"] if _is(row, "hidden_schedule")}
    origin = next((row["origin"] for row in record["rows"] if _is(row, "seconds")), None)
    found = []
    for wiring, row in timed.items():
        point = row.point
        calibration, reason = choose(point, own, published)
        entry = point._asdict() | {
            "path": path.as_posix(),
            "record_link": (record.get("link") or {}).get("name"),
            "hardware_words": record["provenance"].get("hardware"),
            "origin": origin,
            "use": "calibration" if calibration is own.get(point.hardware) and wiring in CALIBRATES else "validation",
            "calibration": calibration.name if calibration else None,
            "reason": reason,
            "step_s": row.decode_s / point.new_tokens,
            "hidden_schedule": schedule.get(wiring),
        }
        ends = [timed.get(name) for name in CALIBRATES]
        if all(ends):
            entry["speedup"] = (ends[0].prefill_s + ends[0].decode_s) / (row.prefill_s + row.decode_s)
            standard, silent = (end.decode_s for end in ends)
            entry["hidden"] = share(standard, silent, row.decode_s)
        if calibration:
            done = predict([point, *(point._replace(wiring=name) for name in CALIBRATES)], calibration, intervals=True)
            low, high = interval(done, "speedup", calibration)
            entry |= {"predicted_step_s": short(done.step[0]), "predicted_speedup": short(done.speedup[0])}
            entry |= {"low": short(low[0]), "high": short(high[0])}
            entry["predicted_hidden"] = share(done.step[1], done.step[2], done.step[0])
        found.append(entry)
    return found


def _is(row: dict, metric: str) -> bool:
    return row.get("metric") == metric and row.get("phase") == "decode"


def choose(
    point: Scenario, own: dict[str, Calibration | str], published: Calibration
) -> tuple[Calibration | None, str]:
    """The calibration that can predict a timed point: that of its machine, or the published one if the table of
    devices has its hardware; None and the reason where neither can."""
    calibration = own.get(point.hardware, published if point.hardware in DEVICES else "no calibration of this hardware")
    if isinstance(calibration, str):
        return None, calibration
    try:
        check(point, calibration)
    except UserError:
        return None, "the calibration does not know this model or link"
    return calibration, ""


def share(standard: float, silent: float, own: float) -> float | None:
    """Share of the communication that is hidden; None where there is too little to tell."""
    return short((standard - own) / (standard - silent)) if standard > 1.02 * silent else None


def predictions(entries: Sequence[dict]) -> list[dict]:
    """A tidy row for each thing predicted of each scored point, once."""
    found = {}
    for e in entries:
        if e["group"] and (key := (*(e[k] for k in POINT), e["what"])) not in found:
            metric, unit, factor = WHAT[e["what"]]
            ends = {k: factor * e[k] for k in ("low", "high") if e[k] is not None}
            note = f"{e['group']}; {e['hardware']}" + ("; low and high: 90 % interval" if ends else "")
            row = {k: e[k] for k in POINT} | {"metric": metric, "value": factor * e["predicted"], "unit": unit, **ends}
            found[key] = row | {"origin": "simulated", "note": note}
    return list(found.values())


def summaries(groups: Sequence[dict]) -> list[dict]:
    """Tidy rows of the statistics; ``task`` names the group."""
    found = []
    for row in groups:
        for key, value in row.items():
            if key not in ("group", "what", "n", "rule_n") and value is not None:
                what = {"task": row["group"], "metric": f"{WHAT[row['what']][0]}_{key}", "value": value}
                found.append(what | {"unit": "fraction", "n": row["n"], "origin": "simulated"})
    return found


def seconds(ours: Sequence[dict]) -> list[dict]:
    """Tidy rows of the decode steps predicted of our own records."""
    return [
        {key: entry[key] for key in POINT}
        | {"phase": "decode", "metric": "seconds", "value": entry["predicted_step_s"], "unit": "s"}
        | {"origin": "simulated", "note": f"calibration {entry['calibration']}; {entry['origin']} in {entry['path']}"}
        for entry in ours
        if entry["calibration"]
    ]
