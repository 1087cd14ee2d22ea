"""The processes of a training job: a plain one is alone, ``torchrun`` starts more.

A rank that is killed or stopped is named by the others, which end within half a minute.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ladder.errors import UserError
from ladder.parallel.watchdog import Watchdog, describe
from ladder.train.options import Options, world_size

JOIN = timedelta(minutes=5)  # within which all ranks must be there
WAIT = timedelta(hours=4)  # in a collective: rank 0 may wait for an orphan's work to end. The dead are found at once.


@dataclass(frozen=True)
class Ranks:
    """This process among those of the job. The data is split over ``size`` data-parallel ranks, of which this is number
    ``rank``; each of them is ``tp`` neighbouring processes that share the work on the same data."""

    world_rank: int
    world_size: int
    device: torch.device
    sharded: bool = False  # fully_shard is applied
    tp: int = 1
    watch: Watchdog | None = None  # where there are others

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


@contextlib.contextmanager
def start(options: Options) -> Iterator[Ranks]:
    """Join the other ranks (WORLD_SIZE and its like in the environment, as torchrun sets them)."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine; use --device cpu, or a machine with one")
    cuda = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    rank, size = int(os.environ.get("RANK", 0)), world_size()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # bf16 goes the same way at one rank as at many: fp32 shards, cast to bf16 when gathered.
    if size == 1 and options.precision == "fp32":
        yield Ranks(rank, size, device)
        return
    store = dist.HashStore() if size == 1 else next(dist.rendezvous("env://", rank, size, timeout=JOIN))[0]
    with watched(store, rank, size) if size > 1 else contextlib.nullcontext() as watch:
        # Checkpoints are planned with objects, which travel over gloo.
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        group = dist.PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=WAIT)
        try:
            yield Ranks(rank, size, device, sharded=True, tp=options.tp_ranks, watch=watch)
        finally:
            dist.destroy_process_group()


@contextlib.contextmanager
def watched(store: dist.Store, rank: int, size: int, **limits) -> Iterator[Watchdog]:
    """Inside, this process ends with a sentence when another rank is dead, stopped or has failed; and when it fails
    itself, the others are told. ``limits``: as :class:`Watchdog` has them."""
    store = dist.PrefixStore("watch", store)
    store.set(f"beat/{rank}", "0 0")
    store.set(f"host/{rank}", socket.gethostname())
    hosts = [store.get(f"host/{other}").decode() for other in range(size)]
    names = [f"rank {other} on {host}" for other, host in enumerate(hosts)]
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    watch = Watchdog(store.clone(), rank, names, "the process that started the ranks" if served else names[0], **limits)
    try:
        yield watch
    except KeyboardInterrupt:
        raise
    except SystemExit:  # asked to terminate, as all ranks are
        _leave(watch, store, rank, size)
        raise
    except BaseException as error:
        sentence = describe(error, names[rank])  # what started the ranks may end this one before the culprit is known

        def told_to_end(*_):
            print(sentence, file=sys.stderr, flush=True)
            os._exit(1)

        signal.signal(signal.SIGTERM, told_to_end)
        raise watch.failed(error) from error
    _leave(watch, store, rank, size)


def _leave(watch: Watchdog, store: dist.Store, rank: int, size: int) -> None:
    if rank == 0:  # it may serve the store: the others leave first
        store.wait([f"left/{other}" for other in range(1, size)], JOIN)
    watch.leave()
    store.set(f"left/{rank}", "")
