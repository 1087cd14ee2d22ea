"""Measure what an all-reduce costs on the link at hand, and write it as a file that `--link` takes.

Two CPU ranks on this machine (gloo), or 8 GPUs of one node (NCCL):

    ladder bench link --tp 2 --out loopback.json
    ladder bench link --tp 8 --device cuda --out node.json

Two nodes of 8 GPUs; the same line under `srun --ntasks-per-node 8` does the same:

    torchrun --nnodes 2 --nproc-per-node 8 ... --module ladder bench link --tp 16 --device cuda --out nodes.json

Then any model on that link, from one device:

    ladder bench --size paper-1b-8l --tp 2 --emulate --link loopback.json --record emulated.json

Each sample is one isolated all-reduce of fp32: a barrier, then launch and wait (and on a GPU a synchronisation with the
host, so the host's share of a launch counts; within a CUDA graph it would not). The slowest rank counts. Sizes go by
powers of 4 and are measured in turn, round by round; a time is the median with its 95 % interval (bootstrap over
rounds). seconds = alpha + bytes * beta is fitted by least squares of the relative residuals, so that small messages
count as much as large ones. Real links are not quite affine: the largest residual says how far from it this one is.
"""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ladder import records
from ladder.bench.options import defaults
from ladder.bench.statistics import estimate
from ladder.errors import UserError
from ladder.files import write_json
from ladder.job import Job, job
from ladder.job import add_arguments as add_job_arguments
from ladder.links import ALIASES, LINKS, Link
from ladder.outputs import OutputFile
from ladder.parallel.environment import environment, world_size

SMALLEST = 1024  # bytes
WARM_UP = 5  # rounds that do not count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tp", type=int, required=True, help="number of ranks")
    parser.add_argument("--out", action=OutputFile, required=True, help="the link, a .json file to write")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--backend", choices=("gloo", "nccl"), help="default: gloo on cpu, nccl on cuda")
    parser.add_argument("--name", help="what tables call the link; default: the file's name without .json")
    parser.add_argument("--max-bytes", type=int, default=64 * 2**20, help="largest message (default 64 MiB)")
    parser.add_argument("--rounds", type=int, default=40, help="samples of each size")
    add_job_arguments(parser, record=False)
    parser.add_argument("--record", action=OutputFile, help="JSON record to write besides")


def main(args: argparse.Namespace) -> dict[int, list[str]] | None:
    from ladder.parallel.group import check_gpus, join

    sizes = message_sizes(args.max_bytes)
    name = args.name or args.out.stem
    backend = args.backend or defaults(args.device)["backend"]
    if args.out.suffix != ".json":
        raise UserError(f"--out {args.out}: `--link` takes a file whose name ends in .json; give it that name")
    if name in LINKS or name in ALIASES:
        raise UserError(f"--name {name} is a link of the built-in table; choose another name")
    if args.tp < 2 or args.rounds < 2:
        raise UserError(f"--tp {args.tp}, --rounds {args.rounds}: both must be at least 2")
    if len(sizes) < 3:
        raise UserError(f"--max-bytes {args.max_bytes}: a fit needs three sizes, so at least {16 * SMALLEST}")
    if backend == "nccl" and args.device != "cuda":
        raise UserError("--backend nccl needs --device cuda; leave it out, or take --backend gloo")
    if not environment():
        if args.device == "cuda":
            check_gpus(args.tp)
        return {args.tp: []}
    if world_size() != args.tp:
        raise UserError(f"{world_size()} ranks were started for --tp {args.tp}; make them equal")
    with join(args.device, backend, timing=True) as group, job(args, "bench", f"link-{name}", group=group) as this:
        group.meet()  # rank 0 may have taken long to track this
        samples = measure(sizes, args.rounds, group.device)
        if this:
            finish(this, args.out, name, backend, args.tp, summary(samples, sizes))


def message_sizes(largest: int) -> list[int]:
    """1 KiB, 4 KiB, 16 KiB ... up to ``largest`` bytes."""
    sizes = []
    while (size := SMALLEST * 4 ** len(sizes)) <= largest:
        sizes.append(size)
    return sizes


def measure(sizes: list[int], rounds: int, device) -> list[list[float]]:
    """On every rank: seconds of the slowest rank, one list of ``rounds`` samples per size."""
    import torch
    import torch.distributed as dist

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    buffer = torch.zeros(sizes[-1] // 4, device=device)  # fp32; sums of zeros do not overflow
    samples = torch.zeros(len(sizes), WARM_UP + rounds, dtype=torch.float64, device=device)
    for round_ in range(WARM_UP + rounds):
        for turn in range(len(sizes)):
            index = (round_ + turn) % len(sizes)
            message = buffer[: sizes[index] // 4]
            dist.barrier()
            settle()
            start = time.perf_counter()
            dist.all_reduce(message, async_op=True).wait()
            settle()
            samples[index, round_] = time.perf_counter() - start
    dist.all_reduce(samples, op=dist.ReduceOp.MAX)
    return samples[:, WARM_UP:].tolist()


def fit(sizes: list[int], seconds: list[float]) -> dict[str, float]:
    """alpha (s) and beta (s/byte) of seconds = alpha + bytes * beta, each with its standard error, by relative weights.

    residual: the largest of |fitted / measured - 1|.
    """
    size, time_ = np.array(sizes, float), np.array(seconds)
    scale = np.array([1.0, size.max()])  # beta * size.max() is of alpha's order
    design = np.stack([np.ones_like(size), size], axis=1) / scale / time_[:, None]  # its rows times (alpha, beta) are 1
    found = np.linalg.lstsq(design, np.ones_like(size), rcond=None)[0]
    off = design @ found - 1
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * (off @ off) / (len(size) - 2))
    alpha, beta = found / scale
    alpha_stderr, beta_stderr = errors / scale
    values = (alpha, alpha_stderr, beta, beta_stderr, np.abs(off).max())
    names = ("alpha", "alpha_stderr", "beta", "beta_stderr", "residual")
    return dict(zip(names, map(float, values), strict=True))


def summary(samples: list[list[float]], sizes: list[int]) -> dict:
    """{"fit": ..., "points": one dict a size}. Raises UserError where the times do not give a link."""
    points = [{"bytes": n, **estimate(lambda median: median, row)} for n, row in zip(sizes, samples, strict=True)]
    found = fit(sizes, [point["value"] for point in points])
    if min(found["alpha"], found["beta"]) <= 0:
        raise UserError(
            f"the times do not grow with the message (alpha {found['alpha']:.3g} s, beta {found['beta']:.3g} s/byte); "
            "raise --max-bytes or --rounds, and leave the machine to the measurement"
        )
    for point in points:
        point["fitted"] = found["alpha"] + point["bytes"] * found["beta"]
    return {"fit": found, "points": points}


def finish(this: Job, out: Path, name: str, backend: str, ranks: int, measured: dict) -> None:
    """Write the link and, if asked for, the record; say what was found."""
    found, points = measured["fit"], measured["points"]
    where = f"measured: ladder bench link, {ranks} ranks, {backend}, {records.hardware()}"
    link = Link(
        name=name,
        words=f"{backend}, {ranks} ranks, {records.hardware()}",
        latency_us={ranks: found["alpha"] * 1e6},
        bus_bandwidth=2 * (ranks - 1) / ranks / found["beta"],
        latency_from=where,
        bandwidth_from=where,
        in_flight=2 if backend == "gloo" else 1,
    )
    print(card(link, ranks, measured), file=sys.stderr, flush=True)
    provenance = records.provenance(this.started, this.run, this.tracking.run_id)
    write_json(out, {"schema": 1, "link": asdict(link), **measured, "provenance": provenance})
    what = {"tp": ranks, "link": name, "backend": backend, "dtype": "fp32", "origin": "measured"}
    rows = []
    for point in points:
        value = {key: point[key] for key in ("value", "low", "high", "n")} | {"note": f"{point['bytes']} bytes"}
        rows.append(this.row(**what, metric="all_reduce_seconds", unit="s", **value))
    note = {"note": f"largest relative residual {found['residual']:.2g}"}
    for key, unit in (("alpha", "s"), ("beta", "s/byte")):
        value = {"value": found[key], "stderr": found[f"{key}_stderr"], "n": len(points)}
        rows.append(this.row(**what, metric=f"link_{key}", unit=unit, **value, **note))
    this.finish(rows, artifacts=(out,), **measured)


def card(link: Link, ranks: int, measured: dict) -> str:
    """The numbers for people."""
    lines = [f"{'bytes':>10} {'us':>10} {'95 % interval':>23} {'fitted':>10}"]
    for point in measured["points"]:
        us = {key: point[key] * 1e6 for key in ("value", "low", "high", "fitted")}
        interval = f"{us['low']:.1f} to {us['high']:.1f}"
        lines.append(f"{point['bytes']:>10} {us['value']:>10.1f} {interval:>23} {us['fitted']:>10.1f}")
    found = measured["fit"]
    lines += [
        f"{link.name}: alpha {found['alpha'] * 1e6:.1f} +- {found['alpha_stderr'] * 1e6:.1f} us, "
        f"beta {found['beta']:.3g} +- {found['beta_stderr']:.2g} s/byte: bus bandwidth "
        f"{link.bus_bandwidth / 1e9:.3g} GB/s over {ranks} ranks",
        f"the fit is off by {found['residual']:.0%} at most",
    ]
    return "\n".join(lines)
