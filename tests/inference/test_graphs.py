"""CUDA graphs without a GPU: what capture and replay ask of torch, with a graph that runs its recording again."""

from contextlib import contextmanager

import pytest
import torch

from ladder.bench.plain import logits, random_weight
from ladder.bench.point import BenchCase, check_path
from ladder.inference import engine
from ladder.inference.fused import Fused
from ladder.model.modeling import LadderConfig
from ladder.parallel.communicators import Solo

CONFIG = LadderConfig(
    num_hidden_layers=2, hidden_size=32, intermediate_size=48, vocab_size=64, num_attention_heads=4, wiring="standard"
)
all_reduce = Solo().all_reduce


@pytest.fixture
def gpu(monkeypatch):
    """A graph's replay runs the captured forward anew and writes into the captured logits. Returns pools asked for."""
    pools, running = [], {}
    forward = engine.Engine._forward

    class Graph:
        def replay(self):
            owner, phase, out = self.recorded
            out.copy_(forward(owner, phase))

    @contextmanager
    def capture(graph, pool=None, capture_error_mode=None):
        assert capture_error_mode == "thread_local"
        pools.append(pool)
        running["graph"] = graph
        yield
        del running["graph"]

    def recorded(self, phase):
        out = forward(self, phase)
        if "graph" in running:
            running["graph"].recorded = (self, phase, out)
        return out

    class Stream:
        def wait_stream(self, other):
            pass

    @contextmanager
    def stream(which):
        yield

    monkeypatch.setattr(engine.Engine, "_forward", recorded)
    fakes = {"Stream": Stream, "stream": stream, "current_stream": Stream, "CUDAGraph": Graph, "graph": capture}
    for name, fake in {**fakes, "synchronize": lambda: None}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    eager = engine.pieces("eager", "cpu")
    monkeypatch.setattr(engine, "pieces", lambda compute, device: eager)
    return pools


@pytest.mark.parametrize("wiring", ["standard", "ladder", "parallel", "upper_bound"])
def test_captured_steps_give_the_plain_models_logits(gpu, wiring):
    point = BenchCase(CONFIG, 2, 2, 5, 4, (wiring,), compute=("graphs",))
    assert check_path(point, Fused(point.shard(0)), all_reduce)[wiring, "graphs"] < 1e-5
    assert len(gpu) == 2  # prefill and decode


def test_capturing_leaves_no_trace_in_what_follows(gpu):
    """Warming up writes into the cache and moves the position: a prefill starts over."""
    point = BenchCase(CONFIG, 2, 1, 5, 4, ("ladder",), compute=("graphs",))
    fused = Fused(point.shard(0, random_weight(1)))
    captured, eager = (point.engine(fused, "ladder", all_reduce, compute) for compute in ("graphs", "eager"))
    captured.capture(pool="shared")
    for _ in range(2):
        torch.testing.assert_close(logits(captured, 4), logits(eager, 4))
    assert gpu == ["shared", "shared"]
