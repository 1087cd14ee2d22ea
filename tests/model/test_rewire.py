"""Every family that is rewired computes the wiring's equation; every other one is refused by name."""

import copy

import pytest
import torch

from ladder.errors import UserError
from ladder.model.forms import FORMS, layers_of
from ladder.model.rewire import restore, rewire
from ladder.model.tiny import NAMES, taken, tiny, verdict

IDS = torch.tensor([[5, 9, 2, 33, 7, 21, 40]])
LEAST = 60  # families
# Outputs that each module of three layers reads.
READS = {
    "ladder": [[], [], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3]],
    "ladder@1": [[], [0], [0], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4]],
    "parallel-2norm": [[], [], [0, 1], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]],
}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def first(layer, *names):
    return next((getattr(layer, name) for name in names if hasattr(layer, name)), None)


def parts(layer):
    """(norm before, module, norm after) of attention and MLP, by their names in the families' own code."""
    both = first(layer, "pre_feedforward_layernorm", "pre_mlp_layernorm", "post_self_attn_layernorm")
    before = first(layer, "input_layernorm", "attention_layernorm", "ln_1")
    after = first(layer, "post_self_attn_layernorm")
    if after is None and (both is not None or before is None):
        after = first(layer, "post_attention_layernorm")
    second = first(layer, "pre_feedforward_layernorm", "pre_mlp_layernorm", "feedforward_layernorm", "ln_2")
    if second is None and before is not None:
        second = first(layer, "post_attention_layernorm")
    last = first(layer, "post_feedforward_layernorm", "post_mlp_layernorm")
    yield before, first(layer, "self_attn", "attn"), after
    yield second, first(layer, "mlp", "block_sparse_moe", "feed_forward"), last


@torch.no_grad()
def literal(model, reads):
    """The stream after the last layer: x + the outputs, each module reading x and those outputs that ``reads`` says."""
    given, hooks = [], []
    for layer in layers_of(model):
        kept = first(layer, "self_attn", "attn").register_forward_pre_hook(
            lambda module, args, kwargs: given.append((args, kwargs)), with_kwargs=True
        )
        start = layer.register_forward_pre_hook(
            lambda module, args, kwargs: begun.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        hooks += [kept, start]
    begun = []
    logits(model)
    for hook in hooks:
        hook.remove()
    x, outputs = begun[0], []
    for number, layer in enumerate(layers_of(model)):
        args, kwargs = given[number]
        for norm, module, after in parts(layer):
            read = x
            for n in reads[len(outputs)]:
                read = read + outputs[n]
            normed = read if norm is None else norm(read)
            if len(outputs) % 2:
                output = module(normed)
            elif args:
                output = module(normed, *args[1:], **kwargs)
            else:
                output = module(**kwargs | {"hidden_states": normed})
            output = output[0] if isinstance(output, tuple) else output
            output = output * getattr(layer, "residual_multiplier", 1)
            outputs.append(output if after is None else after(output))
    return sum(outputs, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_family_is_rewired_exactly_or_refused(name):
    model, reason = taken(name)
    if model is None:
        assert "\n" not in reason
        return
    untouched = copy.deepcopy(model)
    for wiring, reads in READS.items():
        if wiring == "parallel-2norm" and next(iter(parts(layers_of(model)[0])))[2] is not None:
            with pytest.raises(UserError, match="norm"):  # of the sum of each module, which two would share
                rewire(model, wiring)
            continue
        rewire(model, wiring)
        end = []
        hook = layers_of(model)[-1].register_forward_hook(lambda m, i, o, e=end: e.append(o))
        logits(model)
        hook.remove()
        stream = end[0] if isinstance(end[0], torch.Tensor) else end[0][0]
        expected = literal(untouched, reads)
        assert (stream - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1), wiring
        restore(model)
    assert torch.equal(logits(model), logits(untouched))


@pytest.mark.slow
def test_enough_families_are_taken():
    verdicts = [verdict(name) for name in NAMES]
    assert sum(1 for one in verdicts if one.form) >= LEAST
    for one in verdicts:
        assert bool(one.form) == bool(one.wirings) != bool(one.reason)


SEVERAL = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "olmo2",
    "granite",
    "qwen3_moe",
    "phi3",
    "deepseek_v3",
    "glm4",
]


@pytest.mark.parametrize("name", SEVERAL)
def test_standard_is_the_untouched_model_to_the_last_bit(name):
    model, again = tiny(name), tiny(name)
    rewire(again, "standard")
    for one in (model, again):
        one(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    gradients = dict(model.named_parameters())
    assert all(torch.equal(p.grad, gradients[n].grad) for n, p in again.named_parameters() if p.grad is not None)
    words = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(IDS, **words), again.generate(IDS, **words))


@pytest.mark.parametrize("name", SEVERAL)
def test_a_cache_changes_nothing(name):
    model = rewire(tiny(name), "ladder@1-2")
    words = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(IDS, **words), model.generate(IDS, use_cache=False, **words))


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_moe"])
def test_recomputing_in_backward_changes_no_gradient(name):
    model, again = (rewire(tiny(name), "ladder").train() for _ in range(2))
    again.gradient_checkpointing_enable({"use_reentrant": False})
    for one in (model, again):
        one(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    gradients = dict(model.named_parameters())
    for parameter_name, parameter in again.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[parameter_name].grad)


def test_it_is_the_package_s_own_llama():
    from ladder.model.modeling import LadderConfig, LadderForCausalLM

    model = tiny("llama")
    own = LadderForCausalLM(LadderConfig(**model.config.to_dict() | {"wiring": "ladder@1-2", "model_type": "ladder"}))
    own.load_state_dict(model.state_dict())
    assert torch.equal(logits(rewire(model, "ladder@1-2")), logits(own.eval()))


def test_hidden_states_are_what_has_landed():
    states = rewire(tiny("qwen3"), "ladder")(input_ids=IDS, output_hidden_states=True).hidden_states
    assert len(states) == 4
    assert torch.equal(states[0], states[1])  # no output of the first layer has landed when the second begins


@pytest.mark.parametrize(
    ("name", "wiring", "words"),
    [
        ("cohere", "ladder", "CohereDecoderLayer"),
        ("opt", "ladder", "OPTDecoderLayer"),
        ("qwen3", "ladder@2-5", "layer 5"),
        ("qwen3", "spd", "another function at every tensor-parallel degree"),
        ("gemma2", "parallel", "norm"),
        ("qwen3", "upper_bound", "timing only"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_changes_nothing(name, wiring, words):
    model = tiny(name)
    before = logits(model)
    with pytest.raises(UserError) as error:
        rewire(model, wiring)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert torch.equal(logits(model), before)


@torch.no_grad()
@pytest.mark.parametrize(("name", "wiring"), [("phi3", "partial"), ("qwen3", "spd@7"), ("gemma2", "spd")])
def test_a_refused_wiring_leaves_the_one_before(name, wiring):
    model = rewire(tiny(name), "ladder")
    before = logits(model)
    with pytest.raises(UserError):
        rewire(model, wiring, 2)
    assert torch.equal(logits(model), before)


def test_a_family_whose_layers_do_more_is_found_out(monkeypatch):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

    forward = Qwen3DecoderLayer.forward
    monkeypatch.setattr(Qwen3DecoderLayer, "forward", lambda self, *args, **kwargs: 2 * forward(self, *args, **kwargs))
    with pytest.raises(UserError, match="do more than their submodules say"):
        rewire(tiny("qwen3"), "ladder")


def test_forms_are_told_apart_by_their_submodules():
    assert len({frozenset(form.names()) for form in FORMS}) == len(FORMS)


def test_a_dropout_of_the_stream_is_refused_unless_it_drops_nothing():
    with pytest.raises(UserError, match=r"Phi3DecoderLayer: drops 0.1 of its outputs \(resid_attn_dropout\)"):
        rewire(tiny("phi3", resid_pdrop=0.1), "ladder")
