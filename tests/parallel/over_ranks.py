"""Processes that do what tests tell them, started once for a file."""

import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh


class Ranks:
    """``world`` processes, started once, that do what they are told together."""

    def __init__(self, world, store):
        context = torch.multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ladder.train.run"])  # imports torch and transformers once for all
        self.told, self.done = [context.Queue() for _ in range(world)], context.Queue()
        arguments = [(rank, world, store, queue, self.done) for rank, queue in enumerate(self.told)]
        self.processes = [context.Process(target=main, args=a, daemon=True) for a in arguments]
        for process in self.processes:
            process.start()

    def run(self, work, *args):
        for queue in self.told:
            queue.put((work, args))
        errors = [error for error in (self.done.get(timeout=300) for _ in self.told) if error]
        assert not errors, errors[0]

    def stop(self):
        for process in self.processes:
            process.kill()


def main(rank, world, store, told, done):
    torch.set_num_threads(1)
    limit = timedelta(minutes=4)  # a lost rank ends the test instead of hanging it
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=limit)
    mesh = init_device_mesh("cpu", (world,))
    while True:
        work, args = told.get()
        try:
            work(mesh, *args)
            done.put(None)
        except BaseException:
            done.put(traceback.format_exc())
