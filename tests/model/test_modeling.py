"""The model against Hugging Face Llama and against literal equations of each wiring."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import ladder  # noqa: F401 (registers the model)
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.sizes import size

L, VOCAB = 4, 128
SHAPE = size("tiny").config(num_hidden_layers=L, vocab_size=VOCAB, num_key_value_heads=2)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
WIRINGS = ["standard", "parallel", "parallel-2norm", "ladder", "ladder-2", "ladder@2-3", "ladder@1", "parallel@0,2"]


def make(wiring="standard", **changes):
    torch.manual_seed(0)
    return LadderForCausalLM(LadderConfig(**SHAPE | changes, wiring=wiring)).eval()


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


def literal(model, ids):
    """Attention and MLP of each layer as functions of the stream, and what comes before and after them."""
    inner = model.model
    x = inner.embed_tokens(ids)
    positions = torch.arange(ids.shape[1])[None]
    rope = inner.rotary_emb(x, positions)

    def attention(i, x):
        layer = inner.layers[i]
        return layer.self_attn(layer.input_layernorm(x), position_embeddings=rope, attention_mask=None)[0]

    def mlp(i, x, norm="post_attention_layernorm"):
        layer = inner.layers[i]
        return layer.mlp(getattr(layer, norm)(x))

    return x, attention, mlp, lambda x: model.lm_head(inner.norm(x))


@torch.no_grad()
def test_ladder_equals_the_papers_equations(ids):
    """x_{n+1} = x_n + AllReduce(f_{n-1}), f_n = h_n(x_n): each module reads the stream without the output before it."""
    model = make("ladder")
    x, attention, mlp, head = literal(model, ids)
    before = torch.zeros_like(x)  # the output still under way
    for i in range(L):
        a = attention(i, x)
        x = x + before
        m = mlp(i, x)
        x = x + a
        before = m
    assert torch.allclose(model(ids).logits, head(x + before), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("wiring", "norm"), [("parallel", "input_layernorm"), ("parallel-2norm", "post_attention_layernorm")]
)
def test_parallel_equals_its_equation(ids, wiring, norm):
    model = make(wiring)
    for n, layer in enumerate(model.model.layers):  # norms that differ, or the choice of norm could not be seen
        torch.nn.init.uniform_(layer.post_attention_layernorm.weight, 0.5 + 0.1 * n, 1.5)
    x, attention, mlp, head = literal(model, ids)
    for i in range(L):
        x = x + attention(i, x) + mlp(i, x, norm)
    assert torch.allclose(model(ids).logits, head(x), atol=1e-5)


@torch.no_grad()
def test_hybrid_equals_two_streams(ids):
    """Layers 1 and 2 ladder: their attention reads the stream before the last MLP, their MLP before the attention."""
    model = make("ladder@1-2")
    x, attention, mlp, head = literal(model, ids)
    stale = x  # the stream without the newest output
    for i in range(L):
        ladder_layer = i in (1, 2)
        a = attention(i, stale if ladder_layer else x)
        stale, x = x, x + a
        m = mlp(i, stale if ladder_layer else x)
        stale, x = x, x + m
    assert torch.allclose(model(ids).logits, head(x), atol=1e-5)


@pytest.mark.parametrize("wiring", WIRINGS)
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


@pytest.mark.parametrize("wiring", ["ladder@2-3", "parallel"])
def test_saved_and_loaded_is_the_same(tmp_path, ids, wiring):
    model = make(wiring)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is LadderForCausalLM
    assert again.config.wiring == wiring
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_gradient_checkpointing_changes_no_gradient(ids):
    gradients = []
    for checkpointing in (False, True):
        model = make("ladder").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("wiring", ["standard", "ladder"])
def test_restarting_positions_keep_packed_sequences_apart(ids, wiring):
    model = make(wiring)
    packed = torch.cat([ids[:1, :10], ids[1:, :14]], dim=1)
    positions = torch.cat([torch.arange(10), torch.arange(14)])[None]
    logits = model(packed, position_ids=positions).logits
    assert torch.allclose(logits[:, :10], model(ids[:1, :10]).logits, atol=1e-5)
    assert torch.allclose(logits[:, 10:], model(ids[1:, :14]).logits, atol=1e-5)


@pytest.mark.parametrize(("wiring", "words"), [("laddr", "unknown wiring"), (f"ladder@{L}", "outside the model")])
def test_a_config_refuses_a_wrong_wiring(wiring, words):
    with pytest.raises(Exception, match=words):
        LadderConfig(**SHAPE, wiring=wiring)


@torch.no_grad()
def test_rewiring_in_place(ids):
    model = make("standard")
    model.model.set_wiring("ladder")
    assert torch.equal(model(ids).logits, make("ladder")(ids).logits)
