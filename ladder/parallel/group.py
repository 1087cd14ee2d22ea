"""The ranks of a job: started by torchrun, srun or :func:`launch`, they join, meet, name the dead, and part.

A process that nothing started as a rank is alone. A rank that is dead, stopped or stuck is named by the others, which
end (ladder.parallel.watchdog).
"""

import contextlib
import logging
import signal
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, api, start_processes

from ladder.errors import LAUNCHED, UserError
from ladder.parallel.environment import environment
from ladder.parallel.watchdog import FAILED, Watchdog

JOIN = timedelta(minutes=5)  # within which all ranks must be there
WAIT = timedelta(hours=4)  # in a collective: rank 0 may wait for an orphan's work to end. The dead are found at once.
COLLECTIVE = timedelta(minutes=1)  # the same, where work is timed
AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # in the environment where the launcher, and not rank 0, serves the store
PREFIX = "ladder/{}"  # of keys in the store; torchrun may start all ranks again
GRACE = 10  # seconds that ranks have to end, once one has fallen


@dataclass(frozen=True)
class Group:
    """This process among those of the job. The data is split over ``size`` data-parallel ranks, of which this is number
    ``rank``; each of them is ``tp`` neighbouring processes that share the work on the same data."""

    world_rank: int
    world_size: int
    device: torch.device
    sharded: bool = False  # torch's process group is there, and fully_shard is applied
    tp: int = 1
    watch: Watchdog | None = None  # where there are others
    store: dist.Store | None = None
    hosts: tuple[str, ...] = ()  # the machine of each process
    _turns: count = field(default_factory=count)

    @property
    def rank(self) -> int:
        return self.world_rank // self.tp

    @property
    def size(self) -> int:
        return self.world_size // self.tp

    @property
    def first(self) -> bool:
        return self.world_rank == 0

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of ``value`` over the data-parallel ranks, in place; the processes of one have the same."""
        if self.world_size > 1:
            dist.all_reduce(value)
            if self.tp > 1:
                value /= self.tp
        return value

    def gather(self, value, group: dist.ProcessGroup | None = None) -> list:
        """Every process's (small) object, on every process."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value, group)
        return values

    def barrier(self) -> None:
        self.gather(None)

    def meet(self, said: str = "") -> str:
        """Wait, as long as it takes, until all ranks have come here; what rank 0 ``said``. A dead rank ends it."""
        turn = next(self._turns)
        self.store.set(f"meet/{turn}/{self.world_rank}", said)
        self.store.wait([f"meet/{turn}/{rank}" for rank in range(self.world_size)], timedelta(days=1))
        return self.store.get(f"meet/{turn}/0").decode()

    @contextlib.contextmanager
    def connected(self, backend: str, wait: timedelta = COLLECTIVE) -> Iterator[None]:
        """Inside, torch's process group is there; a collective waits so long for all ranks."""
        store = dist.PrefixStore(f"group/{next(self._turns)}", self.store)
        device_id = self.device if backend == "nccl" else None
        ranks = {"rank": self.world_rank, "world_size": self.world_size}
        dist.init_process_group(backend, store=store, timeout=wait, device_id=device_id, **ranks)
        done = self.world_size == 1
        try:
            yield
            self.meet()
            done = True
        finally:
            if done or backend != "nccl":  # which may hang
                dist.destroy_process_group()


@contextlib.contextmanager
def join(
    device: str = "auto", backend: str | None = "", tp: int = 1, always: bool = False, timing: bool = False
) -> Iterator[Group]:
    """Join the other ranks. Raises UserError naming the rank that failed, or those that did not come.

    device: auto, cpu or cuda. backend: torch's (default: gloo, with nccl on GPUs; None: no process group yet). always:
    a process group even for one rank. timing: each rank on one thread, and one for which the others wait for a minute
    in a collective is stuck; otherwise they wait for hours.
    """
    env = environment()
    rank, size = int(env.get("RANK", 0)), int(env.get("WORLD_SIZE", 1))
    device = _device(device, int(env.get("LOCAL_RANK", 0)), int(env.get("LOCAL_WORLD_SIZE", 1)))
    if timing:
        from ladder.parallel.communicators import precise_sleep  # not in a launcher: it loads torch's compiler

        torch.set_num_threads(1)
        precise_sleep()
    if backend == "":
        # Checkpoints are planned with objects, which travel over gloo.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    connects = backend is not None and (size > 1 or always)
    store = _store(env, rank, size)
    hosts = tuple(store.get(f"host/{other}").decode() for other in range(size))
    watch, serves = None, rank == 0 and AGENT not in env
    if size > 1:
        names = [f"rank {other} on {host}" for other, host in enumerate(hosts)]
        watch = Watchdog(store.clone(), rank, names, "the process that started the ranks" if AGENT in env else names[0])
        watch.progress = _launched if timing else watch.progress
    group = Group(rank, size, device, connects, tp, watch, store, hosts)
    try:
        with group.connected(backend, COLLECTIVE if timing else WAIT) if connects else contextlib.nullcontext():
            yield group
    except Exception as error:
        if not watch:
            raise
        raise watch.failed(error) from error
    except SystemExit:  # asked to terminate, as all ranks are
        _leave(group, serves)
        raise
    _leave(group, serves)


def _leave(group: Group, serves: bool) -> None:
    if group.watch:
        if serves:  # the store: the others leave first
            group.store.wait([f"left/{other}" for other in range(1, group.world_size)], JOIN)
        group.watch.leave()
        group.store.set(f"left/{group.world_rank}", "")


def _launched() -> int:
    """Collectives that this rank has launched, where torch counts them."""
    try:
        return dist.group.WORLD._get_sequence_number_for_group()
    except (AttributeError, RuntimeError):
        return 0


def _device(name: str, local_rank: int, ranks: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    check_gpus(ranks)
    # A SLURM task may see its own GPU only.
    device = torch.device("cuda", local_rank if torch.cuda.device_count() > 1 else 0)
    torch.cuda.set_device(device)
    return device


def check_gpus(ranks: int) -> None:
    """Raises UserError if so many ranks have no GPU each on this machine."""
    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine; use --device cpu, or a machine with one")
    if torch.cuda.device_count() < ranks:
        raise UserError(f"{ranks} ranks on cuda need as many GPUs; this machine has {torch.cuda.device_count()}")


def _store(env: dict[str, str], rank: int, size: int) -> dist.Store:
    """The store of all ranks, once they have signed in there. Raises UserError naming who is missing."""
    store, keys = dist.HashStore(), [f"host/{other}" for other in range(size)]
    try:
        if size > 1:
            where, serves = (env["MASTER_ADDR"], int(env["MASTER_PORT"])), rank == 0 and AGENT not in env
            store = dist.TCPStore(*where, is_master=serves, timeout=JOIN, wait_for_workers=False)
        store = dist.PrefixStore(PREFIX.format(env.get("TORCHELASTIC_RESTART_COUNT", 0)), store)
        store.set(f"beat/{rank}", "0 0")
        store.set(keys[rank], socket.gethostname())
        store.wait(keys, JOIN)
    except RuntimeError as error:  # torch's errors of stores
        if isinstance(error, dist.DistStoreError) and isinstance(store, dist.PrefixStore):
            missing = ", ".join(str(other) for other, key in enumerate(keys) if not store.check([key]))
            raise UserError(f"of {size} ranks, these did not come in {JOIN}: {missing}") from None
        reason = str(error).partition("\n")[0]
        raise UserError(f"rank {rank} cannot meet the others at the store {where[0]}:{where[1]}: {reason}") from None
    return store


def launch(size: int, command: list[str]) -> None:
    """Run ``command`` as ``size`` ranks of this machine, with torchrun's means, until all have ended. Raises UserError
    with what the first rank that fell left to be said, or how it was killed; SystemExit after a stack trace of its."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = dist.PrefixStore(PREFIX.format(0), server)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port), AGENT: "True", LAUNCHED: "1"}
    shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(size))
    each = {rank: shared | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) for rank in range(size)}
    logging.getLogger(api.__name__).setLevel(logging.CRITICAL)  # of failures, this function tells
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    with tempfile.TemporaryDirectory() as folder:
        words = dict.fromkeys(range(size), tuple(command[1:]))
        ranks = start_processes("ladder", command[0], words, each, DefaultLogsSpecs(folder))
        close = ranks.close

        def end() -> None:
            """They end themselves, in order: their watchdogs read it. One that is stopped must go on for that."""
            store.compare_set(FAILED, "", "ended by what launched the ranks")
            close(signal.SIGCONT, GRACE)

        ranks.close = end
        try:
            failures = ranks.wait(period=0.05).failures
        except SignalException as asked:
            raise (KeyboardInterrupt if asked.sigval == signal.SIGINT else SystemExit(128 + asked.sigval)) from None
        finally:
            ranks.close()
            for number, handler in before.items():
                signal.signal(number, handler)
    if failures:
        first = min(failures.values(), key=lambda failure: failure.timestamp)
        if "timestamp" in first.error_file_data:
            raise UserError(first.message)
        if first.exitcode == 1:
            raise SystemExit(1)
        end = f"exited with {first.exitcode}" if first.exitcode > 0 else f"was killed by {first.signal_name()}"
        hint = " (by the kernel, if memory ran out)" if first.exitcode == -signal.SIGKILL else ""
        raise UserError(f"rank {first.local_rank} on {socket.gethostname()} {end}{hint}")
