"""The emulated link on a GPU: a high-priority side stream on which each all-reduce is a kernel that waits.

Nothing blocks the host, and all of it is captured into a CUDA graph: a launch forks the side stream off the compute
stream and holds it for ``alpha + bytes * beta``; waiting joins it. As with :class:`EmulatedLink` the value is this
rank's partial, and one all-reduce starts when the one before has ended.
"""

import torch

from ladder.errors import UserError

# %globaltimer counts nanoseconds, whatever the clock of the multiprocessors.
SOURCE = """
extern "C" __global__ void hold(int nanoseconds) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now < start + nanoseconds);
}
"""
DEVICE = "cuda"
THREADS = 512  # of a block that takes its share of a multiprocessor, as a channel of NCCL does
CHAIN = 100  # all-reduces in a row, to measure one


class EmulatedStream:
    """alpha: seconds per all-reduce; beta: seconds per byte; blocks: multiprocessors that an all-reduce keeps busy with
    a block of threads each (0: one thread, as good as none).

    Launching, an empty kernel and joining take time of their own (``floor`` seconds, measured), which is part of alpha.
    Raises UserError for an alpha below it.
    """

    def __init__(self, size: int, alpha: float, beta: float = 0.0, blocks: int = 0):
        self.size, self.beta = size, beta
        self.stream = torch.cuda.Stream(priority=-1)
        self.kernel = torch.cuda._compile_kernel(SOURCE, "hold")
        self.grid, self.block = ((blocks, 1, 1), (THREADS, 1, 1)) if blocks else ((1, 1, 1), (1, 1, 1))
        self.hold = 0.0  # seconds per all-reduce that the kernel waits
        self.floor = self.isolated()
        if alpha < self.floor:
            raise UserError(
                f"an all-reduce of {alpha * 1e6:.1f} us cannot be emulated on this GPU: launching and joining alone "
                f"take {self.floor * 1e6:.1f} us; choose a slower link"
            )
        self.hold = alpha - self.floor
        self.error = self.isolated() / alpha - 1  # what is left, from the timer's tick; goes into the record

    def all_reduce(self, partial: torch.Tensor) -> "_Event":
        self.stream.wait_stream(torch.cuda.current_stream())
        nanoseconds = round((self.hold + partial.nbytes * self.beta) * 1e9)
        with torch.cuda.stream(self.stream):
            self.kernel(self.grid, self.block, [nanoseconds])
        return _Event(self.stream.record_event(), partial)

    def isolated(self) -> float:
        """Seconds of one all-reduce of nothing, launched and waited for at once, in a CUDA graph."""
        nothing = torch.empty(0, device=DEVICE)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CHAIN):
                self.all_reduce(nothing).wait()
        seconds = []
        for _ in range(10):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            seconds.append(start.elapsed_time(end) * 1e-3 / CHAIN)
        return sorted(seconds)[len(seconds) // 2]


class _Event:
    def __init__(self, event: torch.cuda.Event, value: torch.Tensor):
        self.event, self.value = event, value

    def wait(self) -> torch.Tensor:
        torch.cuda.current_stream().wait_event(self.event)
        return self.value
