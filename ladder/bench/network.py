"""Hold the emulated link against a real slow network: what it predicts, and what gloo over TCP takes, in one run.

    ladder bench network --size paper-3b --layers 4 --prompt 8 --delay-us 500 2000 --record network.json

Two ranks run in two network namespaces of this machine, joined by two TAP devices and a process that delays every
packet (Linux, root; nothing is left behind). For each one-way delay, on this path:

1. isolated all-reduces of the sizes that decode and prefill send are timed;
2. decode and prefill are timed in turn over the real ranks, and on the same ranks with the link emulated: every
   all-reduce takes what was measured in 1, with two in flight (as gloo has) and with one (serial), for comparison.

In emulation, too, both ranks compute at the same time, since they share this machine's memory. emulated_over_real is
the ratio of the medians, with its 95 % interval.

The real path takes longer than emulated where its ranks wait for each other (what one of them loses, both do), and
where TCP, gloo and the delaying process, which the emulation does not charge, take processor time from the ranks: the
fewer cores and the shorter a module, the more; most for wirings that compute meanwhile. So the ranks run at the highest
priority, what moves messages before what computes, and the model should be one whose modules take many milliseconds.
"""

import argparse
import sys
import time

from ladder import options
from ladder.bench.options import Options
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job

EMULATED = {"2 in flight": 2, "serial": 1}  # in words: all-reduces under way at once
REDUCED = 40  # isolated all-reduces of each size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", required=True, help="row of the table of sizes")
    parser.add_argument("--delay-us", type=float, nargs="+", default=[500, 2000], help="one way, in microseconds")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens")
    parser.add_argument("--new-tokens", type=int, default=60, help="decode steps, each one a sample")
    options.add_arguments(parser, Options, "layers", "prefills", "wirings", "seed", prefills=10)
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> dict[int, list[str]] | None:
    from ladder.bench.point import BenchCase
    from ladder.bench.slowpath import check_possible, slow_path
    from ladder.errors import LAUNCHED, UserError
    from ladder.model.modeling import LadderConfig
    from ladder.model.sizes import size
    from ladder.model.slicing import check_degree
    from ladder.parallel.environment import environment
    from ladder.parallel.group import join

    options.check(Options, args)
    shape = size(args.size)
    layers = args.layers or shape.layers
    if min(args.delay_us) < 0:
        raise UserError(f"--delay-us {min(args.delay_us):g} must be at least 0")
    changes = {"num_hidden_layers": layers, "max_position_embeddings": args.prompt + args.new_tokens}
    config = LadderConfig(**shape.config(**changes), wiring="standard")
    check_degree(config, 2)
    check_possible()
    if environment() and LAUNCHED not in environment():
        raise UserError("`ladder bench network` starts its two ranks itself; run it without torchrun or srun")
    point = BenchCase(config, 2, args.batch, args.prompt, args.new_tokens, tuple(args.wirings), args.seed)
    for wiring in args.wirings:
        point.rows(wiring)  # refuses an unknown one
    if not environment():
        return {2: []}
    what = {"model": args.size, "seed": args.seed}
    with (
        join("cpu", None, timing=True) as group,
        job(args, "bench", f"{args.size}-network", group=group, **what) as this,
    ):
        results = {}
        for delay in args.delay_us:
            if this:
                print(f"two namespaces, {delay:g} us one way", file=sys.stderr, flush=True)
            with slow_path(delay * 1e-6, group), group.connected("gloo"):
                results[delay] = measure(group, point, args.prefills)
        if not this:
            return None
        rows = []
        for delay, found in results.items():
            rows += tidy(point, f"two namespaces, {delay:g} us one way", found)
        reduces = {f"{delay:g}": found["reduce"] for delay, found in results.items()}
        if layers != shape.layers:
            rows = [row | {"timed_layers": layers} for row in rows]
        rows = [this.row(**row) for row in rows]
        print(card(rows), file=sys.stderr, flush=True)
        this.finish(rows, all_reduce_seconds=reduces)
    return None


def measure(group, point, prefills: int) -> dict:
    """One rank's part: checks, isolated all-reduces, and samples by phase, wiring, and "real" or a key of EMULATED."""
    import torch.distributed as dist

    from ladder.bench.point import DTYPES, check_order, check_path
    from ladder.bench.ranks import check_logits, slowest
    from ladder.bench.slowpath import prefer_network
    from ladder.bench.statistics import affine
    from ladder.bench.timing import Timer
    from ladder.inference.fused import Fused
    from ladder.parallel.communicators import EmulatedLink, ProcessGroup

    prefer_network()
    real = ProcessGroup(dist.group.WORLD).all_reduce
    differences = check_logits(group, point, real)
    fused = Fused(point.shard(group.world_rank))
    paths = check_path(point, fused, real)
    counts = check_order(point, lambda wiring: point.engine(fused, wiring, real))
    token = point.batch * point.config.hidden_size * DTYPES[point.dtype].itemsize
    sizes = {"decode": token, "prefill": token * point.prompt}
    reduce = isolated(list(sizes.values()))
    link = affine(*sizes.values(), *(sorted(reduce[size])[REDUCED // 2] for size in sizes.values()))
    links = {"real": real}
    links |= {words: EmulatedLink(2, *link, in_flight=many).all_reduce for words, many in EMULATED.items()}
    engines = {(w, how): point.engine(fused, w, reducer) for how, reducer in links.items() for w in point.wirings}
    timer = Timer(engines, point.new_tokens, start=start_together, slowest=lambda seconds: slowest(seconds, "cpu"))
    samples = timer.samples(prefills)
    after = isolated(list(sizes.values()))
    checks = {"differences": differences, "paths": paths, "counts": counts}
    reduces = {phase: {"bytes": size, "before": reduce[size], "after": after[size]} for phase, size in sizes.items()}
    return {"checks": checks, "reduce": reduces, "samples": samples}


def start_together() -> None:
    """Return at the same moment on both ranks: they share a clock, and a barrier's end is a delay apart."""
    from ladder.bench.ranks import slowest

    now = time.perf_counter()
    moment = slowest(now, "cpu")
    moment = slowest(moment + 3 * (time.perf_counter() - now), "cpu")  # this second agreement takes as long again
    while time.perf_counter() < moment:
        pass


def isolated(sizes: list[int]) -> dict[int, list[float]]:
    """Seconds of single all-reduces of so many bytes, launched together; the slowest rank's."""
    import torch
    import torch.distributed as dist

    from ladder.bench.ranks import slowest

    found = {size: [] for size in sizes}
    for _ in range(REDUCED):
        for size in sizes:
            message = torch.zeros(size // 4)
            start_together()
            start = time.perf_counter()
            dist.all_reduce(message, async_op=True).wait()
            found[size].append(slowest(time.perf_counter() - start, "cpu"))
    return found


def tidy(point, link: str, found: dict) -> list[dict]:
    """Rows of one delay."""
    from ladder.bench.rows import checked, compare, throughput, what
    from ladder.bench.statistics import estimate

    measured = what(point, backend="gloo", origin="measured", link=link)
    rows = checked(measured, f"{point.checked().layers} layers in fp32", *found["checks"].values())
    for phase, reduce in found["reduce"].items():
        row = {
            **measured,
            "phase": phase,
            "metric": "all_reduce_seconds",
            "unit": "s",
            "note": f"{reduce['bytes']} bytes",
        }
        rows.append(row | estimate(lambda seconds: seconds, reduce["before"]))
    for how in ("real", *EMULATED):
        shared = measured
        if how != "real":
            shared = what(point, backend="emulated", origin="emulated", link=f"{link}: emulated, {how}")
        samples = {phase: {(w, "eager"): one[w, how] for w in point.wirings} for phase, one in found["samples"].items()}
        for phase, one in samples.items():
            here = shared | {"phase": phase}
            rows += compare(one, None, here)
            for wiring in point.wirings if how != "real" else ():
                ratio = estimate(
                    lambda emulated, real: emulated / real,
                    one[wiring, "eager"],
                    found["samples"][phase][wiring, "real"],
                )
                row = {"wiring": wiring, "compute": "eager", "metric": "emulated_over_real", "unit": "x"}
                rows.append({**here, **row, **ratio})
        rows += throughput(point, samples, shared)
    return rows


def card(rows: list[dict]) -> str:
    """The comparison for people."""
    lines = [f"{'link':<55} {'phase':<8} {'wiring':<12} {'ms':>8} {'emulated / real':>16}"]
    for row in rows:
        if row["metric"] == "all_reduce_seconds":
            lines.append(f"{row['link']:<55} {row['phase']:<8} {row['note']:<12} {row['value'] * 1e3:>8.2f}")
        if row["metric"] == "seconds":
            ratio = [
                f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"
                for r in rows
                if r["metric"] == "emulated_over_real" and all(r[k] == row[k] for k in ("link", "phase", "wiring"))
            ]
            cells = f"{row['value'] * 1e3:>8.2f} {''.join(ratio):>16}"
            lines.append(f"{row['link']:<55} {row['phase']:<8} {row['wiring']:<12} {cells}")
    return "\n".join(lines)
