"""Predict prefill, decode and tokens/s of tensor-parallel inference on hardware that is not here, without running it.

One point, all wirings, as a table:

    ladder simulate --model llama-3-70b --tp 8 --batch 1 --hardware h100 --link nvlink

A grid: a CSV with the columns model, wiring, tp, batch, prompt, new_tokens, hardware, link (and, if wanted,
implementation), to which the predictions are added:

    ladder simulate --points points.csv --out out.csv

Models are rows of ladder/model/sizes.py or configs.json, or a config.json (or its directory); hardware is of
ladder/devices.py; a link is one that was calibrated (nvlink, nvlink-p2p-off, ib-ndr-2node), a row of ladder/links.py, a
.json file of `ladder bench link`, or typed: 24us+370GB/s.
Parameters come from the published 70B runs on H100 (`ladder calibrate` fits others); intervals are 90 %, from the
parameters' covariance and the residual noise. Efficiencies on other hardware are assumed to be those of the H100.
"""

import argparse
import csv
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ladder import records
from ladder.cost import GIB
from ladder.errors import UserError
from ladder.files import atomic_write
from ladder.outputs import OutputFile, path_or_name
from ladder.schedule import timeline
from ladder.simulate.calibration import DEFAULT, Calibration, find_link, load
from ladder.simulate.model import Prediction, Scenario, interval, parts, predict, shape_of
from ladder.simulate.points import COLUMNS, check, read
from ladder.wiring import table

WIRINGS = ("standard", "parallel", "ladder", "ladder-2", "desync-2x", "spd", "upper_bound")
ADDED = (
    "prefill_s",
    "decode_s",
    "tokens_per_s",
    "speedup_over_standard",
    "hidden_share",
    "memory_gib",
    "fits",
    "origin",
)
INTERVALS = ("tokens_per_s_low", "tokens_per_s_high", "speedup_low", "speedup_high")
CHUNK = 2000  # points at once, so that memory stays small


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=path_or_name,
        default="llama-3-70b",
        help="row of the table of sizes, or a config.json (default: %(default)s)",
    )
    parser.add_argument("--wirings", nargs="+", default=list(WIRINGS), metavar="WIRING", help="default: %(default)s")
    parser.add_argument("--tp", type=int, nargs="+", default=[8], help="tensor-parallel degrees (default: 8)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="sequences at once (default: 1)")
    parser.add_argument("--prompt", type=int, default=1024, help="prompt tokens (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=512, help="tokens to generate (default: %(default)s)")
    parser.add_argument("--hardware", default="h100", help="row of the table of devices (default: %(default)s)")
    parser.add_argument("--link", type=path_or_name, default="nvlink", help="default: %(default)s")
    parser.add_argument("--implementation", default="published", help="published, ladder or serving")
    parser.add_argument("--calibration", type=Path, default=DEFAULT, metavar="JSON", help="of `ladder calibrate`")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--trace", action=OutputFile, metavar="JSON", help="write the timeline of a decode step for Perfetto"
    )
    parser.add_argument("--points", type=Path, metavar="CSV", help="predict these points")
    parser.add_argument(
        "--out", action=OutputFile, metavar="CSV", help="where to write the points with their predictions"
    )
    parser.add_argument("--intervals", action="store_true", help="with --points: add 90 %% intervals")


def main(args: argparse.Namespace) -> None:
    calibration = load(args.calibration)
    if args.points is not None or args.out is not None:
        if args.points is None or args.out is None:
            raise UserError("--points and --out go together: a CSV of points, and where to write their predictions")
        print(grid(args.points, args.out, calibration, args.intervals))
        return
    what = {key: getattr(args, key) for key in ("model", "prompt", "new_tokens", "hardware", "link", "implementation")}
    points = [
        check(Scenario(wiring=wiring, tp=tp, batch=batch, **what), calibration)
        for tp, batch, wiring in itertools.product(args.tp, args.batch, args.wirings)
    ]
    found = described(points, calibration)
    if args.trace:
        if len(args.tp) * len(args.batch) > 1:
            raise UserError("--trace shows one point: give one --tp and one --batch")
        trace(args.trace, points, calibration)
    print(json.dumps(found, indent=1, ensure_ascii=False) if args.json else text(found, what, calibration))


def grid(path: Path, out: Path, calibration: Calibration, intervals: bool = False) -> str:
    """Write the points of the CSV ``path`` with their predictions to ``out``; say what was done.

    A point that does not fit the device's memory has no speed: those cells stay empty.
    """
    lines = read(path, calibration)
    names = [*dict.fromkeys([*COLUMNS, *lines[0][1]]), *ADDED, *(INTERVALS if intervals else ())]
    with atomic_write(out) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        fitting = 0
        for start in range(0, len(lines), CHUNK):
            chunk = lines[start : start + CHUNK]
            done = predict([point for point, _ in chunk], calibration, intervals)
            fitting += int(done.fits.sum())
            columns = _columns(done, calibration, intervals)
            for n, (_, line) in enumerate(chunk):
                writer.writerow(line | {key: _cell(values[n]) for key, values in columns.items()})
    return f"{out}: {len(lines)} points, {fitting} of them fit the memory of their device"


def _columns(done: Prediction, calibration: Calibration, intervals: bool) -> dict[str, Sequence]:
    def where(values):
        return np.where(done.fits, values, np.nan)

    columns = {
        "prefill_s": where(done.prefill),
        "decode_s": where(done.decode),
        "tokens_per_s": where(done.tokens_per_s),
        "speedup_over_standard": where(done.speedup),
        "hidden_share": where(done.hidden),
        "memory_gib": done.memory / GIB,
        "fits": ["true" if fits else "false" for fits in done.fits],
        "origin": ["simulated"] * len(done.fits),
    }
    if intervals:
        for name, what in (("tokens_per_s", "tokens_per_s"), ("speedup", "speedup")):
            low, high = interval(done, what, calibration)
            columns |= {f"{name}_low": where(low), f"{name}_high": where(high)}
    return columns


def _cell(value) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def described(points: Sequence[Scenario], calibration: Calibration) -> list[dict]:
    """What is predicted of each point, with intervals; None where a model that does not fit has no value."""
    done = predict(points, calibration, intervals=True)
    columns = _columns(done, calibration, intervals=True) | {
        "exposed_communication_s": np.where(done.fits, done.exposed, np.nan),
        "decode_step_ms": np.where(done.fits, done.step * 1e3, np.nan),
    }
    return [
        point._asdict()
        | {key: _value(values[n]) for key, values in columns.items()}
        | {"fits": bool(done.fits[n]), "calibration": calibration.name}
        for n, point in enumerate(points)
    ]


def _value(value):
    return value if isinstance(value, str) else None if math.isnan(value) else float(f"{value:.6g}")


def text(found: list[dict], what: dict, calibration: Calibration) -> str:
    """A table for people."""
    lines = [
        f"{what['model']} on {what['hardware']}, {what['link']}: {what['prompt']} prompt and {what['new_tokens']} new "
        f"tokens; implementation: {what['implementation']}; calibration: {calibration.name} ({calibration.hardware})"
    ]
    head = ("wiring", "tp", "batch", "prefill ms", "step ms", "tokens/s [90 %]", "over standard [90 %]")
    rows = [(*head, "hidden", "exposed s", "GiB")]
    for row in found:
        name = (row["wiring"], str(row["tp"]), str(row["batch"]))
        memory = f"{row['memory_gib']:.1f}"
        if not row["fits"]:
            rows.append((*name, "does not fit", "", "", "", "", "", memory))
            continue
        speed = f"{row['tokens_per_s']:.4g} [{row['tokens_per_s_low']:.4g}, {row['tokens_per_s_high']:.4g}]"
        gain = f"{row['speedup_over_standard']:.3f}"
        if row["wiring"] != "standard":
            gain += f" [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]"
        hidden = "-" if row["hidden_share"] is None else f"{round(100 * row['hidden_share'])} %"
        times = (f"{1e3 * row['prefill_s']:.1f}", f"{row['decode_step_ms']:.3f}")
        rows.append((*name, *times, speed, gain, hidden, f"{row['exposed_communication_s']:.3f}", memory))
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    lines.append("simulated: nothing was run. A wiring without an interval is the reference.")
    return "\n".join(lines)


def trace(path: Path, points: Sequence[Scenario], calibration: Calibration) -> None:
    """Write the timelines of a decode step of each point's wiring as a Chrome trace."""
    from ladder.bench.trace import write_trace

    timelines = {}
    for point in points:
        modules, reduce, slowdown = parts(point, calibration)
        shape = shape_of(point.model)
        flight = getattr(find_link(point.link, calibration), "in_flight", 1)
        rows = table(point.wiring, shape.layers, point.tp)
        spans = timeline(rows, lambda n, m=modules: m[n % len(m)], reduce, flight, slowdown)
        per_layer = len([span for span in spans if span["lane"] == "communication"]) / shape.layers
        for span in spans:
            compute = span["lane"] == "compute"
            name = ("attention", "mlp")[span["index"] % 2] if compute else "all-reduce"
            layer = span["index"] // 2 if compute else int(span["index"] / max(per_layer, 1e-9))
            span |= {"name": name, "layer": layer}
        timelines[point.wiring] = spans
    commit, _ = records.git_commit()
    meta = points[0]._replace(wiring="")._asdict() | {"origin": "simulated", "commit": commit, "phase": "decode"}
    write_trace(path, timelines, {key: value for key, value in meta.items() if value != ""})
