"""T tensor-parallel ranks in one process, without a loop over them: weights are viewed with a leading axis T.

For wirings whose function depends on T, on one device; and the quickest way to check the sharding of any wiring.
Activations have the axis T before the hidden size: [B, S, T, D], or [B, S, 1, D] where all ranks have the same.

Shapes: B batch, S tokens, T ranks, D hidden size.
"""

import torch
from torch import nn

from ladder.model.slicing import style
from ladder.residual import Landed

ELSEWHERE = (
    "this model computes all ranks of its wiring in one process (tensor_parallel_size in config.json), and no other "
    "engine may split it or put layers of its own in; load it whole in each process, or over ranks by ladder.load"
)


def check_whole(linear: nn.Linear) -> None:
    """Refuse to compute T ranks on a part of a weight: another engine's tensor parallelism has split it, and what it
    computes is another function than the T ranks that the model was trained with."""
    weight = linear.weight  # "placements": of a DTensor
    if hasattr(weight, "placements") or weight.shape != (linear.out_features, linear.in_features):
        raise RuntimeError(f"tensor parallelism has split {linear}: {ELSEWHERE}")


def check_ours(layers: nn.ModuleList) -> None:
    """Refuse layers that another engine has put in the place of those that give each rank's partial sum."""
    for layer in layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            if not isinstance(linear, Rowwise):
                raise RuntimeError(f"{linear} does not compute each rank's share: {ELSEWHERE}")


def all_reduce(partial: torch.Tensor) -> Landed:
    """[B, S, T, D] -> [B, S, 1, D]: the sum that every rank gets."""
    return Landed(partial.sum(2, keepdim=True))


class Colwise(nn.Linear):
    """Output features are split over the ranks whose inputs stand beside each other: [B, S, T x in] -> [B, S, out].

    An input that all ranks share, [B, S, in], goes through the layer as it is.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ranks = x.shape[-1] // self.in_features
        if ranks == 1:
            return super().forward(x)
        check_whole(self)
        x = x.unflatten(-1, (ranks, self.in_features))
        out = torch.einsum("bsti,toi->bsto", x, self.weight.unflatten(0, (ranks, -1))).flatten(2)
        return out if self.bias is None else out + self.bias


class Rowwise(nn.Linear):
    """Input features are split over ``ranks``: [B, S, in] -> the ranks' partial sums [B, S, T, out]."""

    ranks: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_whole(self)
        x = x.unflatten(-1, (self.ranks, -1))
        out = torch.einsum("bsti,oti->bsto", x, self.weight.unflatten(1, (self.ranks, -1)))
        if self.bias is None:
            return out
        return torch.cat([out[:, :, :1] + self.bias, out[:, :, 1:]], 2)  # it would be summed over ranks: one adds it


def replace(model: nn.Module, ranks: int) -> None:
    """Let the linear layers of ``model`` that tensor parallelism splits compute ``ranks`` ranks; 1: one, as usual.
    The parameters and their names stay as they are."""
    for name, linear in list(model.named_modules()):
        how = style(name)
        if how is None:
            continue
        kind = nn.Linear if ranks == 1 else Colwise if how == "colwise" else Rowwise
        if type(linear) is not kind:
            linear = same(linear, kind)
            model.set_submodule(name, linear)
        if kind is Rowwise:
            linear.ranks = ranks


def same(linear: nn.Linear, kind: type[nn.Linear]) -> nn.Linear:
    """A layer of another ``kind`` that shares all of ``linear``: parameters, hooks, whether it is initialised."""
    new = kind(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
    new.__dict__.update(linear.__dict__)
    return new
