"""Bytes of a decode step, compared with a built shard's; the arithmetic of a measured bandwidth."""

import pytest
import torch

from ladder.bench import bandwidth
from ladder.bench.bandwidth import copy_bandwidth, step_bytes
from ladder.bench.plain import random_weight
from ladder.model.modeling import LadderConfig
from ladder.parallel.shard import build

SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 40,
}
BATCH, LENGTH = 3, 11


@pytest.mark.parametrize("tp", [1, 2, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_step_bytes_are_the_weights_and_caches_that_a_step_reads(tied, tp):
    config = LadderConfig(**SHAPE, tie_word_embeddings=tied)
    shard = build(config, 0, tp, random_weight(0, dtype=torch.bfloat16), replicate_kv=tp > 4)
    read = sum(p.nbytes for name, p in shard.named_parameters() if "embed_tokens" not in name)
    # tied: the embedding is the head; otherwise one row for each sequence is looked up
    read += shard.lm_head.weight.nbytes if tied else BATCH * 32 * 2
    kv_heads = max(1, 4 // tp)
    read += 2 * 2 * kv_heads * 4 * BATCH * LENGTH * 2  # layers, K and V, heads of size 4, positions, bf16
    assert step_bytes(config, tp, BATCH, LENGTH, 2, replicate_kv=tp > 4) == read


def test_no_more_than_the_whole_embedding_is_read():
    config = LadderConfig(**SHAPE)
    assert step_bytes(config, 1, 100, 0, 2) == step_bytes(config, 1, 40, 0, 2)


def test_a_copy_reads_and_writes(monkeypatch):
    """On a clock on which every copy takes half a second."""
    ticks = iter(i * 0.5 for i in range(1000))
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(ticks))
    found = copy_bandwidth("cpu", torch.float32, rounds=5, size=4096)
    assert found == {"value": 16384, "low": 16384, "high": 16384, "n": 5}


def test_buffers_fit_the_memory_that_is_free(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(bandwidth, "available", lambda device: 4000)
    assert copy_bandwidth("cpu", torch.bfloat16, rounds=2)["value"] == 2 * 1000


def test_a_real_copy_with_as_many_threads_as_asked_for(monkeypatch):
    before, seen = torch.get_num_threads(), []
    real = bandwidth._cpu_copy

    def noted(target, source):
        seen.append(torch.get_num_threads())
        return real(target, source)

    monkeypatch.setattr(bandwidth, "_cpu_copy", noted)
    found = copy_bandwidth("cpu", torch.bfloat16, threads=before + 1, rounds=4, size=2**16)
    assert found["n"] == 4
    assert 0 < found["low"] <= found["value"] <= found["high"]
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
