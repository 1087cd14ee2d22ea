"""Communication is injected: one model definition, several ways to sum over ranks.

Each communicator has ``size`` (number of ranks) and ``all_reduce(partial)``, which launches the sum of the ranks'
partial outputs and returns a handle whose ``wait()`` gives it. The executor decides when to wait.
"""

import ctypes
import threading
import time

import torch
import torch.distributed as dist

from ladder.residual import Landed


class Solo:
    """One rank: the partial output is the sum."""

    size = 1

    def all_reduce(self, partial: torch.Tensor) -> Landed:
        return Landed(partial)


class ProcessGroup:
    """Real ranks over a torch process group (NCCL, gloo): asynchronous, in place."""

    def __init__(self, group: dist.ProcessGroup):
        self.group, self.size = group, group.size()

    @torch.compiler.disable  # compiled code stays between launch and wait as the executor has put it
    def all_reduce(self, partial: torch.Tensor) -> "_Work":
        partial = partial.contiguous()
        return _Work(dist.all_reduce(partial, group=self.group, async_op=True), partial)


class _Work:
    def __init__(self, work, value):
        self.work, self.value = work, value

    @torch.compiler.disable
    def wait(self):
        self.work.wait()
        return self.value


class EmulatedLink:
    """Rank 0 computes for real; each all-reduce completes no earlier than ``alpha + bytes * beta`` after its launch.

    A link with ``in_flight`` 1 is serial, as one NCCL communicator is: a launch queues behind the one before. It takes
    nothing from the compute resource. The value is rank 0's partial, not a sum, so it times and computes no model.

    alpha: seconds per all-reduce; beta: seconds per byte; in_flight: how many may be under way at once (gloo: 2).
    virtual: the clock is this thread's processor time plus the waits, which are skipped instead of slept: a schedule
    driven by measured compute, undisturbed by other load on the machine. It needs torch on one thread.
    """

    def __init__(self, size: int, alpha: float, beta: float = 0.0, virtual: bool = False, in_flight: int = 1):
        if alpha < 0 or beta < 0 or in_flight < 1:
            raise ValueError(
                f"a link cannot have alpha = {alpha} s, beta = {beta} s/byte, in_flight = {in_flight}: the first two "
                "must be at least 0, the last at least 1"
            )
        self.size, self.alpha, self.beta, self.virtual = size, alpha, beta, virtual
        self._skipped = 0.0
        self._free = [0.0] * in_flight  # when each lane has finished all that was launched on it
        self.intervals: list[tuple[float, float]] = []  # (start, end) of each all-reduce
        if not virtual:
            precise_sleep()

    def now(self) -> float:
        return time.thread_time() + self._skipped if self.virtual else time.perf_counter()

    def all_reduce(self, partial: torch.Tensor) -> "_Deadline":
        lane = self._free.index(min(self._free))
        start = max(self.now(), self._free[lane])
        end = self._free[lane] = start + self.alpha + partial.nbytes * self.beta
        self.intervals.append((start, end))
        return _Deadline(self, partial, end)


class _Deadline:
    def __init__(self, link: EmulatedLink, value: torch.Tensor, end: float):
        self.link, self.value, self.end = link, value, end

    def wait(self) -> torch.Tensor:
        left = self.end - self.link.now()
        if left <= 0:
            return self.value
        if self.link.virtual:
            self.link._skipped += left
        else:
            time.sleep(max(0.0, left - 1e-4))
            while self.link.now() < self.end:  # never early
                pass
        return self.value


def precise_sleep() -> None:
    """Let this thread's sleeps end within some microseconds (the default slack is 50 us); Linux only."""
    try:
        ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)  # PR_SET_TIMERSLACK, in ns
    except (OSError, AttributeError):
        return


class ThreadedRanks:
    """``size`` ranks as threads of one process, each with its own shard: checks what was sharded without processes.

    ``run(work)`` calls ``work(rank, all_reduce)`` on every rank and returns the list of results.
    """

    def __init__(self, size: int):
        self.size = size
        self._changed = threading.Condition()
        self._partials: dict[int, dict[int, torch.Tensor]] = {}  # all-reduce number -> rank -> partial
        self._failed: BaseException | None = None

    def run(self, work) -> list:
        results = [None] * self.size

        def rank_main(rank: int) -> None:
            try:
                with torch.no_grad():
                    results[rank] = work(rank, _ThreadedRank(self, rank).all_reduce)
            except BaseException as error:
                with self._changed:
                    self._failed = self._failed or error
                    self._changed.notify_all()

        threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failed is not None:
            raise self._failed
        return results

    def _put(self, number: int, rank: int, partial: torch.Tensor) -> None:
        with self._changed:
            self._partials.setdefault(number, {})[rank] = partial
            self._changed.notify_all()

    def _sum(self, number: int) -> torch.Tensor:
        with self._changed:
            self._changed.wait_for(lambda: self._failed or len(self._partials[number]) == self.size)
            if self._failed:
                raise RuntimeError("another rank failed")
            partials = self._partials[number]
        return torch.stack([partials[rank] for rank in range(self.size)]).sum(0)  # rank order: all ranks agree


class _ThreadedRank:
    def __init__(self, ranks: ThreadedRanks, rank: int):
        self.ranks, self.rank, self.launched = ranks, rank, 0

    def all_reduce(self, partial: torch.Tensor) -> "_ThreadedSum":
        number, self.launched = self.launched, self.launched + 1
        self.ranks._put(number, self.rank, partial)
        return _ThreadedSum(self.ranks, number)


class _ThreadedSum:
    def __init__(self, ranks: ThreadedRanks, number: int):
        self.ranks, self.number = ranks, number

    def wait(self) -> torch.Tensor:
        return self.ranks._sum(self.number)
