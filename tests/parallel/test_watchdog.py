"""A rank that dies, stops, hangs or fails is named, and the others end at once."""

import errno
import os
import signal
import socket
import sys
import time

import pytest
import torch
import torch.distributed as dist
from fleet import together

from ladder.errors import UserError
from ladder.parallel import group
from ladder.parallel.watchdog import describe

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


def last():
    print("at the end", file=sys.stderr, flush=True)
    hangs()  # as when what it tells does not answer


def falls(these: group.Group, who: int, what) -> None:
    dist.all_reduce(torch.ones(1))
    these.watch.at_end = last
    if these.world_rank == who:
        what()
    dist.all_reduce(torch.ones(1))


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("what", "who", "sentence"),
    [
        (killed, 0, "rank 0 on {here} is gone, and with it the store"),
        (killed, 1, "no sign of life from rank 1 on {here}"),
        (stopped, 0, "rank 0 on {here} has not answered for 0.8 s"),
        (stopped, 1, "no sign of life from rank 1 on {here}"),
        (raises, 0, "rank 0 on {here} failed: RuntimeError: logits are off (test_watchdog.py:"),
        (raises, 1, "rank 1 on {here} failed: RuntimeError: logits are off (test_watchdog.py:"),
        (refuses, 0, "no such link"),
        (refuses, 1, "no such link"),
        (hangs, 0, "stuck: rank 0 on {here}, for 0.8 s not come to a collective"),
        (hangs, 1, "stuck: rank 1 on {here}, for 0.8 s not come to a collective"),
    ],
)
def test_the_other_rank_says_who_fell(tmp_path, what, who, sentence):
    ended = together(2, tmp_path, falls, who, what, limits=FAST, timing=True)
    assert ended[1 - who] == 1
    said, at_end = (tmp_path / f"{1 - who}.err").read_text().splitlines()[-2:]  # torch may say more
    assert said.startswith(sentence.format(here=HERE))
    assert at_end == "at the end"


LAUNCHED = """
import sys
who, what, folder, sys.argv = int(sys.argv[1]), sys.argv[2], sys.argv[3], ["ladder"]  # no model is needed
import os, signal
from functools import partial
import torch
import torch.distributed as dist
from ladder.errors import tell
from ladder.parallel import group

group.Watchdog = partial(group.Watchdog, interval=0.05, patience=0.8)
try:
    with group.join("cpu", timing=True) as these:
        these.watch.at_end = lambda: open(f"{folder}/{these.world_rank}", "w").close()
        dist.all_reduce(torch.ones(1))
        if these.world_rank == who:
            if what == "raises":
                raise RuntimeError("logits are off")
            os.kill(os.getpid(), getattr(signal, what))
        dist.all_reduce(torch.ones(1))
except ValueError as error:
    tell(str(error))
    sys.exit(1)
"""


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("what", "who", "sentence"),
    [
        ("SIGKILL", 1, r"^rank 1 on {here} was killed by SIGKILL"),
        ("SIGSTOP", 0, r"^no sign of life from rank 0 on {here} for 0.8 s"),
        ("raises", 0, r"^rank 0 on {here} failed: RuntimeError: logits are off \(<string>:\d+\)$"),
    ],
)
def test_who_fell_of_ranks_launched_here(what, who, sentence, tmp_path, capfd):
    """The launcher says it, and nobody else; one that it ends comes to its end in order."""
    before = signal.getsignal(signal.SIGINT)  # which a job in the background may ignore
    with pytest.raises(UserError, match=sentence.format(here=HERE)):
        group.launch(2, [sys.executable, "-c", LAUNCHED, str(who), what, str(tmp_path)])
    assert capfd.readouterr().err == ""
    assert (tmp_path / str(1 - who)).exists()
    assert signal.getsignal(signal.SIGINT) is before


def sleeps(these: group.Group) -> str:
    dist.all_reduce(torch.ones(1))
    if these.first:
        time.sleep(3 * FAST["stuck"])  # as when it checks the unsharded model
    these.meet()
    dist.all_reduce(torch.ones(1))
    return "done"


def pauses(these: group.Group) -> str:
    if these.world_rank == 1 and not os.fork():
        time.sleep(FAST["patience"] / 2)
        os.kill(os.getppid(), signal.SIGCONT)
        os._exit(0)
    if these.world_rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.all_reduce(torch.ones(1))
    return "done"


@pytest.mark.ranks
@pytest.mark.parametrize("work", [sleeps, pauses])
def test_ranks_may_wait_for_each_other_and_stop_for_a_moment(work, tmp_path):
    assert together(2, tmp_path, work, limits=FAST, timing=True) == ["done", "done"]


def test_a_full_disk_on_a_rank_is_the_sentence_of_all_full_disks():
    said = describe(OSError(errno.ENOSPC, "No space left on device", "link.json"), "rank 1 on here")
    assert said.startswith("rank 1 on here: link.json: the disk is full")
