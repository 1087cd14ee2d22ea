"""The decode path is the model: same logits and order of all-reduces for every wiring; and it keeps nothing alive."""

import gc
import weakref

import pytest
import torch

from ladder.bench.plain import Decoder, logits, random_weight
from ladder.bench.point import BenchCase, check_logits, check_order, check_path, order, unsharded
from ladder.inference.engine import Engine
from ladder.inference.fused import DECODE, Fused
from ladder.inference.stream import Stream
from ladder.model.modeling import LadderConfig
from ladder.parallel.communicators import Solo
from ladder.parallel.shard import build
from ladder.wiring import PATTERNS, table

WIRINGS = [*PATTERNS, "ladder-2", "ladder@1-2", "dtp-2", "desync-4x", "fal@2-3", "partial@1-2"]
SHAPE = {"num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 64}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
all_reduce = Solo().all_reduce


def config(**changes) -> LadderConfig:
    # With the norm of the first attention, which only some wirings read.
    return LadderConfig(**SHAPE | {"wiring": "fal"} | changes)


def point(**changes) -> BenchCase:
    return BenchCase(**{"config": config(), "tp": 2, "batch": 2, "prompt": 5, "new_tokens": 3, "wirings": ()} | changes)


def one_rank(tp=1, **changes):
    weight = random_weight(0)
    # Norms and biases that do something.
    return build(
        config(**changes), 0, tp, lambda n, p: weight(n, p) + (0.1 * torch.rand(p.shape) if p.ndim == 1 else 0)
    )


@pytest.mark.parametrize("wiring", WIRINGS)
def test_ranks_of_the_decode_path_give_the_unsharded_models_logits(wiring):
    differences = check_logits(point(wirings=(wiring,)))
    assert all(difference < 1e-5 for difference in differences.values())
    assert bool(differences) == (wiring != "upper_bound")


@pytest.mark.parametrize("attention", DECODE)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"attention_bias": True, "mlp_bias": True},
        {"tie_word_embeddings": True, "head_dim": 16},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
    ],
)  # fmt: skip
def test_the_decode_path_equals_the_plain_model(changes, attention):
    plain = one_rank(**changes)
    rows, ids = table("ladder", 4), torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    expected = logits(Decoder(plain, rows, ids, 5, all_reduce), 7)
    found = logits(Engine(Fused(plain), rows, ids, 5, all_reduce, "eager", attention), 7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # Fused weights are the model's own: it still computes the same.
    torch.testing.assert_close(logits(Decoder(plain, rows, ids, 5, all_reduce), 7), expected)


def test_a_prompt_of_one_token():
    plain, rows, ids = one_rank(), table("standard", 4), torch.randint(0, 64, (3, 4))
    expected = logits(Decoder(plain, rows, ids, 1, all_reduce), 3)
    torch.testing.assert_close(logits(Engine(Fused(plain), rows, ids, 1, all_reduce), 3), expected)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_launches_and_waits_stand_as_in_the_table(wiring):
    this = point(wirings=(wiring,))
    fused = Fused(this.shard(0))
    counts = check_order(this, lambda name: this.engine(fused, name, all_reduce))
    assert counts[wiring] == len(this.rows(wiring).launches)


@pytest.mark.slow
def test_compiled_code_has_the_plain_logits_and_the_tables_order():
    """Inductor's code, for every wiring: a compiled piece ends before each launch and wait, so nothing can move."""
    this = point(wirings=tuple(WIRINGS), compute=("compiled",))
    fused = Fused(this.shard(0))
    assert max(check_path(this, fused, all_reduce).values()) < 1e-5
    check_order(this, lambda name: this.engine(fused, name, all_reduce, "compiled"))


def test_ladder_computes_a_whole_module_between_launch_and_wait():
    this = point(wirings=("ladder",))
    engine = this.engine(Fused(this.shard(0)), "ladder", all_reduce)
    engine.prefill()
    seen = order(engine)
    for index in range(7):  # the last one has nothing to hide behind
        between = seen[seen.index(("launch", index)) : seen.index(("wait", index))]
        assert any(kind == "compute" for kind, _ in between), index


def test_a_wrong_path_is_not_timed(monkeypatch):
    this = point(wirings=("standard",))
    monkeypatch.setitem(DECODE, "matmul", lambda q, keys, values, seen: DECODE["sdpa"](q, keys, values, None))
    with pytest.raises(RuntimeError, match=r"standard at TP 2: logits are off by .*; not timed"):
        check_logits(this)
    with pytest.raises(RuntimeError, match=r"the eager path's logits are off by .*; not timed"):
        check_path(this, Fused(this.shard(0)), all_reduce)


def test_a_hybrid_is_checked_where_its_wiring_changes():
    """On a GPU two layers stand for all: those about the change."""
    this = point(config=config(num_hidden_layers=12), device="cuda")
    assert this.checked().layers == 2
    assert this.checked_rows("ladder@8-11") == this.rows("ladder@8-11")[14:18]
    assert this.checked_rows("ladder") == this.rows("ladder")[:4]
    assert this.checked_rows("upper_bound") is None


def test_tied_wirings_are_checked_against_virtual_ranks():
    this = point()
    plain = build(this.config, 0, 1, random_weight(0))
    assert unsharded(plain, this.rows("spd"), "spd", this).model.rewiring.ranks == 2
    assert unsharded(plain, this.rows("ladder"), "ladder", this).model.rewiring.ranks == 1


def test_an_engine_ends_with_its_last_reference():
    """Its caches may be most of a GPU, and the garbage collector need not come by."""
    this = point()
    fused = Fused(this.shard(0))
    gc.collect()
    gc.disable()
    try:
        engine = this.engine(fused, "ladder", all_reduce)
        engine.prefill()
        engine.step()
        gone = weakref.ref(engine)
        del engine
        assert gone() is None
    finally:
        gc.enable()


def test_a_stream_adds_late_and_once():
    stream = Stream(torch.ones(2)) + torch.ones(2)
    assert stream.value.tolist() == [1, 1]
    later = stream + torch.ones(2)
    assert stream.pending is None
    assert later.settled().tolist() == [3, 3]
    assert later.settled().tolist() == [3, 3]
