"""Start ranks on this machine, or join those that torchrun or SLURM started: the same command in all three cases."""

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from itertools import count
from multiprocessing import connection
from pathlib import Path

import torch
import torch.distributed as dist

from ladder.errors import UserError
from ladder.parallel.communicators import precise_sleep
from ladder.parallel.watchdog import FAILED, Watchdog

JOIN = 300.0  # seconds within which all ranks must be there
COLLECTIVE = timedelta(minutes=1)  # within which all ranks must come to a collective
_runs = count()  # one after the other in the same store, with keys of their own
_store: dist.Store | None = None  # of the group that this process is in


@dataclass
class Place:
    """One rank's place in a group whose store is at ``host``:``port``; ``served``: by another process than rank 0."""

    rank: int
    local_rank: int
    size: int
    host: str
    port: int
    served: bool
    prefix: str = "ladder"
    alone: bool = False  # started by run_ranks, which speaks for its ranks


def run_ranks(
    work, arguments: tuple, size: int, device: str, backend: str | None = None, prepare=None, at_end=lambda: None
):
    """``work(rank, local_rank, *arguments)`` on ``size`` ranks in one process group; rank 0's result, None elsewhere.

    Under torchrun or srun this process is one rank, and all ranks must make the same calls; otherwise ranks are started
    here, and ``work`` and its result must be picklable. A rank waits for the others up to a minute in a collective, and
    as long as it takes in :func:`meet`. backend: torch's, by default gloo on the CPU and nccl on CUDA.
    ``prepare(rank)`` is called on a rank before the process group connects; ``at_end()`` in this process if another
    rank's failure ends it. Raises UserError naming the rank that failed or died.
    """
    place = this_place()
    if place and place.size != size:
        raise UserError(f"{place.size} ranks were started for tensor-parallel degree {size}; make them equal")
    if device == "cuda":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if place else size
        if torch.cuda.device_count() < local:
            raise UserError(f"tp {size} on cuda needs as many GPUs; this machine has {torch.cuda.device_count()}")
    backend = backend or ("nccl" if device == "cuda" else "gloo")
    if place:
        place = replace(place, prefix=f"{place.prefix}/{next(_runs)}")
        return _run(place, work, arguments, device, backend, prepare, at_end)
    return _start(work, arguments, size, device, backend, prepare)


def this_rank() -> int | None:
    """This process's rank if torchrun or SLURM started it as one of several, else None."""
    place = this_place()
    return place and place.rank


def meet(what: str) -> None:
    """Wait, as long as it takes, until every rank has come to ``what`` (a name used once); a dead rank ends it."""
    _store.set(f"{what}/{dist.get_rank()}", "")
    _store.wait([f"{what}/{rank}" for rank in range(dist.get_world_size())], timedelta(days=1))


def hosts() -> list[str]:
    """The machine of each rank."""
    return [_store.get(f"host/{rank}").decode() for rank in range(dist.get_world_size())]


def this_place() -> Place | None:
    """From the environment of torchrun, or of a SLURM step with several tasks; None outside both."""
    env = os.environ
    if {"WORLD_SIZE", "RANK", "LOCAL_RANK"} <= env.keys():
        where = (env.get("MASTER_ADDR", "127.0.0.1"), int(env.get("MASTER_PORT", 29500)))
        served = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        prefix = f"ladder{env.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        return Place(int(env["RANK"]), int(env["LOCAL_RANK"]), int(env["WORLD_SIZE"]), *where, served, prefix)
    # A batch script has SLURM_PROCID too, but is no task of a step.
    keys = {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_STEP_ID"}
    if int(env.get("SLURM_NTASKS", 1)) > 1 and keys <= env.keys():
        host = env.get("MASTER_ADDR") or _first_host(env["SLURM_JOB_NODELIST"])
        # Below the ports that the kernel gives to clients; another one for each step of a job.
        number = 31 * int(env["SLURM_JOB_ID"]) + int(env["SLURM_STEP_ID"])
        port = int(env.get("MASTER_PORT") or 15000 + number % 15000)
        sizes = (int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"]), int(env["SLURM_NTASKS"]))
        return Place(*sizes, host, port, served=False)
    return None


def _first_host(nodes: str) -> str:
    try:
        found = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return found.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        raise UserError(f"scontrol cannot name the hosts of SLURM_JOB_NODELIST={nodes}; set MASTER_ADDR") from None


def _run(place: Place, work, arguments: tuple, device: str, backend: str, prepare=None, at_end=lambda: None, **limits):
    """Be one rank."""
    global _store
    torch.set_num_threads(1)
    precise_sleep()
    _store = store = _join(place)
    names = [f"rank {rank} on {store.get(f'host/{rank}').decode()}" for rank in range(place.size)]
    keeper = names[0] if not place.served else f"the process that started the ranks ({place.host}:{place.port})"
    own = dist.PrefixStore(place.prefix, _connection(place.host, place.port, False))
    watch = Watchdog(own, place.rank, names, keeper, quiet=place.alone, **limits)
    watch.at_end = at_end
    try:
        if prepare:
            prepare(place.rank)
        device_id = None
        if device == "cuda":
            # A SLURM task may see its own GPU only.
            local = 0 if torch.cuda.device_count() == 1 else place.local_rank
            torch.cuda.set_device(local)
            device_id = torch.device("cuda", local) if backend == "nccl" else None
        own_store = dist.PrefixStore("group", store)
        dist.init_process_group(
            backend, store=own_store, rank=place.rank, world_size=place.size, timeout=COLLECTIVE, device_id=device_id
        )
        watch.progress = _launched
        found = work(place.rank, place.local_rank, *arguments)
        meet("end")
        dist.destroy_process_group()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise watch.failed(error) from error
    if place.rank == 0:  # it may serve the store: the others leave first
        store.wait([f"left/{rank}" for rank in range(1, place.size)], COLLECTIVE)
    watch.leave()
    store.set(f"left/{place.rank}", "")
    return found if place.rank == 0 else None


def _launched() -> int:
    """Collectives that this rank has launched, where torch counts them."""
    try:
        return dist.group.WORLD._get_sequence_number_for_group()
    except (AttributeError, RuntimeError):
        return 0


def _join(place: Place) -> dist.Store:
    """The group's store, once all ranks have signed in there. Raises UserError naming who is missing."""
    where = f"the store at {place.host}:{place.port}, through which the ranks meet"
    try:
        store = _kept_connection(place.host, place.port, place.rank == 0 and not place.served)
    except RuntimeError as error:
        raise UserError(f"rank {place.rank} cannot open {where}: {str(error).splitlines()[0]}") from None
    store = dist.PrefixStore(place.prefix, store)
    keys = [f"host/{rank}" for rank in range(place.size)]
    try:
        store.set(f"beat/{place.rank}", "0 0")
        store.set(keys[place.rank], socket.gethostname())
        store.wait(keys)
    except dist.DistStoreError:
        missing = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
        raise UserError(f"of {place.size} ranks, these did not come in {JOIN:g} s: {', '.join(missing)}") from None
    except RuntimeError:
        raise UserError(f"rank {place.rank} has lost {where}") from None
    return store


def _connection(host: str, port: int, serve: bool) -> dist.TCPStore:
    return dist.TCPStore(host, port, is_master=serve, timeout=timedelta(seconds=JOIN), wait_for_workers=False)


_kept_connection = cache(_connection)  # a server must outlive one run


def _start(work, arguments: tuple, size: int, device: str, backend: str, prepare=None, **limits):
    """Start all ranks here and wait for them."""
    # CPU ranks are forked, which spares each the seconds of importing torch; CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn" if device == "cuda" else "fork")
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = dist.PrefixStore("ladder", server)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        places = [Place(r, r, size, "127.0.0.1", server.port, served=True, alone=True) for r in range(size)]
        processes = [
            context.Process(target=_started, args=(place, result, work, arguments, device, backend, prepare, limits))
            for place in places
        ]
        try:
            for process in processes:
                process.start()
            running = {process.sentinel: rank for rank, process in enumerate(processes)}
            while running:
                for sentinel in connection.wait(list(running)):
                    rank = running.pop(sentinel)
                    processes[rank].join()
                    if code := processes[rank].exitcode:
                        said = store.get(FAILED).decode() if store.check([FAILED]) else None
                        raise UserError(said or f"rank {rank} on {socket.gethostname()} {_end(code)}")
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()
        return pickle.loads(result.read_bytes())


def _end(code: int) -> str:
    """How a process with this exit code came to its end."""
    if code > 0:
        return f"exited with {code}"
    hint = " (by the kernel, if memory ran out)" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"


def _started(place: Place, result: Path, work, arguments: tuple, device: str, backend: str, prepare, limits) -> None:
    try:
        found = _run(place, work, arguments, device, backend, prepare, **limits)
    except (UserError, KeyboardInterrupt):
        os._exit(1)  # the store has the sentence
    if place.rank == 0:
        result.write_bytes(pickle.dumps(found))
