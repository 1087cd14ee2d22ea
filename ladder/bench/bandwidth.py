"""What decode cannot beat: the bytes that a step must read, and how fast this device's memory is, measured.

The roofline's time of a step is ``step_bytes / copy_bandwidth``. A copy reads a byte for each that it writes, and both
are counted: the usual measure, and one that no arithmetic slows down. Decode reads and hardly writes, and reading alone
can be faster (a sum of 1 GiB on two CPU cores: up to a fifth), so a step may exceed this roofline by that little.
"""

import contextlib
import time
from collections.abc import Iterator

import torch

from ladder.bench.memory import rank_part
from ladder.bench.statistics import estimate
from ladder.memory import available
from ladder.model.modeling import LadderConfig

BUFFER = 2**30  # bytes; no cache holds it
WARM = 3


def copy_bandwidth(
    device: str | torch.device, dtype: torch.dtype, threads: int | None = None, rounds: int = 15, size: int = BUFFER
) -> dict:
    """Bytes per second that a copy reads and writes: median of ``rounds``, as low, high, value and n.

    threads: of torch on CPU (default: as many as it has now). size: bytes of each of the two buffers, at most a quarter
    of the memory that is free.
    """
    free = available(device)
    count = min(size, size if free is None else free // 4) // dtype.itemsize
    source = torch.ones(count, dtype=dtype, device=device)  # written, so that its pages are there
    target = torch.empty_like(source)
    copy = _gpu_copy if source.is_cuda else _cpu_copy
    with _threads(threads):
        seconds = [copy(target, source) for _ in range(WARM + rounds)][WARM:]
    return estimate(lambda t: 2 * source.nbytes / t, seconds)


def _cpu_copy(target: torch.Tensor, source: torch.Tensor) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - start


def _gpu_copy(target: torch.Tensor, source: torch.Tensor) -> float:
    """Seconds by the GPU's own clock, so that the launch does not count."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    stream = torch.cuda.current_stream(source.device)
    start.record(stream)
    target.copy_(source)
    end.record(stream)
    end.synchronize()
    return start.elapsed_time(end) / 1e3


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def step_bytes(
    config: LadderConfig, tp: int, batch: int, length: int, dtype_bytes: int, replicate_kv: bool = False
) -> int:
    """Bytes that one of ``tp`` ranks must read in a decode step: its weights, and the K and V of ``length`` positions.

    Of an embedding that is not also the head, only the rows of the step's tokens are read. Activations stay in caches
    and are not counted, nor are the K and V that the step writes.
    """
    part = rank_part(config, tp, replicate_kv)
    not_read = 0 if part.tied else max(0, part.vocab - batch) * part.hidden
    return (part.weights - not_read + part.kv(batch, length)) * dtype_bytes
