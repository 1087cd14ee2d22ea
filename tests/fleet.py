"""Ranks for tests: forked from a process that has imported torch already, so that starting one takes a moment."""

import multiprocessing
import os
import socket
import sys
from functools import partial
from multiprocessing import connection
from pathlib import Path

import torch

from ladder.errors import UserError, tell
from ladder.parallel import group

PATIENCE = {"interval": 0.05, "patience": 2.0, "stuck": 2.0}  # seconds until a silent rank counts as dead


def together(size: int, folder: Path, work, *arguments, limits: dict = PATIENCE, **how) -> list:
    """``work(these, *arguments)`` on ``size`` ranks over gloo: what each returned, or how it came to its end (int).

    None of a rank that hangs while another has come to its end. Their standard error is in ``folder``, a file a rank.
    limits: of the watchdog. how: of :func:`ladder.parallel.group.join`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ladder.train.run"])  # it finds what is installed, not what lies here
    started, found = [], [None] * size
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=main, args=(rank, size, port, folder, sender, work, arguments, limits, how))
        process.start()
        sender.close()
        started.append((process, receiver))
    waiting, limit = {receiver: rank for rank, (_, receiver) in enumerate(started)}, 120
    while waiting and (ready := connection.wait(list(waiting), limit)):
        for receiver in ready:
            rank = waiting.pop(receiver)
            try:
                found[rank] = receiver.recv()
            except EOFError:
                started[rank][0].join()
                found[rank], limit = started[rank][0].exitcode, limits["patience"] + 1
    for process, _ in started:
        process.kill()
        process.join()
    return found


def main(rank: int, size: int, port: int, folder: Path, sender, work, arguments, limits, how) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in names.items()}
    errors = (folder / f"{rank}.err").open("w")
    os.dup2(errors.fileno(), sys.stderr.fileno())
    torch.set_num_threads(1)
    group.Watchdog = partial(group.Watchdog, **limits)
    try:
        with group.join("cpu", **how) as these:
            result = work(these, *arguments)
    except UserError as error:
        tell(str(error))
        sys.exit(1)
    sender.send(result)
