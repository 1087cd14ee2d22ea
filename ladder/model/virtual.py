"""T tensor-parallel ranks in one process, on the same parameters: for wirings whose function depends on T, on one
device; and the quickest way to check the sharding of any wiring.

Linear layers view their weights with a leading axis T, without a loop over the ranks; a module with experts is computed
rank by rank. Activations have the axis T before the hidden size: [B, S, T, D], or [B, S, 1, D] where all ranks have the
same.

Shapes: B batch, S tokens, T ranks, D hidden size.
"""

from functools import partial

import torch
from torch import nn

from ladder.errors import UserError
from ladder.model.slicing import check_splits, part, style
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


def all_reduce(shares: torch.Tensor) -> Landed:
    """[B, S, T, D] -> [B, S, 1, D]: the sum that every rank gets."""
    return Landed(shares.sum(2, keepdim=True))


class Colwise(nn.Linear):
    """Output features are split over the ranks whose inputs stand beside each other: [B, S, T x in] (or [B, S, T, in])
    -> [B, S, out].

    An input that all ranks share, [B, S, in], goes through the layer as it is.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2)
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


def compute(module: nn.Module, arguments: dict, normed: torch.Tensor, ranks: int) -> torch.Tensor:
    """Every rank's partial output [B, S, T, D] of an attention or MLP that reads ``normed`` [B, S, T or 1, D]."""
    if slices := vars(module).get("slices"):
        inputs = normed.expand(-1, -1, ranks, -1).unbind(2)
        outputs = (torch.func.functional_call(module, slices(module, rank), (x,)) for rank, x in enumerate(inputs))
        return torch.stack([output[0] if isinstance(output, tuple) else output for output in outputs], 2)
    output = module(normed.flatten(2), **arguments)
    output = output[0] if isinstance(output, tuple) else output
    if output.shape[2:] != (ranks, normed.shape[-1]):
        raise RuntimeError(f"{module} does not compute each rank's share: {ELSEWHERE}")
    return output


def replace(model: nn.Module, name: str, body: nn.Module, ranks: int) -> None:
    """Let an attention or MLP of ``model``, called ``name``, compute ``ranks`` ranks; 1: one, as usual. The parameters
    and their names stay as they are. Raises UserError where what one rank computes cannot be told from the others'."""
    config, linears = model.config, {}
    vars(body).pop("slices", None)
    if ranks > 1:
        check_splits(name, body, config)
    for path, module in body.named_modules(prefix=name):
        if isinstance(module, nn.Linear) and (how := style(path, config)):
            linears[path] = how
    if ranks > 1 and any(how.whole_input for how in linears.values()):
        raise UserError(f"{type(body).__name__}: its tensor-parallel plan gathers what each rank computes")
    mine = [path for path, _ in body.named_parameters(prefix=name)]
    if ranks > 1 and any(style(path, config) for path in mine):  # experts
        body.slices = partial(_slices, name, ranks, config)
        linears = {}
    for path, how in linears.items():
        kind = nn.Linear if ranks == 1 else Rowwise if how.summed else Colwise
        linear = model.get_submodule(path)
        if type(linear) is not kind:
            linear = same(linear, kind)
            model.set_submodule(path, linear)
        if kind is Rowwise:
            linear.ranks = ranks


def _slices(name: str, ranks: int, config, body: nn.Module, rank: int) -> dict[str, torch.Tensor]:
    return {path: part(p, f"{name}.{path}", rank, ranks, config) for path, p in body.named_parameters()}


def same(linear: nn.Linear, kind: type[nn.Linear]) -> nn.Linear:
    """A layer of another ``kind`` that shares all of ``linear``: parameters, hooks, whether it is initialised."""
    new = kind(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
    new.__dict__.update(linear.__dict__)
    return new
