"""Real tensor parallelism: one process a rank, over gloo (CPU), NCCL or symmetric memory (GPU)."""

import time
from functools import partial
from itertools import chain

import torch
import torch.distributed as dist

from ladder.bench.plain import logits, random_weight
from ladder.bench.point import TOLERANCE, BenchCase, check_order, check_path, difference, refuse, unsharded
from ladder.bench.rank0 import fixed_shapes, module_spans, span
from ladder.bench.rows import checked, compare, throughput, what
from ladder.bench.timing import Timer
from ladder.inference.engine import Engine
from ladder.inference.fused import Fused
from ladder.parallel.communicators import ProcessGroup
from ladder.parallel.group import Group
from ladder.parallel.shard import build
from ladder.parallel.symmetric import WAYS, SymmetricMemory

# name: (torch's backend of the process group, communicator of a group)
BACKENDS = {"gloo": ("gloo", ProcessGroup), "nccl": ("nccl", ProcessGroup)}
BACKENDS |= {how: ("nccl", partial(SymmetricMemory, how=how)) for how in WAYS}
TRACED = 9  # decode steps, of which the median is the timeline


def measure(
    group: Group, point: BenchCase, prefills: int, backend: str, trace: bool = False
) -> tuple[list[dict], dict]:
    """(tidy rows, extra) of ``point`` over the ranks of ``group``; only those of rank 0 have all that was checked.

    backend: one of ``BACKENDS``. trace: ``extra["timelines"]`` holds the spans of a decode step of each wiring on every
    rank.
    """
    rank = group.world_rank
    all_reduce = BACKENDS[backend][1](dist.group.WORLD).all_reduce
    differences = check_logits(group, point, all_reduce)
    fused = Fused(point.shard(rank))
    paths = check_path(point, fused, all_reduce)
    counts = check_order(point, lambda wiring: point.engine(fused, wiring, all_reduce))
    timer = Timer(make_engines(point, fused, all_reduce), point.new_tokens, point.device, **together(point.device))
    with fixed_shapes(point):
        samples = timer.samples(prefills)
    extra = {"timelines": {w: timeline(point, fused, w, all_reduce, rank) for w in point.wirings}} if trace else {}
    machines = len(set(group.hosts))
    link = f"between {machines} machines" if machines > 1 else "loopback" if backend == "gloo" else "this machine's"
    shared = what(point, backend=backend, origin="measured", link=link)
    rows = checked(shared, f"{point.checked().layers} layers in fp32", differences, paths, counts)
    for phase in ("prefill", "decode"):
        rows += compare(samples[phase], None, shared | {"phase": phase})
    return rows + throughput(point, samples, shared), extra


def make_engines(point: BenchCase, fused: Fused, all_reduce) -> dict[tuple[str, str], Engine]:
    """(wiring, compute) -> what is timed, ready to run."""
    engines = {(w, c): point.engine(fused, w, all_reduce, c) for w in point.wirings for c in point.compute}
    pool = torch.cuda.graph_pool_handle() if "graphs" in point.compute else None  # one for all: they run in turn
    for (_, compute), engine in engines.items():
        if compute == "graphs":
            engine.capture(pool)
    return engines


def together(device: str) -> dict:
    """What makes a :class:`Timer` start samples together and take the slowest rank's seconds."""
    return {"start": dist.barrier, "slowest": partial(slowest, device=device)}


def slowest(seconds: float, device: str) -> float:
    """The largest of all ranks' ``seconds``."""
    found = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found.item()


def check_logits(group: Group, point: BenchCase, all_reduce) -> dict[str, float]:
    """Largest difference in logits between the ranks and the unsharded plain model, per wiring, on rank 0.

    A wiring for timing only has no logits to compare. Raises RuntimeError if a wiring is off.
    """
    rank, small, weight = group.world_rank, point.checked(), random_weight(point.seed, point.device)
    rows = {w: found for w in point.wirings if (found := point.checked_rows(w)) is not None}
    expected = {}
    if rank == 0:
        whole = build(small.config, 0, 1, weight)
        expected = {w: logits(unsharded(whole, rows[w], w, small), small.new_tokens) for w in rows}
        del whole  # before the shard takes its place
    part = Fused(small.shard(rank, weight))
    group.meet()  # rank 0 may have taken longer than a collective waits
    differences = {}
    for wiring, table in rows.items():
        engine = Engine(part, table, small.ids(), small.prompt, all_reduce, "eager", point.attention)
        found = logits(engine, small.new_tokens)
        if rank == 0:
            differences[wiring] = difference(found, expected[wiring], table, rank, point.tp)
            refuse(wiring, point, differences[wiring], TOLERANCE, "logits are")
    return differences


def timeline(point: BenchCase, fused: Fused, wiring: str, all_reduce, rank: int) -> list[dict] | None:
    """All ranks' spans in the median of some decode steps (as ``span``, with a key "rank"), on rank 0.

    An all-reduce's span is from its launch to the end of its wait. On a GPU times are the device's: when the compute
    stream comes to these places. A captured step cannot be watched: the compiled path is, instead.
    """
    clock, since = (_mark, _elapsed) if point.device == "cuda" else (time.perf_counter, _passed)
    launches, waits = [], {}

    class Noted:
        def __init__(self, partial):
            self.index = len(launches)
            launches.append(clock())
            self.handle = all_reduce(partial)

        def wait(self):
            value = self.handle.wait()
            waits[self.index] = clock()
            return value

    engine = point.engine(fused, wiring, Noted, point.compute[-1].replace("graphs", "compiled"))
    engine.prefill()
    launched_by = [launch.modules for launch in engine.rows.launches]
    steps = []
    for _ in range(min(TRACED, point.new_tokens)):
        launches.clear()
        dist.barrier()
        begin = clock()
        modules = module_spans(engine, clock, engine.step)
        end = clock()
        if point.device == "cuda":
            torch.cuda.synchronize()
        spans = [span("compute", n, n, since(begin, first), since(begin, last)) for n, first, last in modules]
        spans += [
            span("communication", i, max(launched_by[i]), since(begin, first), since(begin, waits[i]))
            for i, first in enumerate(launches)
        ]
        steps.append((slowest(since(begin, end), point.device), [one | {"rank": rank} for one in spans]))
    median = sorted(steps, key=lambda step: step[0])[len(steps) // 2][1]  # the same step on all ranks
    gathered = [None] * point.tp if rank == 0 else None
    dist.gather_object(median, gathered)
    return list(chain.from_iterable(gathered)) if rank == 0 else None


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _elapsed(begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
    return begin.elapsed_time(end) * 1e-3


def _passed(begin: float, end: float) -> float:
    return end - begin
