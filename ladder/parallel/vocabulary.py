"""Embeddings and LM head split over the vocabulary: a rank holds V / T rows, and every rank gets full logits.

Shapes: B batch, S tokens, D hidden size, V vocabulary, T ranks.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


def summed(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The sum over ranks, in memory of its own."""
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


class _Copy(torch.autograd.Function):
    """The same on every rank; what the ranks do with it differs, so its gradient is summed over them."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return summed(gradient, ctx.group), None


class _Sum(torch.autograd.Function):
    """The sum over ranks; what follows is the same on every rank, and so is the gradient."""

    @staticmethod
    def forward(ctx, x, group):
        return summed(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class _Gather(torch.autograd.Function):
    """[B, S, V / T] of each rank -> [B, S, V] on all; what follows is the same on every rank."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.rank, ctx.size = dist.get_rank(group), group.size()
        parts = [torch.empty_like(x) for _ in range(ctx.size)]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, -1)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.chunk(ctx.size, -1)[ctx.rank].contiguous(), None


class Embedding(nn.Embedding):
    """Token embeddings of which this rank holds the rows of its part of the vocabulary."""

    @classmethod
    def of(cls, embedding: nn.Embedding, group: dist.ProcessGroup) -> "Embedding":
        """``embedding``: with this rank's rows only."""
        rows, width = embedding.weight.shape
        new = cls(rows, width, device="meta")
        new.weight, new.group, new.start = embedding.weight, group, dist.get_rank(group) * rows
        pad = embedding.padding_idx  # its row gets no gradient
        new.padding_idx = pad - new.start if pad is not None and 0 <= pad - new.start < rows else None
        return new

    @torch.compiler.disable
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[B, S] -> [B, S, D]"""
        ids = ids - self.start
        elsewhere = (ids < 0) | (ids >= self.num_embeddings)
        found = super().forward(ids.masked_fill(elsewhere, 0)).masked_fill(elsewhere.unsqueeze(-1), 0)
        return _Sum.apply(found, self.group)


class Head(nn.Linear):
    """The LM head of which this rank computes its part of the vocabulary.

    split: this rank holds its part's rows only. apart: the ranks' inputs differ, each feeds its own part.
    """

    @classmethod
    def of(cls, head: nn.Linear, group: dist.ProcessGroup, split: bool, apart: bool) -> "Head":
        new = cls(head.in_features, head.weight.shape[0], bias=False, device="meta")
        new.weight, new.group, new.split, new.apart = head.weight, group, split, apart
        return new

    @torch.compiler.disable
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, D] -> [B, S, V]"""
        weight = self.weight
        if not self.split:
            weight = _Copy.apply(weight, self.group).chunk(self.group.size())[dist.get_rank(self.group)]
        x = x if self.apart else _Copy.apply(x, self.group)
        return _Gather.apply(F.linear(x, weight), self.group)
