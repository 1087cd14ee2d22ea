"""Which part of which parameter a rank holds.

The plan maps submodules of Llama to ``colwise`` (output features are split) or ``rowwise`` (input features are split,
so that the output is a partial sum), in the words of transformers' own plans; those differ between its versions, so
this one is ours. What it does not name is replicated; embeddings and LM head may be split over the vocabulary.
"""

import fnmatch
from typing import TYPE_CHECKING

from ladder.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PLAN = {
    **{f"layers.*.self_attn.{name}_proj": "colwise" for name in "qkv"},
    "layers.*.self_attn.o_proj": "rowwise",
    **{f"layers.*.mlp.{name}_proj": "colwise" for name in ("gate", "up")},
    "layers.*.mlp.down_proj": "rowwise",
}
VOCABULARY = ("embed_tokens", "lm_head")
KEY_VALUE = ("k_proj", "v_proj")


def style(module: str) -> str | None:
    """``colwise``, ``rowwise`` or None (replicated) of the submodule called so."""
    module = module.removeprefix("model.")
    return next((style for pattern, style in PLAN.items() if fnmatch.fnmatch(module, pattern)), None)


def check_degree(
    config: "PretrainedConfig", size: int, split_vocabulary: bool = False, replicate_kv: bool = False
) -> None:
    """Refuse a TP degree that cannot split this model.

    split_vocabulary: embeddings or head are split too. replicate_kv: with more ranks than KV heads, several ranks may
    hold the same one.
    """
    keys = ["num_attention_heads", "intermediate_size", *(["vocab_size"] if split_vocabulary else [])]
    for key in keys:
        if size < 1 or getattr(config, key) % size:
            raise UserError(f"tensor-parallel degree {size} does not divide the model's {key} ({getattr(config, key)})")
    heads = config.num_key_value_heads
    if heads % size and not (replicate_kv and size % heads == 0):
        cure = "; replicate_kv=True gives several ranks the same one" if size % heads == 0 else ""
        raise UserError(
            f"tensor-parallel degree {size} does not divide the model's num_key_value_heads ({heads}){cure}"
        )


def part(
    name: str, shape: tuple[int, ...], rank: int, size: int, config: "PretrainedConfig", split_vocabulary: bool = False
) -> tuple[slice, ...]:
    """The index of rank ``rank``'s part of the parameter called ``name``, of ``shape``."""
    module, _, parameter = name.rpartition(".")
    leaf, how = module.rpartition(".")[2], style(module)
    index = [slice(None)] * len(shape)
    if how == "colwise" or (split_vocabulary and leaf in VOCABULARY):
        parts, mine = size, rank
        if leaf in KEY_VALUE and config.num_key_value_heads < size:  # neighbours hold the same head
            parts, mine = config.num_key_value_heads, rank * config.num_key_value_heads // size
        index[0] = _share(shape[0], mine, parts)
    elif how == "rowwise" and parameter == "weight":
        index[1] = _share(shape[1], rank, size)
    return tuple(index)


def _share(length: int, rank: int, size: int) -> slice:
    return slice(rank * length // size, (rank + 1) * length // size)
