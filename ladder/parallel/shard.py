"""Tensor parallelism applied from outside: slice the weights by the family's plan, inject a communicator."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from ladder.errors import UserError, explained
from ladder.model import checkpoint, slicing, tiny
from ladder.model.forms import decoder_of, layers_of
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.opened import Checkpoint
from ladder.model.rewire import bodies, logits, rewire, set_virtual_ranks
from ladder.model.weights import HEAD
from ladder.parallel.backward import Backward
from ladder.parallel.communicators import ProcessGroup, ThreadedRanks
from ladder.parallel.vocabulary import Embedding, Head, summed


def load(
    folder: str | Path,
    wiring: str | None = None,
    tp: int | None = None,
    *,
    dtype: str = "auto",
    mesh: DeviceMesh | None = None,
    **choices: bool,
):
    """(model, tokenizer) of a checkpoint, as :func:`ladder.model.checkpoint.load` gives them.

    wiring: another one than the checkpoint's, at ``tp`` ranks if it depends on them. With a 1-D ``mesh`` of ranks the
    model is this rank's shard, as :func:`parallelize` makes it with the same ``choices``, and only its slices are read,
    unless transformers joins the family's weights as it loads them: names and shapes are checked then, digests not.
    """
    if mesh is None:
        model, tokenizer = checkpoint.load(folder, dtype)
        return (model if wiring is None else rewire(model, wiring, tp)), tokenizer
    opened = Checkpoint.open(folder)
    if opened.family:
        whole = opened.family.skeleton
        opened.family.rewire(whole, *opened.wiring)
    else:
        with torch.device("meta"):
            whole = LadderForCausalLM(opened.model_config())
    check_split(whole.config.get_text_config(decoder=True).model_type)
    kept = HEAD not in opened.tensors or not opened.config["tie_word_embeddings"]  # else: tied only by config.json
    if get_model_conversion_mapping(whole, add_legacy=False) or wiring is not None or not kept:
        model, tokenizer = load(folder, wiring, tp, dtype=dtype)
        return parallelize(model, mesh, **choices), tokenizer
    if not hasattr(whole, "rewiring"):
        rewire(whole, "standard")
    weight = checkpoint.reader(opened, getattr(torch, opened.dtype if dtype == "auto" else dtype))
    model = fill(whole, mesh.get_local_rank(), mesh.size(), weight, copy=False, **choices).to(mesh.device_type)
    return connect(model, mesh, choices.get("split_vocabulary", False)), opened.tokenizer()


def parallelize(
    model: PreTrainedModel, mesh: DeviceMesh, split_vocabulary: bool = False, replicate_kv: bool = False
) -> PreTrainedModel:
    """Shard a loaded causal language model of any family in place over a 1-D ``mesh``, one slice a rank; return it.

    It trains and generates as before: every rank returns full logits, and holds the gradients of its slices. A model
    that was not rewired has the wiring ``standard``.

    split_vocabulary: embeddings and LM head are split too, instead of replicated.
    replicate_kv: with more ranks than KV heads, give several ranks the same head, instead of refusing.

    Raises UserError if the mesh's size does not divide what is split, or is not the one that the wiring belongs to, and
    for a family whose tensor-parallel plan is not understood.
    """
    if mesh.ndim != 1:
        raise UserError(f"tensor parallelism needs a 1-D mesh, got {mesh.ndim} dimensions; pass one of its sub-meshes")
    if not hasattr(model, "rewiring"):
        rewire(model, "standard")
    check_split(model.config.get_text_config(decoder=True).model_type)
    shard(model, mesh.get_local_rank(), mesh.size(), split_vocabulary=split_vocabulary, replicate_kv=replicate_kv)
    return connect(model, mesh, split_vocabulary)


def own(name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
    return parameter.detach()


def shard(
    model: PreTrainedModel,
    rank: int,
    size: int,
    weight: Callable[[str, torch.nn.Parameter], torch.Tensor] = own,
    copy: bool = True,
    split_vocabulary: bool = False,
    replicate_kv: bool = False,
) -> None:
    """Give ``model``, a rewired one, rank ``rank``'s slices of ``size``, in place.

    weight: full value of the parameter called so (default: its own), for models built on the meta device; anything that
        can be indexed with a tuple of slices, so that a file's slice is read without the rest of it.
    copy: own memory for each slice; otherwise views of the full value.
    """
    config = model.config
    text = config.get_text_config(decoder=True)
    check_tied(config, size)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    # Whatever config.json says, transformers leaves a head of other values than the embeddings alone; so do we.
    config.tie_word_embeddings = head.weight is embeddings.weight
    if getattr(text, "output_router_logits", False):
        raise UserError("output_router_logits: the loss of a router is not summed over ranks; set it to False")
    slicing.check_degree(text, size, split_vocabulary or model.rewiring.table.ends_apart, replicate_kv)
    for name, body in bodies(model):
        slicing.check_splits(name, body, config)
    set_virtual_ranks(model, 1)
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        value = slicing.part(weight(name, parameter), name, rank, size, config, split_vocabulary)
        value = value.clone(memory_format=torch.contiguous_format) if copy else value
        trains = parameter.requires_grad
        how = slicing.cut(name, config)
        if how.summed and how.dim is None and rank:
            # A bias would be summed over ranks: one rank adds it, and it alone trains it.
            value, trains = torch.zeros_like(value), False
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=trains))
    for name, module in model.named_modules():
        if (
            size > 1
            and isinstance(module, torch.nn.Linear)
            and (how := slicing.style(name, config))
            and how.whole_input
        ):
            module.register_forward_pre_hook(partial(_mine, rank, size))
        if hasattr(module, "num_key_value_groups") and hasattr(module, "k_proj"):
            heads = config.get_text_config(decoder=True).num_key_value_heads
            if heads < size:  # neighbours hold the same
                module.num_key_value_groups = module.num_key_value_groups * heads // size
    model.tie_weights()


def _mine(rank: int, size: int, module: torch.nn.Module, given: tuple) -> tuple:
    return (given[0].chunk(size, -1)[rank],)


def check_tied(config, size: int) -> None:
    """Refuse to run a wiring that belongs to one number of ranks on another."""
    belongs = getattr(config, "tensor_parallel_size", None)
    if belongs is not None and belongs != size:
        raise UserError(
            f"wiring {config.wiring!r} of this checkpoint belongs to tensor-parallel degree {belongs}: its ranks read "
            f"their own shares, so on {size} it would be another function; use {belongs} ranks, or convert the "
            f"original with --tp {size}"
        )


@cache
def check_split(family: str) -> None:
    """Try the family's plan on a small model of it: two ranks together give its logits, or UserError. A family that has
    no small model is taken at its plan's word."""
    try:
        whole, *ranks = (tiny.tiny(family) for _ in range(3))
    except tiny.NoSmallModel:
        return

    def of_rank(rank: int, all_reduce: Callable) -> float:
        ranks[rank].rewiring.all_reduce = all_reduce
        return (logits(ranks[rank]) - expected).abs().max().item()

    with explained(f"{family} cannot be split over ranks"):
        expected = logits(whole)
        for rank, model in enumerate(ranks):
            shard(rewire(model, "standard"), rank, 2)
        apart = max(ThreadedRanks(2).run(of_rank))
    if not apart < 1e-4 * max(1, expected.abs().max().item()):
        raise UserError(f"{family} cannot be split over ranks: its modules are no sums over what its plan splits")


def connect(model: PreTrainedModel, mesh: DeviceMesh, split_vocabulary: bool = False) -> PreTrainedModel:
    """Let a sharded model talk over ``mesh``."""
    rewiring, group = model.rewiring, mesh.get_group()
    rewiring.all_reduce, rewiring.begin = ProcessGroup(group).all_reduce, Backward(model, group)
    apart = rewiring.table.ends_apart
    if split_vocabulary:
        model.set_input_embeddings(Embedding.of(model.get_input_embeddings(), group))
    if split_vocabulary or apart:
        model.set_output_embeddings(Head.of(model.get_output_embeddings(), group, split_vocabulary, apart))
        model.tie_weights()
    if apart:  # each rank's norm saw its own stream only
        decoder_of(model)[1].norm.weight.register_hook(lambda gradient: summed(gradient, group))
    return model


def build(config: LadderConfig, rank: int, size: int, weight, copy: bool = True, **choices: bool) -> LadderForCausalLM:
    """Rank ``rank``'s shard of ``size``, in evaluation mode, of a model that never exists as a whole.

    weight, copy and choices as for :func:`shard`.
    """
    with torch.device("meta"):
        model = LadderForCausalLM(config)
    return fill(model, rank, size, weight, copy, **choices)


def fill(model: PreTrainedModel, rank: int, size: int, weight, copy: bool, **choices: bool) -> PreTrainedModel:
    """:func:`shard` of a model without weights; its buffers are computed, not loaded."""
    shard(model, rank, size, weight, copy, **choices)
    like = next(layers_of(model).parameters())
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # so that only buffers are
    for module in model.modules():
        buffers = {name: buffer for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        for name, buffer in buffers.items():
            setattr(module, name, torch.empty_like(buffer, device=like.device))
        if buffers:
            model._init_weights(module)
    model.config.dtype = like.dtype
    return model.eval()
