"""Real tensor parallelism: one process a rank, over gloo (CPU) or NCCL (GPU)."""

import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from ladder.bench.decoder import (
    Decoder,
    difference,
    expected_order,
    logits,
    order,
    random_weight,
    unsharded,
)
from ladder.bench.emulated import TOLERANCE, Point, compare, throughput
from ladder.errors import UserError
from ladder.model.modeling import build
from ladder.parallel.communicators import ProcessGroup, precise_sleep
from ladder.wiring import pattern


def measure(point: Point, prefills: int, device: str) -> tuple[list[dict], dict]:
    """(tidy rows, extra) of ``point`` over real ranks: starts them, unless torchrun has started this process as one."""
    if device == "cuda" and torch.cuda.device_count() < int(os.environ.get("LOCAL_WORLD_SIZE", point.tp)):
        raise UserError(f"tp {point.tp} on cuda needs as many GPUs; this machine has {torch.cuda.device_count()}")
    if "WORLD_SIZE" in os.environ:
        if int(os.environ["WORLD_SIZE"]) != point.tp:
            raise UserError(f"torchrun started {os.environ['WORLD_SIZE']} ranks for tp {point.tp}; make them equal")
        return _rank(int(os.environ["LOCAL_RANK"]), point, prefills, device, "env://", int(os.environ["RANK"]))
    # CPU ranks are forked, which spares each the seconds of importing torch; CUDA does not survive a fork.
    method = "spawn" if device == "cuda" else "fork"
    results = torch.multiprocessing.get_context(method).SimpleQueue()
    address = f"tcp://127.0.0.1:{_free_port()}"
    arguments = (point, prefills, device, address, results)
    torch.multiprocessing.start_processes(_started, args=arguments, nprocs=point.tp, start_method=method)
    return results.get()


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _started(rank: int, point: Point, prefills: int, device: str, address: str, results) -> None:
    found = _rank(rank, point, prefills, device, address, rank)
    if rank == 0:
        results.put(found)


def _rank(local_rank: int, point: Point, prefills: int, device: str, address: str, rank: int):
    torch.set_num_threads(1)
    precise_sleep()
    backend = "nccl" if device == "cuda" else "gloo"
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    limits = {"timeout": timedelta(minutes=1)}  # a dead rank must not hold the others for half an hour
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=point.tp, **limits)
    try:
        mesh = init_device_mesh(device, (point.tp,))
        all_reduce = ProcessGroup(mesh.get_group()).all_reduce
        differences, layers = check_logits(point, rank, all_reduce, device)
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model = point.shard(rank, random_weight(point.seed, device, dtype))
        ids = point.ids().to(device)
        decoders = {w: Decoder(model, w, point.tp, ids, point.prompt, all_reduce) for w in point.wirings}
        counts = {}
        for wiring, decoder in decoders.items():
            decoder.prefill()
            seen = order(decoder)
            if seen != expected_order(decoder):
                raise RuntimeError(f"{wiring}: all-reduces are not launched and waited for as its table says")
            counts[wiring] = sum(kind == "launch" for kind, _ in seen)
        samples = _time(decoders, point, prefills, device)
    finally:
        dist.destroy_process_group()
    what = {"tp": point.tp, "batch": point.batch, "prompt": point.prompt, "new_tokens": point.new_tokens}
    what |= {"backend": backend, "origin": "measured", "link": "loopback" if backend == "gloo" else "this machine's"}
    rows = []
    for wiring, count in counts.items():
        if wiring in differences:
            value = {"value": differences[wiring], "note": f"{layers} layers in fp32"}
            rows.append({**what, "wiring": wiring, "metric": "logits_difference", "unit": "1", **value})
        rows.append({**what, "wiring": wiring, "metric": "all_reduces", "value": count, "unit": "per step"})
    for phase in ("prefill", "decode"):
        rows += compare(samples[phase], None, what | {"phase": phase})
    return rows + throughput(point, samples, what), {}


def check_logits(point: Point, rank: int, all_reduce, device: str) -> tuple[dict[str, float], int]:
    """(largest difference in logits from the unsharded model per wiring, layers compared), before anything is timed.

    In fp32; on a GPU with two layers, so that the unsharded model of any size fits on one.
    """
    config = point.config
    if device == "cuda":
        config = type(config)(**config.to_dict() | {"num_hidden_layers": min(2, config.num_hidden_layers)})
    weight = random_weight(point.seed, device)
    ids = point.ids()[:, : point.prompt + point.checked_steps].to(device)
    wirings = [w for w in point.wirings if not pattern(w.partition("@")[0]).timing_only]
    expected = {}
    if rank == 0:
        whole = build(config, 0, 1, weight)
        expected = {w: logits(unsharded(whole, w, point.tp, ids, point.prompt), point.checked_steps) for w in wirings}
        del whole  # before the shard takes its place
    part = point.shard(rank, weight, config=config)
    differences = {}
    for wiring in wirings:
        decoder = Decoder(part, wiring, point.tp, ids, point.prompt, all_reduce)
        found = logits(decoder, point.checked_steps)
        if rank == 0:
            differences[wiring] = difference(found, expected[wiring], decoder.rows, rank, point.tp)
            if not differences[wiring] < TOLERANCE:
                raise RuntimeError(f"{wiring} at TP {point.tp}: logits are off by {differences[wiring]:.2e}; not timed")
    return differences, config.num_hidden_layers


def _time(decoders: dict[str, Decoder], point: Point, prefills: int, device: str) -> dict:
    """Interleaved samples, phase -> wiring -> seconds of the slowest rank; all ranks start a sample together."""
    samples = {phase: {w: [] for w in decoders} for phase in ("prefill", "decode")}
    rounds = [("prefill", i) for i in range(prefills + 1)] + [("decode", i) for i in range(point.new_tokens)]
    names = list(decoders)
    for phase, round_ in rounds:
        turn = round_ % len(names)
        for wiring in names[turn:] + names[:turn]:
            decoder = decoders[wiring]
            dist.barrier()
            start = time.perf_counter()
            decoder.prefill() if phase == "prefill" else decoder.step()
            if device == "cuda":
                torch.cuda.synchronize()
            slowest = torch.tensor(time.perf_counter() - start, dtype=torch.float64, device=device)
            dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
            if round_:  # the first round warms caches and the allocator
                samples[phase][wiring].append(slowest.item())
    return samples
