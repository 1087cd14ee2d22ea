"""vLLM's worker on a CPU for `ladder bench serve`: several engines share few cores, and ranks may be far apart."""

import json
import os
from types import SimpleNamespace

from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.v1.worker.cpu_worker import CPUWorker

from ladder.bench.slowpath import slow_path

SLOW = "LADDER_SLOW_PATH"  # in the environment: [folder of the forwarder, port of the ranks' store]


class Worker(CPUWorker):
    """A rank that leaves its core while it waits for work, and that joins the others over a slow path, if asked to."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        SpinCondition.__init__.__defaults__ = (0.0,)  # seconds that a rank spins; it would take other engines' time

    def init_device(self) -> None:
        if not os.environ.get(SLOW):
            return super().init_device()
        folder, port = json.loads(os.environ[SLOW])
        self.distributed_init_method = f"tcp://10.77.0.1:{port}"  # of rank 0
        CpuCommunicator._all_group_ranks_share_shm_group_name = lambda self: False  # which would not be slow
        rank = SimpleNamespace(first=False, world_rank=self.rank, meet=lambda said="": folder)
        self.path = slow_path(0.0, rank)
        self.path.__enter__()
        return super().init_device()
