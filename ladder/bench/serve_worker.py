"""vLLM's worker on a CPU for `ladder bench serve`: several engines share few cores, and ranks may be far apart."""

import json
import os
import time
from types import SimpleNamespace

from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.v1.worker.cpu_worker import CPUWorker

from ladder.bench.slowpath import slow_path

SLOW = "LADDER_SLOW_PATH"  # in the environment: [folder of the forwarder, port of the ranks' store]


NAP = 2e-4  # seconds

# A process that waits for another would spin for a second, on a core that the other engines' ranks need.
SpinCondition.wait = lambda self, timeout_ms=None: time.sleep(NAP)


class Worker(CPUWorker):
    """A rank that joins the others over a slow path, if asked to."""

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
