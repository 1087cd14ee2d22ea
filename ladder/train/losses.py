"""Losses of the final hidden states, a piece at a time: the logits of all tokens never exist together.

At a vocabulary of 128,000 the logits of one token take half a megabyte in fp32, those of a batch more than the model.
So the head runs over pieces of the tokens, and the gradients of a piece are taken before the next one is begun: nothing
that has a row per word outlives its piece, except the head's own gradient, and no product is computed twice.

Shapes: B rows, S tokens, N of those B x S tokens, D width of the head's input, V vocabulary, K terms.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch.distributed.fsdp import FSDPModule

from ladder.model.forms import layers_of
from ladder.train.batches import IGNORE

# Of a piece, at most: half a gigabyte in fp32, which a GPU needs to be busy. There are several arrays of that size.
LOGITS = {"cuda": 2**27, "cpu": 2**23}


def token_losses(model, batch, device) -> torch.Tensor:
    """Cross-entropy in fp32 of every token, in nats, without gradient: [B, S], 0 where the target is not scored."""
    with torch.no_grad():
        return measure(model, batch, device, {"loss": 1.0})[1]["loss"]


def measure(
    model, batch, device, weights: Mapping[str, float], teacher=None, temperature: float = 1.0, most: int | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(sum over terms and tokens of weight x value, {term: its values [B, S], without gradient}).

    weights: of the terms to compute. ``loss``: cross-entropy of the scored tokens; ``kl``: KL divergence of the
    teacher's distribution to the model's, both at ``temperature``, times its square, which keeps the gradient's size;
    ``hidden``: mean squared difference of the final normed hidden states. The last two: every token but padding.
    teacher: frozen, of the same vocabulary; for ``hidden`` of the same width too. most: logits of a piece.
    """
    chosen = tokens(batch) if teacher is not None else batch.targets != IGNORE
    index = None if chosen.all() else torch.from_numpy(np.flatnonzero(chosen)).to(device)
    inputs, targets, positions = (None if a is None else torch.from_numpy(a).to(device) for a in batch)
    given = {"input_ids": inputs, "position_ids": positions, "use_cache": False}

    def picked(x: torch.Tensor) -> torch.Tensor:  # [B, S, ...] -> [N, ...]
        x = x.flatten(0, 1)
        return x if index is None else x[index]

    targets = picked(targets)
    if teacher is not None:
        with torch.no_grad():
            known, teacher_head = scored(teacher, lambda hidden, head: (picked(hidden), head), **given)  # [N, D]
        if isinstance(teacher, FSDPModule):
            teacher.unshard()  # the head too, which runs outside of its forward

    def terms(hidden: torch.Tensor, head: Callable, piece: slice) -> torch.Tensor:
        """[n, D] -> [K, n]"""
        logits = head(hidden[None])[0].float()
        found = {}
        if "loss" in weights:
            found["loss"] = F.cross_entropy(logits, targets[piece], ignore_index=IGNORE, reduction="none")
        if "kl" in weights:
            with torch.no_grad():
                expected = teacher_head(known[piece][None])[0].float()
            found["kl"] = divergence(expected, logits, temperature)
        if "hidden" in weights:
            apart = hidden.unflatten(-1, (-1, known.shape[-1]))  # streams that end apart: each against the teacher's
            found["hidden"] = (apart.float() - known[piece].float()[:, None]).square().mean((1, 2))
        return torch.stack([found[name] for name in weights])

    def score(hidden: torch.Tensor, head: Callable) -> tuple[torch.Tensor, torch.Tensor]:
        factors = torch.tensor(list(weights.values()), device=device)
        return in_pieces(terms, factors, picked(hidden), head, most or LOGITS[inputs.device.type])

    total, values = scored(model, score, **given)
    if index is not None:
        everywhere = values.new_zeros(len(values), batch.targets.size)
        everywhere[:, index] = values
        values = everywhere
    return total, dict(zip(weights, values.unflatten(1, batch.targets.shape), strict=True))


def scored(model, score: Callable, **given):
    """What ``score(hidden, head)`` gives of the final normed hidden states [B, S, D] (streams that end apart: [B, S,
    T x D]), of a model of any family. It runs in the model's forward, where sharded weights are whole."""
    layers = layers_of(model)
    name, decoder = next(child for child in model.named_children() if any(m is layers for m in child[1].modules()))

    def forward(**given):
        output = decoder(**given)
        return score(output.last_hidden_state.flatten(2), FamilyHead(model, name, output))

    model.forward = forward
    try:
        return model(**given)
    finally:
        del model.forward


class FamilyHead:
    """What a family makes of final hidden states [B, S, D]: its own forward around a decoder that gives them, so that
    logits are scaled and capped as the family does it. output: what its decoder, the submodule ``name``, gave."""

    def __init__(self, model, name: str, output):
        self.model, self.name, self.output, head = model, name, output, model.get_output_embeddings()
        self.out_features, self.parameters = head.weight.shape[0], head.parameters

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        inside, name = self.model._modules, self.name
        decoder, inside[name] = inside[name], _Given(replace(self.output, last_hidden_state=hidden))
        try:
            return type(self.model).forward(self.model, inputs_embeds=hidden, use_cache=False).logits
        finally:
            inside[name] = decoder


class _Given(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, *args, **kwargs):
        return self.output


def tokens(batch) -> np.ndarray:
    """Which tokens are not padding: bool [B, S]. Every packed conversation has a scored token, padding has none."""
    if batch.positions is None:
        return np.ones(batch.targets.shape, bool)
    row = np.arange(len(batch.targets))[:, None] * (batch.targets.shape[1] + 1)
    block = row + np.cumsum(batch.positions == 0, axis=1)
    return np.isin(block, block[batch.targets != IGNORE])


def divergence(expected: torch.Tensor, logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(softmax(expected / t) || softmax(logits / t)) x t^2 of logits [n, V], in nats: [n]."""
    expected, logits = (F.log_softmax(x / temperature, -1) for x in (expected, logits))
    return F.kl_div(logits, expected, reduction="none", log_target=True).sum(-1) * temperature**2


def in_pieces(
    terms: Callable, weights: torch.Tensor, hidden: torch.Tensor, head: Callable, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weights @ values summed over tokens, values [K, N] without gradient) of ``terms(hidden, head, piece)`` [K, n].

    ``hidden`` [N, D] goes through ``head`` in pieces of at most ``most`` logits.
    """
    length = max(1, most // head.out_features)
    if len(hidden) <= length:
        values = terms(hidden, head, slice(None))
        return weights @ values.sum(1), values.detach()
    if not torch.is_grad_enabled():
        pieces = (slice(start, start + length) for start in range(0, len(hidden), length))
        values = torch.cat([terms(hidden[piece], head, piece) for piece in pieces], 1)
        return weights @ values.sum(1), values
    return _Pieces.apply(hidden, head, terms, weights, length, *trained(head))


def trained(head) -> list[torch.nn.Parameter]:
    return [parameter for parameter in head.parameters() if parameter.requires_grad]


class _Pieces(torch.autograd.Function):
    """The gradients are those of the weighted sum, taken in forward; backward only scales them."""

    @staticmethod
    def forward(ctx, hidden, head, terms, weights, length, *parameters):
        of_hidden = torch.empty_like(hidden)
        of_head = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
        values = []
        for start in range(0, len(hidden), length):
            piece = slice(start, start + length)
            with torch.enable_grad():
                part = hidden[piece].detach().requires_grad_()
                found = terms(part, head, piece)
                of_hidden[piece], *more = torch.autograd.grad(weights @ found.sum(1), (part, *parameters))
            for gradient, of_piece in zip(of_head, more, strict=True):
                gradient += of_piece
            values.append(found.detach())
        of_head = [gradient.to(parameter.dtype) for gradient, parameter in zip(of_head, parameters, strict=True)]
        ctx.gradients = of_hidden, of_head
        values = torch.cat(values, 1)
        ctx.mark_non_differentiable(values)
        return weights @ values.sum(1), values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, scale, _):
        of_hidden, of_head = ctx.gradients
        return of_hidden.mul_(scale), None, None, None, None, *(gradient.mul_(scale) for gradient in of_head)
