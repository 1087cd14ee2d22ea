"""The model against Hugging Face Llama; generation, packing, saving and rewiring of every wiring."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import ladder  # noqa: F401 (registers the model)
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.rewire import rewire
from ladder.model.sizes import size
from ladder.residual import Row
from ladder.wiring import PATTERNS, Pattern, Wiring

L, VOCAB = 4, 128
SHAPE = size("tiny").config(num_hidden_layers=L, vocab_size=VOCAB, num_key_value_heads=2)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
UNTIED = ["standard", "parallel", "parallel-2norm", "ladder", "ladder-2", "ladder@2-3", "parallel@0,2", "fal", "fal+"]
TIED = ["partial", "dtp-1", "spd", "spd@2-3", "desync-2x", "desync-4x@1-3", "desync-nx"]


def make(wiring="standard", **changes):
    """At T = 2, where that matters."""
    torch.manual_seed(0)
    tp = 2 if Wiring.parse(wiring).tied else None
    return LadderForCausalLM(LadderConfig(**SHAPE | changes, wiring=wiring, tensor_parallel_size=tp)).eval()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, VOCAB, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "changes", [{}, {"rope_parameters": LLAMA3}, {"attention_bias": True}, {"tie_word_embeddings": False}]
)
def test_standard_equals_hugging_face_llama(ids, changes):
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**SHAPE | changes)).eval()
    model = make(**changes)
    model.load_state_dict(llama.state_dict(), strict=True)
    with torch.no_grad():
        assert (model(ids).logits - llama(ids).logits).abs().max() < 1e-5


@pytest.mark.parametrize("wiring", [*UNTIED, *TIED])
def test_cached_generation_equals_uncached(ids, wiring):
    """Greedy tokens with left padding and batch 2: no cache, dynamic cache, static cache."""
    model = make(wiring)
    prompt = ids[:, :9].clone()
    mask = torch.ones_like(prompt)
    mask[0, :3] = 0
    how = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
    plain = model.generate(prompt, use_cache=False, **how)
    assert torch.equal(model.generate(prompt, use_cache=True, **how), plain)
    assert torch.equal(model.generate(prompt, cache_implementation="static", **how), plain)
    alone = {**how, "attention_mask": mask[:1, 3:]}
    assert torch.equal(model.generate(prompt[:1, 3:], **alone)[0, 6:], plain[0, 9:])


@pytest.mark.parametrize("wiring", ["ladder@2-3", "parallel", "fal", "spd@2-3", "dtp-1"])
def test_saved_and_loaded_is_the_same(tmp_path, ids, wiring):
    model = make(wiring)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is LadderForCausalLM
    assert again.config.wiring == wiring
    assert again.config.tensor_parallel_size == model.config.tensor_parallel_size
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize("wiring", ["ladder", "partial", "fal"])
def test_gradient_checkpointing_changes_no_gradient(ids, wiring):
    gradients = []
    for checkpointing in (False, True):
        model = make(wiring).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("wiring", ["standard", "ladder", "spd"])
def test_restarting_positions_keep_packed_sequences_apart(ids, wiring):
    model = make(wiring)
    packed = torch.cat([ids[:1, :10], ids[1:, :14]], dim=1)
    positions = torch.cat([torch.arange(10), torch.arange(14)])[None]
    logits = model(packed, position_ids=positions).logits
    assert torch.allclose(logits[:, :10], model(ids[:1, :10]).logits, atol=1e-5)
    assert torch.allclose(logits[:, 10:], model(ids[1:, :14]).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("wiring", "tp", "words"),
    [
        ("laddr", None, "unknown wiring"),
        (f"ladder@{L}", None, "outside the model"),
        ("spd", None, "say which"),
        ("ladder", 2, "drop --tp"),
        ("spd", 3, "tensor-parallel degree 3 does not divide the model's num_attention_heads"),
        ("spd", 4, "does not divide the model's num_key_value_heads"),
    ],
)
def test_a_config_refuses_a_wrong_wiring(wiring, tp, words):
    with pytest.raises(Exception, match=words):
        LadderConfig(**SHAPE, wiring=wiring, tensor_parallel_size=tp)


@torch.no_grad()
@pytest.mark.parametrize("wiring", [*UNTIED, *TIED])
def test_rewiring_in_place_there_and_back(ids, wiring):
    model = make("standard")
    expected, names = model(ids).logits, list(model.state_dict())
    rewire(model, wiring, 2 if Wiring.parse(wiring).tied else None)
    if not wiring.startswith("fal"):  # whose gain starts at 0 in a rewired model, at 1 in a new one
        assert torch.allclose(model(ids).logits, make(wiring)(ids).logits, atol=1e-6)
    rewire(model, "standard")
    assert list(model.state_dict()) == names
    assert torch.equal(model(ids).logits, expected)


@torch.no_grad()
def test_a_rewired_first_attention_starts_without_a_signal(ids):
    model, limit = make("standard"), make("parallel-2norm@1-3")
    rewire(model, "fal")
    assert torch.allclose(model(ids).logits, limit(ids).logits, atol=1e-6)


@torch.no_grad()
def test_a_made_up_wiring_takes_one_row(ids, monkeypatch):
    """Attention lags by two; the MLP reads its own share of the attention beside it."""
    monkeypatch.setitem(PATTERNS, "mine", Pattern((Row(2), Row(1, own=1)), "made up"))
    logits = make("mine@1-3")(ids).logits
    assert logits.isfinite().all()
    assert not torch.allclose(logits, make("standard")(ids).logits, atol=1e-3)


def test_a_tied_wiring_trains(ids):
    """The loss falls, and every weight gets a gradient, through virtual ranks."""
    model = make("partial").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = model(ids, labels=ids).loss
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_every_wiring_starts_from_the_same_weights():
    weights = dict(make("standard").named_parameters())
    for wiring in (*UNTIED, *TIED):
        own = dict(make(wiring).named_parameters())
        assert all(torch.equal(own[name], weight) for name, weight in weights.items()), wiring
