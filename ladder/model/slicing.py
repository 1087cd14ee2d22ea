"""Which part of which parameter a rank holds, by the tensor-parallel plan that transformers has for each family.

A plan names submodules, or parameters, and how each is split: ``colwise`` (output features), ``rowwise`` (input
features, so that the output is a partial sum), ``packed`` (two matrices beside each other, each split). What a plan
gathers in the middle of a module, this package computes whole on every rank: nothing is sent but a module's output.
What the plan does not name is whole as well; embeddings and LM head may be split over the vocabulary.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig

from ladder.errors import UserError

VOCABULARY = ("embed_tokens", "lm_head")
KEY_VALUE = ("k_proj", "v_proj")


class Cut(NamedTuple):
    """How a parameter is split. dim: counted from the last; None: whole on every rank. packed: matrices beside each
    other in it. summed: the module's output is a partial sum. whole_input: which it reads its part of."""

    dim: int | None = None
    packed: int = 1
    summed: bool = False
    whole_input: bool = False

    def indices(self, shape: tuple[int, ...], rank: int, parts: int) -> Iterator[tuple[slice, ...]]:
        """Of rank ``rank``'s part in a parameter of ``shape``: one index for each matrix packed in it."""
        dim = len(shape) + (self.dim or 0)
        for number in range(self.packed):
            width = shape[dim] // self.packed if self.dim else 0
            start, stop = (number * width + end * width // parts for end in (rank, rank + 1))
            yield tuple(slice(start, stop) if self.dim and n == dim else slice(None) for n in range(len(shape)))

    def part(self, value, rank: int, parts: int):
        """Rank ``rank``'s part of ``value``, of which no more is read."""
        pieces = [value[index] for index in self.indices(tuple(value.shape), rank, parts)]
        return pieces[0] if self.packed == 1 else torch.cat(pieces, self.dim)


WHOLE = Cut()
STYLES = {  # of transformers' plans
    "colwise": Cut(-2),
    "rowwise": Cut(-1, summed=True),
    "packed_colwise": Cut(-2, packed=2),
    "packed_rowwise": Cut(-1, packed=2),
    "colwise_gather_output": WHOLE,
    "rowwise_split_input": Cut(-1, summed=True, whole_input=True),
    "replicated_with_grad_allreduce": WHOLE,
    "replicate": WHOLE,
    "moe_tp_experts": WHOLE,  # a module whose parameters have rows of their own
}


def style(name: str, config: PreTrainedConfig) -> Cut | None:
    """How the plan splits the submodule or parameter called so; None where it does not name it. Raises UserError for
    a style that is not understood."""
    text = config.get_text_config(decoder=True)
    inside = re.sub(r"(^|\.)\d+(?=\.)", r"\1*", name.partition("layers.")[2])
    asked = (text.base_model_tp_plan or {}).get(f"layers.{inside}")
    if asked is not None and asked not in STYLES:
        raise UserError(f"{text.model_type}: its tensor-parallel plan has {name} {asked!r}, which is not understood")
    return STYLES[asked] if asked else None


def cut(name: str, config: PreTrainedConfig, split_vocabulary: bool = False) -> Cut:
    """How the parameter called ``name`` is split."""
    module, _, leaf = name.rpartition(".")
    if module.rpartition(".")[2] in VOCABULARY:
        return Cut(-2) if split_vocabulary else WHOLE
    of_parameter = style(name, config)
    if of_parameter is not None:
        return of_parameter
    of_module = style(module, config) or WHOLE
    if leaf != "bias" or of_module.dim is None:
        return of_module
    return Cut(summed=True) if of_module.summed else Cut(-1)


def check_splits(name: str, body: torch.nn.Module, config: PreTrainedConfig) -> None:
    """Refuse an attention or MLP, called ``name``, that the plan leaves whole."""
    text = config.get_text_config(decoder=True)
    if not text.base_model_tp_plan:
        raise UserError(f"{text.model_type}: transformers has no tensor-parallel plan for this family")
    paths = [path for named in (body.named_modules, body.named_parameters) for path, _ in named(prefix=name)]
    if not any(how.summed for path in paths if (how := style(path, config))):
        raise UserError(f"{text.model_type}: its tensor-parallel plan leaves {type(body).__name__} whole")


def parts(name: str, config: PreTrainedConfig, size: int) -> tuple[int, int]:
    """(number of different parts of a split parameter on ``size`` ranks, neighbouring ranks that hold the same)."""
    heads = getattr(config.get_text_config(decoder=True), "num_key_value_heads", None) or size
    shared = name.split(".")[-2] in KEY_VALUE and heads < size
    return (heads, size // heads) if shared else (size, 1)


def distinct(name: str, config: PreTrainedConfig, size: int) -> int:
    """How many different parts of the parameter called so, or of its gradient, ``size`` ranks hold."""
    how = cut(name, config)
    return parts(name, config, size)[0] if how.dim or how.summed else 1


def part(value, name: str, rank: int, size: int, config: PreTrainedConfig, split_vocabulary: bool = False):
    """Rank ``rank``'s part of ``value``, that of the parameter called ``name``: anything that can be indexed."""
    how = cut(name, config, split_vocabulary)
    count, neighbours = parts(name, config, size)
    return how.part(value, rank // neighbours, count)


def check_degree(
    config: PreTrainedConfig, size: int, split_vocabulary: bool = False, replicate_kv: bool = False
) -> None:
    """Refuse a TP degree that cannot split this model.

    split_vocabulary: embeddings or head are split too. replicate_kv: with more ranks than KV heads, several ranks may
    hold the same one.
    """
    keys = ["num_attention_heads", "intermediate_size", "moe_intermediate_size", *(["vocab_size"] * split_vocabulary)]
    for key in keys:
        width = getattr(config, key, None)
        if size < 1 or (isinstance(width, int) and width % size):
            raise UserError(f"tensor-parallel degree {size} does not divide the model's {key} ({width})")
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if heads % size and not (replicate_kv and size % heads == 0):
        cure = "; replicate_kv=True gives several ranks the same one" if size % heads == 0 else ""
        raise UserError(
            f"tensor-parallel degree {size} does not divide the model's num_key_value_heads ({heads}){cure}"
        )
