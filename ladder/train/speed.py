"""How fast a run is: against what its device could do, and one rank against the others."""

import resource
import statistics
import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from ladder.devices import reported
from ladder.parallel.environment import world_size
from ladder.parallel.group import Group
from ladder.train.options import Options

LARGE = 2**25  # parameters; of smaller models the gathering of weights takes what bf16 saves
TOKENS = 256  # of a large model's micro-batch on a CPU


def peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s of ``device`` in bf16 matrix products; None where the table of devices does not know it."""
    row = reported(torch.cuda.get_device_name(device)) if device.type == "cuda" and precision == "bf16" else None
    return row.flops if row else None


def settled(options: Options, parameters: int) -> Options:
    """``options`` with what is left to the device decided for a model of so many ``parameters``: what precision
    ``auto`` is, and on a CPU the micro-batches of a large model, whose activations would take more than its weights."""
    gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    large = parameters >= LARGE
    if options.precision == "auto":
        native = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else _cpu_has_bf16()
        options = replace(options, precision="bf16" if large and native else "fp32")
    if large and not gpu and options.micro_batch is None and world_size() == 1:
        fit = [n for n in range(1, options.batch + 1) if options.batch % n == 0 and n * options.sequence <= TOKENS]
        options = replace(options, micro_batch=max(fit, default=1))
    return options


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def peak_memory(device: torch.device) -> int:
    """Bytes that this process had at most: of the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def straggler_gap(config, tokens: int, precision: str, ranks: Group) -> tuple[float, int]:
    """(slowest rank's time over the median, which rank) for the same matrix products, each rank alone.

    Steps themselves tell nothing: their collectives make all ranks as slow as the slowest. ``tokens``: of a
    micro-batch.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.ones(tokens, config.hidden_size, dtype=dtype, device=ranks.device)
    weight = torch.ones(config.intermediate_size // ranks.tp, config.hidden_size, dtype=dtype, device=ranks.device)

    def once() -> float:
        began = time.perf_counter()
        for _ in range(4):
            F.linear(x, weight)
        if ranks.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    with torch.no_grad():
        seconds = ranks.gather(min(once() for _ in range(4)))
    return max(seconds) / statistics.median(seconds), seconds.index(max(seconds))
