"""Symmetric memory without GPUs: the operators that are called exist, and streams and buffers are used in order."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from ladder.errors import UserError
from ladder.parallel import symmetric
from ladder.parallel.symmetric import WAYS, SymmetricMemory


@pytest.fixture
def two_equal_ranks():
    """torch's operators on the CPU: the other rank holds the same. Registering one that torch lacks is an error."""
    library = torch.library.Library("symm_mem", "IMPL")

    def out(buffer, op, group, result):
        assert (op, group) == ("sum", "tp")
        return result.copy_(2 * buffer)

    def in_place(buffer, op, group):
        assert (op, group) == ("sum", "tp")
        return buffer.mul_(2)

    library.impl("one_shot_all_reduce_out", out, "CPU")
    library.impl("two_shot_all_reduce_", in_place, "CPU")
    library.impl("multimem_all_reduce_", in_place, "CPU")
    yield
    library._destroy()


@pytest.mark.parametrize("how", WAYS)
def test_the_operators_exist_with_these_arguments(how, two_equal_ranks):
    buffer, result = torch.ones(2, 3), torch.zeros(2, 3)
    WAYS[how](buffer, result, "tp")
    assert torch.equal(result, torch.full((2, 3), 2.0))


class Stream:
    """Notes who waits for whom."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for {event}")

    def record_event(self):
        self.log.append(f"{self.name} records")
        return "the event"


@pytest.fixture
def gpu(monkeypatch, two_equal_ranks):
    """What SymmetricMemory asks of torch, on the CPU: (log of streams, settings)."""
    log, made = [], SimpleNamespace(multicast_ptr=1, buffers=0, error=None)

    @contextmanager
    def stream(which):
        yield log.append(f"on {which.name}")

    def rendezvous(buffer, group):
        if made.error:
            raise RuntimeError(made.error)
        made.buffers += 1
        return made

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda priority: Stream("side", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("compute", log))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(symmetric, "DEVICE", "cpu")
    monkeypatch.setattr(symmetric.symmetric_memory, "empty", torch.empty)
    monkeypatch.setattr(symmetric.symmetric_memory, "rendezvous", rendezvous)
    return log, made


GROUP = SimpleNamespace(size=lambda: 2, group_name="tp")


@pytest.mark.parametrize("how", WAYS)
def test_launch_and_wait(gpu, how):
    """The side stream waits for the partial; the compute stream waits for the sum, and only when asked to."""
    log, made = gpu
    communicator = SymmetricMemory(GROUP, how)
    with torch.inference_mode():
        first, second = torch.ones(4), torch.full((4,), 3.0)
        handles = [communicator.all_reduce(first), communicator.all_reduce(second)]
        assert log == 2 * ["side waits for compute", "on side", "side records"]
        assert [handle.wait().tolist() for handle in handles] == [[2.0] * 4, [6.0] * 4]
    assert log[6:] == 2 * ["compute waits for the event"]
    assert made.buffers == 2  # of the probe, and one of this shape
    communicator.all_reduce(torch.ones(4))  # outside inference mode, the same buffer
    assert made.buffers == 2


def test_refusals_are_one_sentence(gpu, monkeypatch):
    _, made = gpu
    with pytest.raises(UserError, match="unknown way of summing 'ring'; known: multimem, one-shot, two-shot"):
        SymmetricMemory(GROUP, "ring")
    with pytest.raises(UserError, match=r"one-shot sums fp32 and bf16, not torch.float16; use nccl"):
        SymmetricMemory(GROUP, "one-shot").all_reduce(torch.ones(4, dtype=torch.float16))
    made.multicast_ptr = 0
    SymmetricMemory(GROUP, "two-shot")
    with pytest.raises(UserError, match="backend multimem: no NVLink switch"):
        SymmetricMemory(GROUP, "multimem")
    made.error = "peer access is not supported\nand a trace"
    with pytest.raises(UserError, match=r"share no memory \(peer access is not supported\); use nccl"):
        SymmetricMemory(GROUP, "one-shot")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="backend one-shot needs GPUs"):
        SymmetricMemory(GROUP, "one-shot")
