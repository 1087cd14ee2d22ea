"""The emulated link of a GPU on a machine without one: streams on a clock of their own, and the kernel's duration."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from ladder.errors import UserError
from ladder.parallel.emulated_stream import EmulatedStream

FLOOR = 5e-6  # seconds that launching and joining take on the pretended GPU


class Stream:
    """A queue of work that ends at ``end`` seconds."""

    def __init__(self, **_):
        self.end = 0.0

    def wait_stream(self, other):
        self.end = max(self.end, other.end)

    def wait_event(self, event):
        self.end = max(self.end, event.end)

    def record_event(self):
        return SimpleNamespace(end=self.end)


@pytest.fixture
def gpu(monkeypatch):
    """What EmulatedStream asks of torch: the compute stream, and what the kernel was launched with."""
    compute, launched = Stream(), []
    now = [compute]

    @contextmanager
    def stream(which):
        now.append(which)
        yield
        now.pop()

    def kernel(grid, block, arguments):
        (nanoseconds,) = arguments
        assert nanoseconds < 2**31  # torch passes a C int
        launched.append((grid[0], block[0], nanoseconds))
        now[-1].end += FLOOR + nanoseconds * 1e-9

    class Graph:
        def replay(self):
            compute.end += self.length

    @contextmanager
    def capture(graph):
        start = compute.end
        yield
        graph.length = compute.end - start
        compute.end = start

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = compute.end

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return (end.at - self.at) * 1e3

    for name, fake in {
        "Stream": Stream,
        "stream": stream,
        "CUDAGraph": Graph,
        "graph": capture,
        "Event": Event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: now[-1])
    monkeypatch.setattr(torch.cuda, "_compile_kernel", lambda source, name: kernel)
    monkeypatch.setattr("ladder.parallel.emulated_stream.DEVICE", "cpu")
    return compute, launched


def test_an_all_reduce_takes_alpha_and_its_bytes(gpu):
    compute, launched = gpu
    link = EmulatedStream(8, 24e-6, 1e-9)
    assert link.floor == pytest.approx(FLOOR)
    assert link.error == pytest.approx(0, abs=1e-6)
    start = compute.end = link.stream.end + 1.0
    value = torch.ones(250)  # 1000 bytes
    assert link.all_reduce(value).wait() is value
    assert compute.end - start == pytest.approx(25e-6)
    assert launched[-1][:2] == (1, 1)


def test_it_runs_behind_compute_one_at_a_time(gpu):
    compute, _ = gpu
    link = EmulatedStream(8, 20e-6)
    start = compute.end = link.stream.end
    first = link.all_reduce(torch.ones(1))
    compute.end += 12e-6  # a module
    second = link.all_reduce(torch.ones(1))
    first.wait()
    assert compute.end - start == pytest.approx(20e-6)
    second.wait()
    assert compute.end - start == pytest.approx(40e-6)  # not 32: the link was busy


def test_it_may_keep_multiprocessors_busy(gpu):
    _, launched = gpu
    EmulatedStream(8, 24e-6, blocks=4).all_reduce(torch.ones(1))
    assert launched[-1][:2] == (4, 512)


def test_what_launching_alone_takes_longer_than_is_refused(gpu):
    with pytest.raises(UserError, match=r"4\.0 us cannot be emulated on this GPU: .* alone take 5\.0 us"):
        EmulatedStream(8, 4e-6)
