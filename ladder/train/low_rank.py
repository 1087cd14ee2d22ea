"""Training a part of a model: layers that are chosen, or a low-rank change to their matrices."""

from collections.abc import Collection

import torch
from torch import nn

from ladder.errors import UserError
from ladder.model.forms import layers_of


class LowRank(nn.Module):
    """``linear``, which is frozen, and beside it ``up @ down`` of a low rank, which begins as 0.

    [..., in] -> [..., out]. A product with their sum would need the gradient of the whole matrix.
    """

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        self.linear = linear
        self.low_rank_down = nn.Linear(linear.in_features, rank, bias=False)
        self.low_rank_up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.low_rank_up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.low_rank_up(self.low_rank_down(x))


def freeze(model: nn.Module, layers: Collection[int]) -> None:
    """Leave nothing to train but the chosen layers, and the norm that conversion may have added."""
    model.requires_grad_(False)
    for number, layer in enumerate(layers_of(model)):
        layer.requires_grad_(number in layers)
    if norm := getattr(model.base_model, "first_attention_norm", None):
        norm.requires_grad_(True)


def add_low_rank(model: nn.Module, layers: Collection[int], rank: int) -> None:
    """Train a change of ``rank`` to every linear map of the chosen layers, in place of their parameters."""
    for number in layers:
        layer = layers_of(model)[number].requires_grad_(False)
        linear = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
        if not linear:
            raise UserError(f"{type(layer).__name__}: has no linear maps to change by --method lora; use distill")
        for name, module in linear.items():
            layer.set_submodule(name, LowRank(module, rank))


def merged(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a model, by name, with every change added to its matrix: those of the plain model."""
    plain = {name.replace(".linear.", "."): value for name, value in weights.items() if ".low_rank_" not in name}
    for name, down in weights.items():
        if name.endswith(".low_rank_down.weight"):
            up = weights[name.replace("_down.", "_up.")]
            plain[name.replace(".low_rank_down.", ".")] += up @ down
    return plain
