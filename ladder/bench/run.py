"""Time prefill and decode of a model's shards, wiring against wiring: sizes x TP x batch x prompt x tokens x link.

One rank of TP 8, alone, with an emulated link on which an all-reduce takes 0.4 and 0.8 of a module's time:

    ladder bench --size paper-1b-8l --tp 8 --emulate --rho 0.4 0.8 --out emulated

The same compiled, against eager; and in bf16:

    ladder bench --size paper-1b-8l --tp 8 --emulate --rho 0.8 --compute eager compiled --dtype bf16 --out compiled

Rank 0 of a 70B at TP 8 on one GPU, on links that this machine does not have (`ladder bench link` measures one it has):

    ladder bench --size llama-3-70b --tp 8 --batch 1 4 16 64 --prompt 1024 --new-tokens 512 --device cuda \\
        --emulate --link h100-nvlink pcie5-host-staged --out h200

Rank 0 of a 405B, 32 of its layers, extrapolated layer by layer:

    ladder bench --size llama-3.1-405b --layers 32 --extrapolate --tp 16 --replicate-kv --device cuda \\
        --emulate --link ib-ndr-2node --prompt 1024 --new-tokens 128 --out h200

One GPU's decode against its memory bandwidth, and against plain transformers:

    ladder bench --size llama-3.1-8b --tp 1 --device cuda --emulate --baseline --prompt 1024 --new-tokens 512 --out h200

Real ranks of this machine (gloo on CPU, NCCL on GPUs; --backend one-shot, two-shot, multimem: symmetric memory), or of
several machines, started by torchrun or srun:

    ladder bench --size paper-1b-8l --tp 2 --out ranks
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m ladder bench --size llama-3.1-405b --tp 16 --replicate-kv --device cuda --out nodes
    srun --nodes 2 --ntasks-per-node 8 --gpus-per-task 1 \\
        ladder bench --size llama-3.1-405b --tp 16 --replicate-kv --device cuda --out nodes

Each point is one JSON record in --out (which all nodes must see); a point that is there is skipped. Weights are random,
of the true shapes. Before anything is timed, all wirings' logits are compared with the unsharded model's, the timed
path's with the plain model's, and the order of all-reduces with the wiring table. Wirings are timed in turn (A B C,
B C A, ...) once the machine is warm. Seconds are medians with 95 % intervals (bootstrap over rounds).
hidden = (T_standard - T_wiring) / (T_standard - T_upper_bound).
"""

import argparse
import glob
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

from ladder import options
from ladder.bench.options import Options
from ladder.errors import UserError
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.outputs import OutputFolder, check_folder, check_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_arguments(parser, Options)
    parser.add_argument(
        "--out", action=OutputFolder, holds=("link",), required=True, help="directory of the records, one a point"
    )
    add_job_arguments(parser, record=False)


def main(args: argparse.Namespace) -> dict[int, list[str]] | None:
    from ladder.bench import grid
    from ladder.parallel.environment import environment, rank

    options.check(Options, args)
    if not args.emulate and not environment():
        return {tp: ["--tp", str(tp)] for tp in degrees(args)}
    from ladder.bench.arguments import check, fits

    check(args)
    shapes = {field: getattr(args, field) for field in grid.Shape._fields}
    found = [
        (shape, on, args.out / f"{grid.name(shape, on, args.dtype, args.layers)}.json")
        for shape, on in grid.points(shapes, args.emulate, args.rho, args.link, args.backend)
    ]
    for shape in dict.fromkeys(shape for shape, _, _ in found):
        fits(args, shape)
    todo = [point for point in found if not finished(point[2], settings(args, *point[:2]), args.replace)]
    if args.trace and not rank():
        names = [glob.escape(path.with_suffix(".trace.json").name) for _, _, path in todo]
        check_folder(f"--out {args.out}", args.out, names)
    if not rank():
        say(f"{len(found)} points, {len(found) - len(todo)} of them finished")
    if args.emulate:
        emulate(args, todo, found)
    elif todo:
        over_ranks(args, todo)


def degrees(args: argparse.Namespace) -> list[int]:
    """How many ranks to launch. The rest they check themselves: what it takes to load a model is loaded there."""
    from ladder.model.sizes import size
    from ladder.model.slicing import check_degree
    from ladder.parallel.group import check_gpus

    for name, tp in itertools.product(args.size, args.tp):
        check_degree(SimpleNamespace(**size(name).config()), tp, replicate_kv=True)
    if args.device == "cuda":
        check_gpus(max(args.tp))
    return list(dict.fromkeys(args.tp))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def settings(args: argparse.Namespace, shape, on: str) -> dict:
    """All that a point's numbers depend on, but for the machine."""
    from ladder.bench.grid import links
    from ladder.links import link

    chosen = options.numeric(Options, args) | shape._asdict() | {"on": on}
    named = dict(links(args.rho, args.link)).get(on)
    if isinstance(named, str):  # a file may be measured anew
        chosen["link"] = [link(named).alpha(shape.tp), link(named).beta(shape.tp), link(named).in_flight]
    return chosen


def finished(path: Path, settings: dict, replace: bool) -> bool:
    """Whether ``path`` holds this point. Raises UserError if it holds another one that is not to be replaced."""
    from ladder import records
    from ladder.reading import read_json

    if not path.exists():
        return False
    check_record(path)
    records.read(path)
    made = read_json(path).get("settings", {})
    differ = [key for key in settings if made.get(key) != settings[key]]
    if differ and not replace:
        key = differ[0]
        raise UserError(
            f"{path}: made with {key} = {made.get(key)!r}, not {settings[key]!r}; choose another --out, or --replace it"
        )
    return not differ


def emulate(args: argparse.Namespace, todo: list, found: list) -> None:
    """Rank 0 of each point, with emulated links."""
    from ladder.bench.arguments import point
    from ladder.bench.emulated_record import measure
    from ladder.bench.grid import links, model
    from ladder.bench.rank0 import ALONE, Rank0, Wire
    from ladder.links import link
    from ladder.model.sizes import size
    from ladder.reading import read_json

    wires: dict[str, Wire] = {}  # set by rho at the first point, and then the same for all
    named = dict(links(args.rho, args.link))
    rank, made = None, None
    for shape, on, path in found:
        if (shape, on, path) not in todo:
            kept = read_json(path)["link"]
            wires.setdefault(on, Wire(**kept))
            continue
        full = size(shape.size).layers if args.extrapolate else None
        if made != shape:
            rank = None  # its memory is needed
            say(f"{shape.size}, TP {shape.tp}, batch {shape.batch}: checking logits and order")
            rank, made = Rank0(point(args, shape), full, args.baseline), shape
        note = ""
        if on not in named:
            wire = ALONE
        elif isinstance(named[on], str):
            row = link(named[on])
            wire = Wire(row.name, row.alpha(shape.tp), row.beta(shape.tp), row.in_flight, blocks=args.blocks)
            if shape.tp not in row.latency_us:
                note = f"the link's latency is known for {', '.join(map(str, sorted(row.latency_us)))} ranks"
                say(f"{row.name}: {note}; at {shape.tp} it is taken to be {wire.alpha * 1e6:.1f} us")
        elif on in wires:
            wire = wires[on].elsewhere()
        else:
            wire = wires[on] = rank.wire(named[on])
        with job(args, "bench", path.stem, model=model(shape), seed=args.seed) as this:
            this.record = path
            say(f"timing {', '.join(args.wirings)} on {wire.name}")
            rows, extra = measure(rank, wire, args.prefills)
            finish(args, this, shape, on, noted(rows, note), extra)
            if args.trace and args.device == "cuda":
                profile(rank, wire, path.with_suffix(".trace.json"))


def profile(rank, wire, path: Path) -> None:
    """A trace of one decode step of each wiring as the GPU ran it."""
    from ladder.bench.trace import profiled

    engines = rank.engines(wire.communicator(rank.point).all_reduce)
    for engine in engines.values():
        engine.prefill()
    with profiled(path):
        for engine in engines.values():
            engine.step()


def over_ranks(args: argparse.Namespace, todo: list) -> None:
    """Each point over real ranks, of which this process is one."""
    from ladder.bench.arguments import point
    from ladder.bench.grid import model
    from ladder.bench.ranks import BACKENDS, measure
    from ladder.parallel.environment import world_size
    from ladder.parallel.group import join

    if wrong := [shape.tp for shape, _, _ in todo if shape.tp != world_size()]:
        raise UserError(f"{world_size()} ranks were started for --tp {wrong[0]}; make them equal")
    with join(args.device, BACKENDS[args.backend][0], always=True, timing=True) as group:
        chosen = group.meet("\n".join(str(path) for _, _, path in todo)).splitlines()  # another node may see others
        for shape, on, path in todo:
            if str(path) not in chosen:
                continue
            group.meet()  # rank 0 may have taken longer over the last record than a collective waits
            with job(args, "bench", path.stem, group=group, model=model(shape), seed=args.seed) as this:
                rows, extra = measure(group, point(args, shape), args.prefills, args.backend, args.trace)
                if this:
                    this.record = path
                    finish(args, this, shape, on, rows, extra)


def finish(args: argparse.Namespace, this, shape, on: str, rows: list[dict], extra: dict) -> None:
    """Say what was found; write the record, and its trace."""
    from ladder.bench.trace import write_trace
    from ladder.model.sizes import size
    from ladder.records import hardware

    whole = size(shape.size).layers
    if args.layers and args.layers != whole:
        part = f"extrapolated from {args.layers}" if args.extrapolate else f"{args.layers}"
        rows = [row | {"timed_layers": args.layers} for row in noted(rows, f"{part} of {whole} layers")]
    rows = [this.row(**row) for row in rows]
    say(card(rows))
    if args.trace and extra.get("timelines"):
        first = next(row for row in rows if row["metric"] == "seconds")
        meta = {key: str(first.get(key)) for key in ("model", "tp", "batch", "link", "origin", "backend")}
        write_trace(this.record.with_suffix(".trace.json"), extra["timelines"], meta | {"hardware": hardware()})
    this.finish(rows, settings=settings(args, shape, on), **extra)


def noted(rows: list[dict], note: str) -> list[dict]:
    """``rows`` with ``note`` before what theirs says."""
    return [row | {"note": "; ".join(filter(None, (note, row.get("note"))))} for row in rows] if note else rows


def card(rows: list[dict]) -> str:
    """The decode numbers for people."""
    found: dict[tuple, dict] = {}
    for row in rows:
        if row.get("phase") == "decode" and "wiring" in row:
            found.setdefault((row.get("compute", ""), row["wiring"]), {})[row["metric"]] = row["value"]
    shown = {"hidden_wall": "hidden", "hidden_virtual": "virtual", "hidden_schedule": "schedule"}
    shown |= {"roofline_fraction": "roofline"}
    lines = [f"{'':<13}{'wiring':<16} {'ms/step':>9} {'speed-up':>9} " + " ".join(f"{s:>8}" for s in shown.values())]
    for (compute, wiring), here in found.items():
        if "seconds" not in here:
            continue
        cells = " ".join(f"{'-' if (s := here.get(key)) is None else f'{s:.2f}':>8}" for key in shown)
        speed = f"{here['speedup']:.2f}x" if "speedup" in here else "-"
        lines.append(f"{compute:<13}{wiring:<16} {here['seconds'] * 1e3:>9.2f} {speed:>9} {cells}")
    return "\n".join(lines)
