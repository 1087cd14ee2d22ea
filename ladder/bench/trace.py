"""Timelines for https://ui.perfetto.dev (or chrome://tracing): what was measured, and what torch's profiler sees."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from ladder.files import atomic_write, write_json

LANES = ("compute", "communication")


def write_trace(path: str | Path, timelines: dict[str, list[dict]], meta: dict) -> None:
    """Write ``timelines`` (wiring -> spans, as of ladder.bench.rank0) as a Chrome trace: one process per wiring and
    rank, one thread per lane, and further ones for all-reduces that were under way at the same time.

    A span has lane, name, layer, start and end in seconds, and rank where there are several. meta: what the reader must
    know about them (hardware, link, origin, commit). Raises ValueError if two modules compute at once on one rank.
    """
    events, pids, tids = [], count(1), count(1)  # 0 means the idle process
    for wiring, spans in timelines.items():
        lanes = defaultdict(list)
        for span in spans:
            lanes[span.get("rank", 0), LANES.index(span["lane"])].append(span)
        for rank in sorted({rank for rank, _ in lanes}):
            pid = next(pids)
            threads = [(lane, row) for n, lane in enumerate(LANES) for row in _threads(lanes[rank, n])]
            if len([lane for lane, _ in threads if lane == "compute"]) > 1:
                raise ValueError(f"{wiring}: two modules compute at once on rank {rank}")
            for number, (lane, row) in enumerate(threads):
                tid = next(tids)
                if not number:
                    events.append(_named("process_name", pid, tid, f"{wiring}, rank {rank}"))
                events.append(_named("thread_name", pid, tid, lane))
                events += [_slice(one, pid, tid) for one in row]
    write_json(path, {"traceEvents": events, "displayTimeUnit": "ms", "otherData": meta})


def _named(what: str, pid: int, tid: int, name: str) -> dict:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _threads(spans: list[dict]) -> list[list[tuple[int, int, dict]]]:
    """(start, end, span) in whole nanoseconds, so that neighbours still touch after rounding; rows without overlap."""
    rows: list[list] = [[]]
    times = [(round(span["start"] * 1e9), round(span["end"] * 1e9), span) for span in spans]
    for time in sorted(times, key=lambda time: time[:2]):
        free = next((row for row in rows if not row or row[-1][1] <= time[0]), None)
        if free is None:
            rows.append(free := [])
        free.append(time)
    return rows


def _slice(time: tuple[int, int, dict], pid: int, tid: int) -> dict:
    """A complete event, times in us."""
    start, end, span = time
    what = {"ph": "X", "name": span["name"], "cat": span["lane"], "pid": pid, "tid": tid}
    return what | {"ts": start / 1e3, "dur": (end - start) / 1e3, "args": {"layer": span["layer"]}}


@contextlib.contextmanager
def profiled(path: str | Path) -> Iterator[None]:
    """Profile the block with torch (CPU, and the GPU where there is one) and write its Chrome trace to ``path``, .json.

    Kernels and collectives are seen on their own streams, also those of a replayed CUDA graph. Profiling slows the host
    down: time nothing in here. A block that raises writes nothing.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as profiler:
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # or kernels that are still running are missing
    with atomic_write(path) as part:
        profiler.export_chrome_trace(str(part))
