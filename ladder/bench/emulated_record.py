"""The record of one rank on an emulated link: every number with what it was checked against and what bounds it."""

from dataclasses import asdict

import numpy as np

from ladder.bench.bandwidth import step_bytes
from ladder.bench.point import DTYPES, BenchCase
from ladder.bench.rank0 import Rank0, Timed, Wire
from ladder.bench.rows import checked, compare, throughput, what
from ladder.bench.statistics import estimate, hidden, matters
from ladder.schedule import length, timeline


def shared(point: BenchCase) -> dict:
    """Columns of all rows; one rank needs no link, so nothing is emulated."""
    if point.tp == 1:
        return what(point, backend="none", origin="measured")
    return what(point, backend="emulated", origin="emulated")


def checked_rows(rank: Rank0) -> list[dict]:
    """What holds on every link: logits, order, memory's bandwidth, bytes of a step."""
    point = rank.point
    base = shared(point)
    note = f"{point.tp} ranks against the unsharded model, {point.checked().layers} layers, fp32"
    rows = checked(base, note, rank.differences, rank.path_differences, rank.counts)
    measured = base | {"origin": "measured", "backend": "none"}
    rows.append({**measured, "metric": "copy_bandwidth", "unit": "bytes/s", **rank.bandwidth})
    rows.append({**measured, "metric": "step_bytes", "unit": "bytes", "phase": "decode", "value": read_bytes(rank)})
    return rows


def read_bytes(rank: Rank0) -> int:
    """Bytes of weights and cache that rank 0 reads in a decode step of the whole depth."""
    point = rank.point
    layers = rank.full or point.layers
    config = type(point.config)(**point.config.to_dict() | {"num_hidden_layers": layers})
    size = DTYPES[point.dtype].itemsize
    return step_bytes(config, point.tp, point.batch, point.length, size, point.replicate_kv)


def measure(rank: Rank0, wire: Wire, prefills: int) -> tuple[list[dict], dict]:
    """(tidy rows, extra) of rank 0's shard on one link."""
    point, rows = rank.point, checked_rows(rank)
    timed = rank.time(wire, virtual=False, prefills=prefills)
    wall, modules, virtual = timed.seconds, timed.modules, None
    if point.device == "cpu":
        again = rank.time(wire, virtual=True, prefills=prefills)
        virtual, modules = again.seconds, again.modules
    here = shared(point) | {"link": wire.name, "rho": wire.rho}
    for phase in ("prefill", "decode"):
        found = here | {"phase": phase}
        rows.append({**found, "metric": "warmup_rounds", "value": timed.warmup[phase], "unit": "rounds"})
        rows += compare(wall[phase], virtual[phase] if virtual else None, found)
        if virtual:
            mean = {"value": float(modules[phase].mean()), "n": len(modules[phase])}
            rows.append({**found, "metric": "module_seconds", "unit": "s", **mean})
            rows += scheduled(rank, modules[phase], virtual[phase], wire, found)
    rows += throughput(point, wall, here) + roofline(rank, wall["decode"], here) + host(timed, here)
    extra = {"link": asdict(wire)}
    if point.device == "cpu":
        extra["timelines"] = {wiring: rank.timeline(wiring, wire) for wiring in point.wirings}
        extra["timeline_rho"] = wire.rho
        silent = virtual["decode"]["upper_bound", point.compute[0]]
        whole = whole_step(modules["decode"], silent)
        extra["module_seconds"] = {"decode": whole.tolist(), "mean": float(modules["decode"].mean())}
    value, note = rank.memory()
    rows.append({**here, "metric": "memory_bytes", "value": value, "unit": "bytes", "note": note})
    return rows, extra


def roofline(rank: Rank0, decode: dict, what: dict) -> list[dict]:
    """Rows of the share of a decode step that reading weights and cache at the speed of a copy would take."""
    least = read_bytes(rank) / rank.bandwidth["value"]
    rows = []
    for (wiring, compute), values in decode.items():
        row = {**what, "phase": "decode", "wiring": wiring, "compute": compute, "metric": "roofline_fraction"}
        rows.append(row | {"unit": "fraction", **estimate(lambda seconds: least / seconds, values)})
    return rows


def host(timed: Timed, what: dict) -> list[dict]:
    """Rows of the seconds that the host needs to launch a decode step (GPU only)."""
    row = {**what, "phase": "decode", "metric": "host_seconds", "unit": "s"}
    return [
        {**row, "wiring": wiring, "compute": compute, "value": float(np.median(values)), "n": len(values)}
        for (wiring, compute), values in timed.host.items()
        if values
    ]


def scheduled(rank: Rank0, modules: np.ndarray, virtual: dict, wire: Wire, what: dict) -> list[dict]:
    """Rows of the share that the two-resource schedule hides, given the measured module times."""
    point, compute = rank.point, rank.point.compute[0]
    silent = virtual["upper_bound", compute]
    if rank.full or point.tp == 1 or not matters(virtual["standard", compute], silent):
        return []
    modules, reduce = whole_step(modules, silent), wire.reduce_seconds(rank.message(what["phase"]))
    times = {
        wiring: length(timeline(point.rows(wiring), lambda n: modules[n], reduce, wire.in_flight))
        for wiring in point.wirings
    }
    row = {**what, "metric": "hidden_schedule", "unit": "fraction", "compute": compute}
    return [
        {**row, "wiring": wiring, "value": float(hidden(times["standard"], seconds, times["upper_bound"]))}
        for wiring, seconds in times.items()
    ]


def whole_step(modules: np.ndarray, silent: list[float]) -> np.ndarray:
    """Module times that add up to a silent step's: what it computes outside its modules (norms, residual additions, the
    head) hides communication too, and is spread over them in proportion."""
    return modules * (np.median(silent) / modules.sum())
