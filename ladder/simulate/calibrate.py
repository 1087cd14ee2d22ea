"""Fit the simulator's parameters to measured points, with standard errors; refuse points that leave one open.

ROWS is a CSV with the columns of `ladder simulate --points` and at least one of tokens_per_s, prefill_s, decode_s and
speedup (over standard); of a file of `ladder simulate rows` the rows marked ``calibration`` are taken. Or it is one or
more records of `ladder bench`, whose standard and upper_bound rows are taken: the result then describes that machine.

    ladder simulate rows --out rows.csv && ladder calibrate rows.csv --out calibration.json
    ladder calibrate results/default/bench/*/*.json --out mine.json && ladder simulate --calibration mine.json ...
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ladder import records as written
from ladder.errors import UserError
from ladder.files import write_json
from ladder.outputs import OutputFile
from ladder.reading import number, read_json, take
from ladder.simulate.calibration import Calibration, load
from ladder.simulate.fit import Fit, Row, fit
from ladder.simulate.points import read
from ladder.simulate.records import QUIET, bench_rows, emulated, own_device
from ladder.simulate.scores import short

MEASURES = ("tokens_per_s", "prefill_s", "decode_s", "speedup")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", type=Path, nargs="+", metavar="ROWS", help="a CSV, or records of `ladder bench`")
    parser.add_argument("--out", action=OutputFile, metavar="JSON", help="calibration to write")
    parser.add_argument("--start", type=Path, metavar="JSON", help="calibration whose other parameters are kept")
    parser.add_argument(
        "--links", nargs="+", default=[], metavar="LINK", help="with --start: fit only these links, and only their rows"
    )
    parser.add_argument(
        "--hold", nargs="+", default=[], metavar="NAME=VALUE", help="parameters that are not fitted but have this value"
    )
    parser.add_argument("--name", help="of the calibration (default: of --out, or of the rows)")


def main(args: argparse.Namespace) -> None:
    start = load(args.start) if args.start else None
    if args.links and start is None:
        raise UserError("--links fits links on top of a calibration; name it with --start")
    rows = read_rows(args.rows, args.links)
    records = [written.read(path) for path in args.rows if path.suffix == ".json"]
    device = own_device(records) if records else None
    hold = held(args.hold)
    if records and emulated(rows):  # a delay takes nothing from the device
        hold = {"interference_small": QUIET, "interference_large": QUIET} | hold
    done = fit(rows, args.name or (args.out or args.rows[0]).stem, start, args.links, hold, device)
    before = report_of(args.start, start) if args.start else {}
    if start is not None:
        done = merged(done, start, before)
    print(report(done))
    if args.out:
        write_json(args.out, content(done, rows, before.get("rows", [])))
        print(f"{args.out}: `ladder simulate --calibration {args.out}` uses it")


def report_of(path: Path, calibration: Calibration) -> dict:
    """The report of the fit in a calibration file. Raises UserError where it does not fit the calibration."""
    content = read_json(path)
    error = take(content, "stderr", dict, str(path))
    for name in calibration.fitted:
        take(error, name, float, f"{path}: stderr", least=0)
    return content | {
        "kept": take(content, "kept", dict, str(path)),
        "rows": take(content, "rows", list, str(path), []),
    }


def read_rows(paths: list[Path], links: Sequence[str] = ()) -> list[Row]:
    """What is to be fitted to. Raises UserError for a file that holds no such thing."""
    found: list[Row] = []
    for path in paths:
        if path.suffix == ".json":
            found += bench_rows(path, written.read(path))
            continue
        uses = ("calibration", "link") if links else ("calibration",)
        lines = [(point, line) for point, line in read(path, None, MEASURES) if (line.get("use") or uses[0]) in uses]
        chosen = [(point, line) for point, line in lines if not links or point.link in links]
        rows = [Row(point, **{key: line[key] for key in MEASURES}) for point, line in chosen]
        if not rows or not any(getattr(row, key) for row in rows for key in MEASURES):
            raise UserError(f"{path}: no row to fit; it needs one of the columns {', '.join(MEASURES)} with numbers")
        found += rows
    return found


def held(words: list[str]) -> dict[str, float]:
    """``["kernel_us=2.5"]`` -> {"kernel_us": 2.5}. Raises UserError for what is not of that form."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = number(value)
        except ValueError:
            found[name] = 0.0
        if not found[name] > 0:
            raise UserError(f"--hold {word!r}: write a parameter and a value above 0, like kernel_us=2.5")
    return found


def merged(done: Fit, start: Calibration, before: dict) -> Fit:
    """The fit with the parameters of ``start`` (the file's content: ``before``) that it kept, and how sure they are;
    its residuals are the start's."""
    import numpy as np

    ours, theirs = done.calibration, [name for name in start.fitted if name not in done.calibration.fitted]
    at = [start.fitted.index(name) for name in theirs]
    size = len(theirs) + len(ours.fitted)
    covariance = np.zeros((size, size))
    covariance[: len(at), : len(at)] = start.covariance[np.ix_(at, at)]
    covariance[len(at) :, len(at) :] = ours.covariance
    new = replace(
        ours,
        hardware=start.hardware,
        fitted=(*theirs, *ours.fitted),
        covariance=covariance,
        residual=start.residual,
        quantile=start.quantile,
    )
    old = {name: before["stderr"][name] for name in theirs}
    kept = before["kept"] | {key: why for key, why in done.kept.items() if key not in start.parameters}
    return replace(done, calibration=new, stderr=old | done.stderr, kept=kept)


def report(done: Fit) -> str:
    """The parameters with their standard errors, and how well they fit, as text."""
    parameters = done.calibration.parameters
    width = max(map(len, parameters))
    lines = [f"{'parameter':<{width}}  {'value':>10}  standard error"]
    for name, value in parameters.items():
        said = (
            f"{100 * done.stderr[name]:.0f} %" if name in done.stderr else f"kept: {done.kept.get(name, 'as it was')}"
        )
        lines.append(f"{name:<{width}}  {value:>10.4g}  {said}")
    spread = ", ".join(f"{key} {100 * value:.1f} %" for key, value in done.calibration.residual.items())
    count, fitted = len(done.labels), len(done.labels) - done.dof
    lines.append(f"{fitted} parameters fitted to {count} values; standard deviation about the fit: {spread}")
    return "\n".join(lines)


def content(done: Fit, rows: list[Row], before: list[dict]) -> dict:
    """What a calibration file holds: the calibration, and the report of its fit, row by row, after those ``before``."""
    import numpy as np

    calibration = done.calibration
    told = [
        {**rows[n].point._asdict(), "what": what, "value": short(np.exp(seen)), "fitted": short(np.exp(made))}
        for (n, what), seen, made in zip(done.labels, done.observed, done.predicted, strict=True)
    ]
    return {
        "schema": 1,
        "name": calibration.name,
        "hardware": calibration.hardware,
        "device": asdict(calibration.device) if calibration.device else None,
        "parameters": {key: short(value) for key, value in calibration.parameters.items()},
        "stderr": {key: short(value) for key, value in done.stderr.items()},
        "kept": done.kept,
        "residual": {key: short(value) for key, value in calibration.residual.items()},
        "quantile": short(calibration.quantile),
        "dof": done.dof,
        "fitted": list(calibration.fitted),
        "covariance": [[short(x) for x in line] for line in calibration.covariance],
        "rows": before + told,
    }
