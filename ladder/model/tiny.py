"""A tiny random model of every causal language model of the installed transformers, and which of them are rewired."""

from functools import cache
from typing import NamedTuple

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ladder.errors import UserError, explained
from ladder.model.forms import form_of, layers_of
from ladder.model.rewire import logits, restore, rewire, set_virtual_ranks
from ladder.wiring import PATTERNS, Wiring

LARGEST = 5_000_000  # parameters: a family whose shape cannot be made small by these names is left out
NAMES = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
WIRINGS = (*(name for name in PATTERNS if name != "standard"), "ladder-2")
SHAPE = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 64),
    **dict.fromkeys(("hidden_size", "d_model"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **{"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2},
    **{"max_position_embeddings": 64, "sliding_window": 4, "hidden_size_per_layer_input": 8},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


class NoSmallModel(ValueError):
    """A family cannot be made in this shape; the cause says why."""


def tiny(name: str, **changes) -> torch.nn.Module:
    """The family's model in evaluation mode, made from seed 0, of shape SHAPE with ``changes``. Raises NoSmallModel."""
    try:
        return _made(name, changes)
    except Exception as error:  # whatever a family's code says of a shape that is not its own
        raise NoSmallModel(f"no small model: {type(error).__name__}: {str(error).splitlines()[0][:200]}") from error


def _made(name: str, changes: dict) -> torch.nn.Module:
    kind = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]
    default = CONFIG_MAPPING[name]().get_text_config(decoder=True)
    shape = {key: value for key, value in (SHAPE | changes).items() if hasattr(default, key)}
    if "qk_rope_head_dim" in shape:  # latent attention: as many keys as queries, of widths of their own
        shape["num_key_value_heads"] = shape["num_attention_heads"]
        shape.pop("head_dim", None)
    if kinds := getattr(default, "layer_types", None):
        shape["layer_types"] = (list(dict.fromkeys(kinds)) * 3)[: shape["num_hidden_layers"]]
    config = type(default)(**shape)
    if config.model_type != name:  # the text part of several models in one, or another family's checkpoints
        raise ValueError(f"its decoder is of the family {config.model_type}")
    model_class = getattr(transformers, kind if isinstance(kind, str) else kind[0])
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters at least")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return model_class(config).eval()


def taken(name: str) -> tuple[torch.nn.Module | None, str]:
    """(the family's tiny model, "") if it can be rewired; else (None, why not)."""
    try:
        model = tiny(name)
    except NoSmallModel as error:
        return None, str(error)
    try:
        with explained("no small model that runs"):
            rewire(model, "standard")
    except UserError as error:
        return None, str(error)
    return restore(model), ""


class Verdict(NamedTuple):
    """Whether a family is rewired. form: of its layers, in words, and wirings: that it can have; or the reason why it
    is not."""

    family: str
    model: str
    form: str = ""
    wirings: tuple[str, ...] = ()
    reason: str = ""


def verdict(name: str) -> Verdict:
    """Of a row of NAMES."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]
    kind = kind if isinstance(kind, str) else kind[0]
    model, reason = taken(name)
    if model is None:
        return Verdict(name, kind, reason=reason)
    possible = []
    for wiring in WIRINGS:
        try:
            rewire(model.to("meta"), wiring, 2 if Wiring.parse(wiring).tied else None)  # proved already
        except UserError:
            continue
        possible.append(wiring)
    return Verdict(name, kind, form_of(layers_of(model)[0]).words, tuple(possible))


@cache
def check_virtual(family: str) -> None:
    """Two ranks of a small model of the family, computed in this process, give its logits, or UserError. A family that
    has no small model is taken at its plan's word."""
    try:
        model = tiny(family)
    except NoSmallModel:
        return
    with explained(f"{family} cannot be split over ranks"):
        expected = logits(model)
        set_virtual_ranks(rewire(model, "standard"), 2)
        apart = (logits(model) - expected).abs().max().item()
    if not apart < 1e-4 * max(1, expected.abs().max().item()):
        raise UserError(f"{family} cannot be split over ranks: its modules are no sums over what its plan splits")
