"""Tensor parallelism applied from outside: slice the weights by the plan, inject a communicator."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import LlamaForCausalLM, PreTrainedModel

from ladder.errors import UserError
from ladder.model import checkpoint, slicing
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.opened import Checkpoint
from ladder.model.slicing import check_degree
from ladder.parallel.backward import Backward
from ladder.parallel.communicators import ProcessGroup
from ladder.parallel.vocabulary import Embedding, Head, summed


def load(folder: str | Path, dtype: str = "auto", mesh: DeviceMesh | None = None, **choices: bool):
    """(model, tokenizer) of a checkpoint, as :func:`ladder.model.checkpoint.load` gives them.

    With a 1-D ``mesh`` of ranks the model is this rank's shard of a Llama, as :func:`parallelize` makes it with the
    same ``choices``, and only its slices are read: names and shapes are checked then, digests are not.
    """
    if mesh is None:
        return checkpoint.load(folder, dtype)
    opened = Checkpoint.open(folder)
    opened.llama_only("mesh=")
    weight = checkpoint.reader(opened, getattr(torch, opened.dtype if dtype == "auto" else dtype))
    rank, size = mesh.get_local_rank(), mesh.size()
    model = build(opened.model_config(), rank, size, weight, copy=False, **choices).to(mesh.device_type)
    return connect(model, mesh, choices.get("split_vocabulary", False)), opened.tokenizer()


def parallelize(
    model: PreTrainedModel, mesh: DeviceMesh, split_vocabulary: bool = False, replicate_kv: bool = False
) -> PreTrainedModel:
    """Shard a loaded model in place over a 1-D ``mesh``, one slice a rank; return it.

    It trains and generates as before: every rank returns full logits, and holds the gradients of its slices. A plain
    ``LlamaForCausalLM`` stays as it is: what is returned is its shard under the wiring ``standard``.

    split_vocabulary: embeddings and LM head are split too, instead of replicated.
    replicate_kv: with more ranks than KV heads, give several ranks the same head, instead of refusing.

    Raises UserError if the mesh's size does not divide what is split, or is not the one that the wiring belongs to.
    """
    if mesh.ndim != 1:
        raise UserError(f"tensor parallelism needs a 1-D mesh, got {mesh.ndim} dimensions; pass one of its sub-meshes")
    model = _of_llama(model)
    shard(model, mesh.get_local_rank(), mesh.size(), split_vocabulary=split_vocabulary, replicate_kv=replicate_kv)
    return connect(model, mesh, split_vocabulary)


def _of_llama(model: PreTrainedModel) -> PreTrainedModel:
    """``model``, or our model on the parameters of a plain Llama. Raises UserError for one of another kind."""
    if model.config.model_type == LadderConfig.model_type:  # ours, or an exported file's
        return model
    if type(model) is not LlamaForCausalLM:
        raise UserError(f"{type(model).__name__} cannot be sharded; give a LadderForCausalLM or a LlamaForCausalLM")
    if hasattr(model.model.layers[0], "rewiring"):
        raise UserError("a rewired LlamaForCausalLM cannot be sharded; save it, and give what ladder.load makes of it")
    settings = {key: value for key, value in model.config.to_dict().items() if key not in ("model_type", "auto_map")}
    settings["tie_word_embeddings"] = model.lm_head.weight is model.model.embed_tokens.weight
    config = LadderConfig(**settings | {"architectures": ["LadderForCausalLM"]})
    config._attn_implementation = model.config._attn_implementation
    with torch.device("meta"):
        new = LadderForCausalLM(config)
    new.load_state_dict(model.state_dict(keep_vars=True), assign=True)  # the parameters themselves
    new.tie_weights()
    new.model.rotary_emb = model.model.rotary_emb  # its buffers are computed, not loaded
    new.generation_config = model.generation_config
    return new.train(model.training)


def shard(
    model: PreTrainedModel,
    rank: int,
    size: int,
    weight: Callable[[str, torch.nn.Parameter], torch.Tensor] = lambda name, parameter: parameter.detach(),
    copy: bool = True,
    split_vocabulary: bool = False,
    replicate_kv: bool = False,
) -> None:
    """Give ``model`` rank ``rank``'s slices of ``size``, in place.

    weight: full value of the parameter called so (default: its own), for models built on the meta device; anything that
        can be indexed with a tuple of slices, so that a file's slice is read without the rest of it.
    copy: own memory for each slice; otherwise views of the full value.
    """
    config, inner = model.config, model.model
    check_tied(config, size)
    # Whatever config.json says, transformers leaves a head of other values than the embeddings alone; so do we.
    config.tie_word_embeddings = model.lm_head.weight is inner.embed_tokens.weight
    check_degree(config, size, split_vocabulary or inner.rows.ends_apart, replicate_kv)
    inner.set_virtual_ranks(1)
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        index = slicing.part(name, tuple(parameter.shape), rank, size, config, split_vocabulary)
        value = weight(name, parameter)[index]
        value = value.clone(memory_format=torch.contiguous_format) if copy else value
        trains = parameter.requires_grad
        if leaf == "bias" and slicing.style(owner) == "rowwise" and rank:
            # It would be summed over ranks: one rank adds it, and it alone trains it.
            value, trains = torch.zeros_like(value), False
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=trains))
    for layer in inner.layers:
        attention = layer.self_attn
        heads = attention.q_proj.weight.shape[0] // attention.k_proj.weight.shape[0]
        attention.num_key_value_groups = heads
    model.tie_weights()


def check_tied(config, size: int) -> None:
    """Refuse to run a wiring that belongs to one number of ranks on another."""
    belongs = config.tensor_parallel_size
    if belongs is not None and belongs != size:
        raise UserError(
            f"wiring {config.wiring!r} of this checkpoint belongs to tensor-parallel degree {belongs}: its ranks read "
            f"their own shares, so on {size} it would be another function; use {belongs} ranks, or convert the "
            f"original with --tp {size}"
        )


def connect(model: PreTrainedModel, mesh: DeviceMesh, split_vocabulary: bool = False) -> PreTrainedModel:
    """Let a sharded model talk over ``mesh``."""
    inner, group = model.model, mesh.get_group()
    inner.all_reduce = ProcessGroup(group).all_reduce
    inner.run = Backward(inner, group)
    apart = inner.rows.ends_apart
    if split_vocabulary:
        inner.embed_tokens = Embedding.of(inner.embed_tokens, group)
    if split_vocabulary or apart:
        model.lm_head = Head.of(model.lm_head, group, split_vocabulary, apart)
        model.tie_weights()
    if apart:  # each rank's norm saw its own stream only
        inner.norm.weight.register_hook(lambda gradient: summed(gradient, group))
    return model


def build(config: LadderConfig, rank: int, size: int, weight, copy: bool = True, **choices: bool) -> LadderForCausalLM:
    """Rank ``rank``'s shard of ``size``, in evaluation mode, of a model that never exists as a whole.

    weight, copy and choices as for :func:`shard`.
    """
    with torch.device("meta"):
        model = LadderForCausalLM(config)
    shard(model, rank, size, weight, copy, **choices)
    norm = model.model.norm.weight
    rotary = type(model.model.rotary_emb)(config)  # its buffers are computed, not loaded
    model.model.rotary_emb = rotary.to(norm.device)
    config.dtype = norm.dtype
    return model.eval()
