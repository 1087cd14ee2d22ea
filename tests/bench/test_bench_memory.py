"""What a rank needs, compared with what is really built, cached and computed."""

import re
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ladder.bench import memory
from ladder.bench.memory import check_fits, in_flight, need
from ladder.bench.plain import Decoder, random_weight
from ladder.cost import GIB
from ladder.errors import UserError
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.sizes import SIZES
from ladder.parallel.communicators import Solo
from ladder.parallel.shard import build
from ladder.wiring import table

SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 40,
}
CONFIGS = {
    "untied": SHAPE,
    "tied": SHAPE | {"tie_word_embeddings": True},
    "biases": SHAPE | {"attention_bias": True, "mlp_bias": True},
    "wide heads": SHAPE | {"head_dim": 16},
    "signal": SHAPE | {"wiring": "fal"},
}


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("name", CONFIGS)
def test_weights_are_those_of_a_built_shard(name, tp):
    config = LadderConfig(**CONFIGS[name])
    for rank in {0, tp - 1}:
        shard = build(config, rank, tp, random_weight(0), replicate_kv=tp > 4)
        found = need(config, tp, 1, 8, 4, replicate_kv=tp > 4).weights
        assert found == sum(parameter.nbytes for parameter in shard.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_one_rank_holds_the_whole_model(name):
    size = SIZES[name]
    config = LadderConfig(**size.config())
    with torch.device("meta"):
        weights = [parameter.numel() for parameter in LadderForCausalLM(config).parameters()]
    found = need(config, 1, 1, 8, 2)
    assert (found.weights, found.loading) == (2 * sum(weights), 2 * max(weights))
    assert size.parameters == sum(weights)


@pytest.mark.parametrize("tp", [2, 8])
def test_caches_are_those_of_a_decoder(tp):
    config = LadderConfig(**SHAPE)
    shard = build(config, 0, tp, random_weight(0), replicate_kv=True)
    rows, ids = table("standard", shard.config.num_hidden_layers, tp), torch.zeros(3, 11, dtype=torch.long)
    decoder = Decoder(shard, rows, ids, 6, Solo().all_reduce)
    decoder.prefill()
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in decoder.cache.layers)
    found = [need(config, tp, 3, 11, 4, True, caches=caches).kv for caches in (1, 4)]
    assert found == [held, 4 * held]


class Peak(TorchDispatchMode):
    """Most bytes at once in storages made while the block lasts."""

    def __init__(self):
        super().__init__()
        self.live, self.bytes = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)}
        for tensor in (x for x in tree_iter(result) if isinstance(x, torch.Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in given | self.live.keys():
                self.live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, storage._cdata, None)
        self.bytes = max(self.bytes, sum(self.live.values()))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tp", "intermediate"), [(1, 224), (4, 128)])
@pytest.mark.parametrize("wiring", ["standard", "ladder", "parallel", "partial", "desync-4x", "dtp-4"])
def test_activations_are_near_a_real_prefills_peak(wiring, tp, intermediate, dtype):
    """Never below it, and at most three times as much."""
    changes = {"hidden_size": 64, "intermediate_size": intermediate, "num_hidden_layers": 3}
    config = LadderConfig(**SHAPE | changes)
    shard = build(config, 0, tp, random_weight(0, dtype=dtype))
    decoder = Decoder(
        shard, table(wiring, config.num_hidden_layers, tp), torch.zeros(4, 80, dtype=torch.long), 64, Solo().all_reduce
    )
    decoder.prefill()  # makes the cache
    with Peak() as peak:
        decoder.prefill()
    flying = in_flight(decoder.rows)
    estimate = need(config, tp, 4, 80, dtype.itemsize, prompt=64, in_flight=flying).activations
    assert peak.bytes <= estimate <= 3 * peak.bytes


def test_sums_in_flight():
    found = {
        w: in_flight(table(w, 8, 2)) for w in ("upper_bound", "standard", "ladder", "partial", "ladder-3", "dtp-4")
    }
    assert found == {"upper_bound": 0, "standard": 1, "ladder": 2, "partial": 4, "ladder-3": 4, "dtp-4": 10}


def test_loading_needs_the_largest_weight_twice():
    found = need(LadderConfig(**SHAPE | {"vocab_size": 4000}), 2, 1, 8, 2)
    assert found.loading == 4000 * 32 * 2 > found.kv + found.activations
    assert found.total == found.weights + found.loading
    found = need(LadderConfig(**SHAPE), 2, 64, 8, 2)
    assert found.total == found.weights + found.kv + found.activations


LLAMA = LadderConfig(**SIZES["llama-3-70b"].config())


def refused(monkeypatch, free, *sizes, **choices):
    monkeypatch.setattr(memory, "available", lambda device: free)
    with pytest.raises(UserError) as error:
        check_fits("llama-3-70b", "cuda", LLAMA, *sizes, **choices)
    return str(error.value)


def test_what_fits_is_said_and_does_fit(monkeypatch):
    free, length = 80 * GIB, 1536
    said = refused(monkeypatch, free, 1, 4, length, 2)
    assert said.startswith("llama-3-70b at --tp 1 --batch 4 needs 135.")
    assert "but cuda has 80.0 GiB free" in said
    layers = int(re.search(r"--layers (\d+) \(of 80, extrapolated\)", said)[1])
    tp = int(re.search(r"; --tp (\d+) or", said)[1])

    def total(tp, layers=80):
        return need(LadderConfig(**SIZES["llama-3-70b"].config(num_hidden_layers=layers)), tp, 4, length, 2).total

    assert tp == 2
    assert total(2) <= free < total(1)
    assert total(1, layers) <= free < total(1, layers + 1)
    assert check_fits("llama-3-70b", "cuda", LLAMA, tp, 4, length, 2).total == total(tp)


def test_the_largest_batch_that_fits(monkeypatch):
    free, sizes, choices = 80 * GIB, (1536, 2), {"prompt": 1024, "caches": 4}
    batch = int(re.search(r"--batch (\d+) would fit", refused(monkeypatch, free, 8, 512, *sizes, **choices))[1])
    fits, too_many = (need(LLAMA, 8, b, *sizes, **choices).total for b in (batch, batch + 1))
    assert fits <= free < too_many


def test_more_ranks_than_kv_heads_need_their_flag(monkeypatch):
    assert "; --tp 16 --replicate-kv or --layers" in refused(monkeypatch, 16 * GIB, 8, 1, 64, 2)
    assert "; --tp 16 or --layers" in refused(monkeypatch, 16 * GIB, 8, 1, 64, 2, replicate_kv=True)


def test_ranks_may_share_and_the_check_of_logits_counts(monkeypatch):
    weights = need(LLAMA, 4, 1, 64, 2).total
    monkeypatch.setattr(memory, "available", lambda device: 4 * weights)
    check_fits("llama-3-70b", "cpu", LLAMA, 4, 1, 64, 2, sharing=4)
    said = refused(monkeypatch, 4 * weights, 4, 1, 64, 2, sharing=4, extra=GIB)
    assert "the check of logits 1.00" in said
    assert "GiB free for 4 ranks; --tp 1 or" in said  # embeddings and head once instead of four times


def test_where_no_single_change_helps(monkeypatch):
    assert re.search(r"; --batch 1 --layers \d+ \(of 80", refused(monkeypatch, 8 * GIB, 1, 64, 1536, 2))
    assert refused(monkeypatch, GIB, 1, 1, 64, 2).endswith("no TP degree, no batch and no number of layers would fit")


def test_nothing_is_refused_where_the_memory_is_unknown(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: None)
    assert check_fits("llama-3-70b", "cpu", LLAMA, 1, 1, 64, 2).weights > 130 * GIB
