"""How fast a run is: against what its device could do, and one rank against the others."""

import resource
import statistics
import time

import torch
import torch.nn.functional as F

from ladder.devices import DEVICES
from ladder.parallel.group import Group

# torch.cuda.get_device_name() -> row of the table of devices. A board with another peak has another name.
NAMES = {
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
    "NVIDIA GB200": "gb200",
    "NVIDIA A100-SXM4-80GB": "a100-80g",
    "NVIDIA A100 80GB PCIe": "a100-80g",
    "NVIDIA A100-SXM4-40GB": "a100-40g",
    "NVIDIA A100-PCIE-40GB": "a100-40g",
    "NVIDIA L40S": "l40s",
    "NVIDIA L4": "l4",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "AMD Instinct MI300X": "mi300x",
}


def flops_per_token(config, parameters: int, sequence: int) -> float:
    """Of a training step: 6 for every weight that multiplies, and causal attention over ``sequence`` tokens.

    ``parameters``: of the whole model. A look-up multiplies nothing, so embeddings count once, as the head. What is
    recomputed in backward does not count.
    """
    looked_up = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    width = config.num_attention_heads * config.head_dim
    return 6.0 * (parameters - looked_up) + 6.0 * config.num_hidden_layers * width * sequence


def peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s of ``device`` in bf16 matrix products; None where the table of devices does not know it."""
    name = NAMES.get(torch.cuda.get_device_name(device)) if device.type == "cuda" and precision == "bf16" else None
    return DEVICES[name].flops if name else None


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
