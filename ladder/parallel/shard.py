"""Tensor parallelism applied from outside: slice the weights by a plan, inject a communicator.

The plan maps submodules of Llama to ``colwise`` (output features are split) or ``rowwise`` (input features are split,
so that the output is a partial sum), in the words of transformers' own plans; those differ between its versions, so
this one is ours. Everything else, embeddings and LM head included, is replicated: every rank returns full logits.
"""

import fnmatch
from collections.abc import Callable

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import PretrainedConfig, PreTrainedModel

from ladder.errors import UserError
from ladder.parallel.communicators import ProcessGroup

PLAN = {
    **{f"layers.*.self_attn.{name}_proj": "colwise" for name in "qkv"},
    "layers.*.self_attn.o_proj": "rowwise",
    **{f"layers.*.mlp.{name}_proj": "colwise" for name in ("gate", "up")},
    "layers.*.mlp.down_proj": "rowwise",
}
SPLIT = {"colwise": {"weight": 0, "bias": 0}, "rowwise": {"weight": 1}}  # parameter -> dimension to cut


def parallelize(model: PreTrainedModel, mesh: DeviceMesh) -> PreTrainedModel:
    """Shard a loaded model in place over a 1-D ``mesh``, one slice a rank; return it.

    Raises UserError if the mesh's size does not divide the attention heads, KV heads or MLP width.
    """
    if mesh.ndim != 1:
        raise UserError(f"tensor parallelism needs a 1-D mesh, got {mesh.ndim} dimensions; pass one of its sub-meshes")
    shard(model, mesh.get_local_rank(), mesh.size())
    model.model.all_reduce = ProcessGroup(mesh.get_group()).all_reduce
    return model


def shard(
    model: PreTrainedModel,
    rank: int,
    size: int,
    weight: Callable[[str, torch.nn.Parameter], torch.Tensor] = lambda name, parameter: parameter.detach(),
    copy: bool = True,
) -> None:
    """Give ``model`` rank ``rank``'s slices of ``size``, in place.

    weight: full value of the parameter called so (default: its own), for models built on the meta device.
    copy: own memory for each slice; otherwise views of the full value.
    """
    check_degree(model.config, size)
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        part = slice_tensor(name, weight(name, parameter), rank, size)
        part = part.clone(memory_format=torch.contiguous_format) if copy else part
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(part, requires_grad=parameter.requires_grad))
    model.tie_weights()


def check_degree(config: PretrainedConfig, size: int) -> None:
    """Refuse a TP degree that cannot split this model."""
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if size < 1 or getattr(config, key) % size:
            raise UserError(f"tensor-parallel degree {size} does not divide the model's {key} ({getattr(config, key)})")


def slice_tensor(name: str, value: torch.Tensor, rank: int, size: int) -> torch.Tensor:
    """Rank ``rank``'s slice of the parameter called ``name``."""
    module, _, parameter = name.removeprefix("model.").rpartition(".")
    for pattern, style in PLAN.items():
        if fnmatch.fnmatch(module, pattern):
            if parameter in SPLIT[style]:
                return value.chunk(size, SPLIT[style][parameter])[rank]
            # A row-wise layer's bias would be summed over ranks: one rank adds it.
            return value if rank == 0 else torch.zeros_like(value)
    return value
