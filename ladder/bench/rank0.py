"""One rank of a tensor-parallel group, alone on this machine: compute is real, the link is emulated."""

import contextlib
import functools
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from ladder.bench.bandwidth import copy_bandwidth
from ladder.bench.baseline import Baseline
from ladder.bench.point import DTYPES, BenchCase, check_logits, check_order, check_path
from ladder.bench.rows import extrapolated
from ladder.bench.statistics import affine
from ladder.bench.timing import Timer
from ladder.errors import UserError
from ladder.inference.engine import Engine
from ladder.inference.fused import Fused
from ladder.parallel.communicators import EmulatedLink, Solo
from ladder.records import cores


@dataclass(frozen=True)
class Wire:
    """An emulated link. name: for the record; rho: if it was set by it. blocks: multiprocessors it keeps busy (GPU)."""

    name: str
    alpha: float
    beta: float = 0.0
    in_flight: int = 1
    rho: float | None = None
    blocks: int = 0

    def elsewhere(self) -> "Wire":
        """The same link where rho, which is of another point, does not hold."""
        return replace(self, rho=None)

    def reduce_seconds(self, size: int) -> float:
        """Seconds of one all-reduce of ``size`` bytes."""
        return self.alpha + size * self.beta

    def communicator(self, point: BenchCase, virtual: bool = False):
        if point.device == "cuda" and point.tp == 1:
            return Solo()
        if point.device == "cuda":
            from ladder.parallel.emulated_stream import EmulatedStream

            if self.in_flight > 1:
                raise UserError(f"--link {self.name}: a GPU emulates one all-reduce at a time, not {self.in_flight}")
            return EmulatedStream(point.tp, self.alpha, self.beta, self.blocks)
        return EmulatedLink(point.tp, self.alpha, self.beta, virtual, self.in_flight)


ALONE = Wire("none", 0.0)


class Rank0:
    """Rank 0's shard of a point, checked, and what is measured on it.

    full: layers of the whole model, to which times are extrapolated if fewer run.
    """

    def __init__(self, point: BenchCase, full: int | None = None, baseline: bool = False):
        self.point, self.full = point, full
        if point.device == "cpu":
            torch.set_num_threads(cores())
        self.differences = check_logits(point)
        if point.device == "cpu":
            torch.set_num_threads(1)  # one rank's compute resource; and the virtual clock is this thread's
        model = point.shard(0)
        self.baseline = Baseline(model, point) if baseline else None  # before fusing, which cuts its weights to slices
        self.fused = Fused(model)
        self.path_differences = check_path(point, self.fused, Solo().all_reduce)
        self.counts = check_order(point, lambda w: point.engine(self.fused, w, Solo().all_reduce, point.compute[-1]))
        self.bandwidth = bandwidth(point.device, point.dtype)
        self.warm = False

    @property
    def half(self) -> int:
        return max(1, self.point.layers // 2)

    def engines(self, all_reduce) -> dict[tuple, Engine]:
        """(wiring, compute, layers) -> engine; half the layers too where times are extrapolated."""
        point, pool = self.point, None
        depths = [point.layers, self.half] if self.full else [point.layers]
        found = {}
        for wiring in point.wirings:
            for compute in point.compute:
                for layers in depths:
                    engine = point.engine(self.fused, wiring, all_reduce, compute, layers)
                    if compute == "graphs":
                        pool = pool or torch.cuda.graph_pool_handle()
                        engine.capture(pool)
                    found[wiring, compute, layers] = engine
        return found

    def time(self, wire: Wire, virtual: bool, prefills: int) -> "Timed":
        if self.point.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        emulated = wire.communicator(self.point, virtual)
        decoders: dict = self.engines(emulated.all_reduce)
        if self.baseline and not virtual:
            decoders["standard", "transformers", self.point.layers] = self.baseline
        modules = {"prefill": [], "decode": []}

        def watch(key, phase, work):
            engine = decoders[key]
            if not isinstance(engine, Engine) or key[1] != self.point.compute[0] or key[2] != self.point.layers:
                return work()
            spans = module_spans(engine, time.thread_time, work)
            modules[phase].append([end - start for _, start, end in spans])

        clock = emulated.now if virtual else time.perf_counter
        on_cpu = self.point.device == "cpu"
        timer = Timer(decoders, self.point.new_tokens, self.point.device, clock, watch=watch if on_cpu else None)
        # The baseline's code is not ours: it may still compile anew.
        with contextlib.nullcontext() if self.baseline else fixed_shapes(self.point):
            samples = timer.samples(prefills, *(() if not self.warm else (2,)))
        self.warm = True
        modules = {phase: np.median(spans, axis=0) for phase, spans in modules.items()} if on_cpu else {}
        whole = {phase: self._whole(found) for phase, found in samples.items()}
        return Timed(whole, modules, timer.warmup, {key[:2]: seconds for key, seconds in timer.host.items()})

    def memory(self) -> tuple[int, str]:
        """Bytes of one rank, and of what."""
        if self.point.device == "cuda":
            return torch.cuda.max_memory_allocated(), "the most while timing, all wirings' caches included"
        one = self.point.engine(self.fused, "standard", None)
        tensors = [*self.fused.model.parameters(), *(half for kv in one.caches for half in kv)]
        return sum(tensor.nbytes for tensor in tensors), "weights and one wiring's cache"

    def _whole(self, samples: dict) -> dict:
        """Samples by (wiring, compute), of the whole model's depth."""
        ran = {key[:2]: values for key, values in samples.items() if key[2] == self.point.layers}
        if not self.full:
            return ran
        fewer = {key[:2]: values for key, values in samples.items() if key[2] == self.half}
        return extrapolated(ran, fewer, self.point.layers, self.half, self.full)

    def module_times(self, rounds: int = 20, warm: int = 5) -> dict[str, np.ndarray]:
        """Median seconds of each of the 2L modules that run, without communication, in prefill and in decode."""
        point = self.point
        engine = point.engine(self.fused, "upper_bound", None, point.compute[-1])
        if point.device == "cuda":
            return engine.module_seconds()
        found = {}
        for phase, count in (("prefill", warm), ("decode", min(warm + rounds, point.new_tokens))):
            engine.prefill()
            samples = []
            for _ in range(count):
                spans = module_spans(engine, time.thread_time, engine.prefill if phase == "prefill" else engine.step)
                samples.append([end - start for _, start, end in spans])
            found[phase] = np.median(samples[warm:] or samples, axis=0)
        return found

    def message(self, phase: str) -> int:
        """Bytes of one all-reduce."""
        tokens = self.point.prompt if phase == "prefill" else 1
        return self.point.batch * tokens * self.point.config.hidden_size * DTYPES[self.point.dtype].itemsize

    def wire(self, rho: float) -> Wire:
        """A link on which an all-reduce takes rho x the mean module's time in both phases."""
        modules = self.module_times()
        decode, prefill = rho * modules["decode"].mean(), rho * modules["prefill"].mean()
        small, large = self.message("decode"), self.message("prefill")
        # A phase with longer messages cannot have a shorter all-reduce than the other.
        alpha, beta = affine(small, large, decode, prefill)
        name = f"emulated, serial, {alpha * 1e3:.2f} ms" + (f" + {1e-9 / beta:.2f} GB/s" if beta else "")
        return Wire(name, float(alpha), float(beta), rho=rho)

    def timeline(self, wiring: str, wire: Wire, rounds: int = 9) -> list[dict]:
        """What really happened in the median of ``rounds`` decode steps: spans with lane, name, layer, start, end."""
        emulated = wire.communicator(self.point)
        engine = self.point.engine(self.fused, wiring, emulated.all_reduce, self.point.compute[0])
        engine.prefill()
        steps = []
        for _ in range(min(rounds, self.point.new_tokens)):
            emulated.intervals.clear()
            start = emulated.now()
            found = module_spans(engine, emulated.now, engine.step)
            spans = [span("compute", n, n, begin - start, end - start) for n, begin, end in found]
            launches = [launch.modules for launch in engine.rows.launches]
            spans += [
                span("communication", i, max(launches[i]), begin - start, end - start)
                for i, (begin, end) in enumerate(emulated.intervals)
            ]
            steps.append((emulated.now() - start, spans))
        return sorted(steps, key=lambda step: step[0])[len(steps) // 2][1]


@dataclass(frozen=True)
class Timed:
    """seconds: phase -> (wiring, compute) -> samples. modules: phase -> median seconds of each meanwhile (CPU only).
    warmup: phase -> rounds. host: (wiring, compute) -> seconds until a decode step was launched (GPU only)."""

    seconds: dict
    modules: dict
    warmup: dict
    host: dict


@functools.cache
def bandwidth(device: str, dtype: str) -> dict:
    """Of this device's memory, measured once."""
    return copy_bandwidth(device, DTYPES[dtype], size=2**30 if device == "cuda" else 2**28)


@contextlib.contextmanager
def fixed_shapes(point: BenchCase):
    """While it lasts compiled code checks only what tells its versions apart; all shapes have been compiled before."""
    if point.compute == ("eager",):
        yield
        return
    torch.compiler.set_stance(skip_guard_eval_unsafe=True)
    try:
        yield
    finally:
        torch.compiler.set_stance("default")


def module_spans(engine: Engine, clock, work) -> list[tuple[int, float, float]]:
    """(module, start, end) of each module that ``work`` runs, by ``clock``."""
    spans, begin = [], 0.0

    def observe(n: int, edge: str) -> None:
        nonlocal begin
        if edge == "start":
            begin = clock()
        else:
            spans.append((n, begin, clock()))

    engine.observe = observe
    try:
        work()
    finally:
        engine.observe = None
    return spans


def span(lane: str, index: int, module: int, start: float, end: float) -> dict:
    kind = ("attention", "mlp")[module % 2] if lane == "compute" else "all-reduce"
    return {"lane": lane, "index": index, "name": kind, "layer": module // 2, "start": start, "end": end}
