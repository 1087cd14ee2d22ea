"""A rank that dies, stops, hangs or fails is named, and the others end at once."""

import multiprocessing
import os
import signal
import socket
import sys
import time

import pytest
import torch
import torch.distributed as dist

from ladder.bench import launch
from ladder.errors import UserError

pytestmark = pytest.mark.ranks

FAST = {"interval": 0.05, "patience": 0.8, "stuck": 0.8}
HERE = socket.gethostname()


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)


def raises():
    raise RuntimeError("logits are off\nand more lines")


def refuses():
    raise UserError("no such link")


def hangs():
    time.sleep(60)


def work(rank: int, local_rank: int, who: int, what):
    dist.all_reduce(torch.ones(1))
    if rank == who:
        what()
    dist.all_reduce(torch.ones(1))


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (killed, r"^rank {who} on {here} was killed by SIGKILL"),
        (stopped, r"^no sign of life from rank {who} on {here} for 0.8 s"),
        (raises, r"^rank {who} on {here} failed: RuntimeError: logits are off \(test_watchdog.py:\d+\)$"),
        (refuses, "^no such link$"),
        (hangs, "^stuck: rank {who} on {here}, for 0.8 s not come to a collective"),
    ],
)
def test_ranks_started_here(what, sentence, who):
    with pytest.raises(UserError, match=sentence.format(who=who, here=HERE)):
        launch._start(work, (who, what), 2, "cpu", "gloo", **FAST)


def last():
    print("at the end", file=sys.stderr, flush=True)
    hangs()  # as when what it tells does not answer


def joined(rank: int, port: int, who: int, what, errors) -> None:
    """A rank that something else has started; rank 0 serves the store."""
    sys.stderr = errors.open("w")
    place = launch.Place(rank, rank, 2, "127.0.0.1", port, served=False)
    try:
        launch._run(place, work, (who, what), "cpu", "gloo", at_end=last, **FAST)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)


@pytest.mark.parametrize(
    ("what", "who", "sentence"),
    [
        (killed, 0, "rank 0 on {here} is gone, and with it the store"),
        (killed, 1, "no sign of life from rank 1 on {here}"),
        (stopped, 0, "rank 0 on {here} has not answered for 0.8 s"),
        (stopped, 1, "no sign of life from rank 1 on {here}"),
        (raises, 0, "rank 0 on {here} failed: RuntimeError: logits are off"),
        (raises, 1, "rank 1 on {here} failed: RuntimeError: logits are off"),
    ],
)
def test_ranks_that_something_else_started(tmp_path, what, who, sentence):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    errors = [tmp_path / "0", tmp_path / "1"]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=joined, args=(rank, port, who, what, errors[rank])) for rank in range(2)]
    for rank in ranks:
        rank.start()
    try:
        ranks[1 - who].join(30)
        assert ranks[1 - who].exitcode == 1
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    said, at_end = errors[1 - who].read_text().splitlines()
    assert sentence.format(here=HERE) in said
    assert at_end == "at the end"


def sleeps(rank: int, local_rank: int):
    dist.all_reduce(torch.ones(1))
    if rank == 0:
        time.sleep(3 * FAST["stuck"])  # as when it checks the unsharded model
    launch.meet("checked")
    dist.all_reduce(torch.ones(1))
    return "done"


def test_ranks_that_are_to_wait_may():
    assert launch._start(sleeps, (), 2, "cpu", "gloo", **FAST) == "done"


def pauses(rank: int, local_rank: int):
    if rank == 1 and not os.fork():
        time.sleep(FAST["patience"] / 2)
        os.kill(os.getppid(), signal.SIGCONT)
        os._exit(0)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.all_reduce(torch.ones(1))
    return "done"


def test_a_short_stop_is_forgiven():
    assert launch._start(pauses, (), 2, "cpu", "gloo", **FAST) == "done"
