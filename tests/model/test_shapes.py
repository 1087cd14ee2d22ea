"""Shapes of other families: weights as their own code makes them, and as their makers publish them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ladder.cost import part
from ladder.errors import UserError
from ladder.model.shapes import FAMILIES, of_config, of_content, published
from ladder.model.sizes import size
from ladder.model.tiny import tiny
from ladder.simulate.calibration import load
from ladder.simulate.model import Scenario, predict

# Billions of weights, of which a token takes so many, as the model cards say.
CARDS = {
    "qwen3-32b": (32.8, 32.8),
    "mistral-7b-v0.3": (7.25, 7.25),
    "gemma-2-9b": (9.24, 9.24),
    "olmo-2-7b": (7.30, 7.30),
    "granite-3-8b": (8.17, 8.17),
    "phi-3-mini": (3.82, 3.82),
    "smollm3-3b": (3.08, 3.08),
    "qwen3-30b-a3b": (30.5, 3.3),
    "deepseek-r1-distill-llama-70b": (70.6, 70.6),
    "mixtral-8x7b": (46.7, 12.9),
}
BASE = Scenario("llama-3-8b", "standard", 4, 1, 1024, 512, "h100", "nvlink", "serving")


def step(shape, path, **changes):
    """Seconds of a decode step of a model of this config.json."""
    path.write_text(json.dumps(shape))
    return predict([BASE._replace(model=str(path), **changes)], load()).step[0]


def test_the_published_shapes_are_those_of_the_cards():
    assert published().keys() == CARDS.keys()
    for name, (total, active) in CARDS.items():
        assert published()[name].parameters / 1e9 == pytest.approx(total, rel=0.005), name
        assert part(published()[name]).active_weights / 1e9 == pytest.approx(active, rel=0.02), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_s_weights_are_those_of_its_model(family):
    model = tiny(family)
    shape = of_content(model.config.to_dict(), family)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_ranks_hold_the_model_together():
    """Of a mixture of experts every expert is split; norms and router are on each rank."""
    whole, mine = (part(size("qwen3-30b-a3b"), tp, True) for tp in (1, 4))
    alike = whole.norms + whole.layers * (whole.qk_norm + whole.hidden * whole.router)
    assert 4 * mine.weights == whole.weights + 3 * alike


def test_experts_that_several_tokens_read():
    """The expected number is that of random choices; one token reads its own, many read all."""
    moe = part(size("qwen3-30b-a3b"))
    draw = np.random.default_rng(0)
    seen = [len({e for _ in range(8) for e in draw.choice(128, 8, replace=False)}) for _ in range(500)]
    assert moe.experts_read(1) == pytest.approx(moe.active)
    assert moe.experts_read(8) == pytest.approx(np.mean(seen), rel=0.02)
    assert moe.experts_read(10_000) == pytest.approx(128)


def test_a_cache_holds_what_a_layer_attends_to():
    gemma = part(size("gemma-2-9b"))
    expected = sum(2 * 3 * gemma.keys * min(6000, 4096 if n % 2 == 0 else 6000) for n in range(42))
    assert gemma.kv(3, 6000) == expected
    assert gemma.kv(3, 100) == replace(gemma, kinds=((0, False),)).kv(3, 100)


MISTRAL = {"model_type": "mistral", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32}
MISTRAL |= {"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32768}
MIXTRAL = MISTRAL | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}


def test_windows_and_experts_cost_what_they_read(tmp_path):
    full, long = step(MISTRAL, tmp_path / "a.json"), step(MISTRAL, tmp_path / "a.json", prompt=16384, batch=16)
    assert step(MISTRAL | {"sliding_window": 4096}, tmp_path / "b.json") == full
    assert step(MISTRAL | {"sliding_window": 4096}, tmp_path / "b.json", prompt=16384, batch=16) < long
    half = MISTRAL | {"sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"] * 16}
    assert step(half, tmp_path / "c.json", prompt=16384, batch=16) < long
    one, many = (step(MIXTRAL, tmp_path / "d.json", batch=batch) for batch in (1, 64))
    dense = MISTRAL | {"intermediate_size": 8 * 14336}
    assert full < one < step(dense, tmp_path / "e.json")
    assert many == pytest.approx(step(dense, tmp_path / "e.json", batch=64), rel=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, "kv_lora_rank = 512"),
        ({"model_type": "mamba2"}, "model_type = 'mamba2'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"layer_types": ["linear_attention"] * 32}, "layer_types has 'linear_attention'"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1"),
        ({"num_experts_per_tok": 2}, "num_experts_per_tok = 2"),
        ({"num_experts": 8, "num_experts_per_tok": 9}, "num_experts_per_tok is 9"),
        ({"head_dim": "x"}, "head_dim"),
    ],
)
def test_what_cannot_be_counted_is_refused(tmp_path, changes, words):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MISTRAL | changes))
    with pytest.raises(UserError, match=words) as error:
        of_config(tmp_path)
    assert str(path) in str(error.value)
