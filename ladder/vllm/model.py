"""vLLM's own model of each family, its layers run by the wiring's operations (ladder.residual), unchanged.

The family's class makes the layers, loads the weights and runs its loop over the layers; what goes from layer to layer
as its "residual" is our stream. ``o_proj`` and ``down_proj`` give partial sums, and the communicator adds them up.

Shapes: N tokens of all sequences of a step, D hidden size.
"""

from functools import cache, partial

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.distributed import get_tp_group, tensor_model_parallel_all_reduce
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import RowParallelLinear
from vllm.model_executor.models import ModelRegistry

from ladder.errors import UserError
from ladder.model.families import SERVED
from ladder.model.forms import FORMS, form_of
from ladder.residual import Module, ResidualStream, Table
from ladder.vllm import communicator
from ladder.vllm.communicator import AllReduce, overlapped
from ladder.vllm.settings import check_compiled, wiring_of


class Stage:
    """What the layers of a model share."""

    def __init__(self, table: Table, signal_norm: nn.Module | None):
        self.table, self.overlapped, self.signal_norm = table, overlapped(table), signal_norm

    def stream(self, x: torch.Tensor) -> ResidualStream:
        """The stream of one forward pass, which begins as ``x`` [N, D]."""
        all_reduce = AllReduce(self.overlapped, tensor_model_parallel_all_reduce)
        return ResidualStream(x, self.table, all_reduce, self.signal_norm)


class Layer(nn.Module):
    """Mixed into a family's layer: what it hands on as hidden states and residual are the embeddings, which nobody
    reads, and the stream; the last layer hands on the stream's end."""

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: ResidualStream | None, **_):
        stream = self.stage.stream(hidden_states) if residual is None else residual
        attention = partial(_attention, self.self_attn, positions)
        stream.run(Module(self.input_layernorm, attention))
        stream.run(Module(self.post_attention_layernorm, self.mlp))
        return (stream.end(), None) if self.last else (hidden_states, stream)


class LastNorm(RMSNorm):
    """The norm after the last layer, for the family's loop, which gives it a residual."""

    def forward(self, x: torch.Tensor, residual: None = None):
        return super().forward(x), None


def _attention(attention: nn.Module, positions: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
    return attention(positions=positions, hidden_states=normed)


@cache
def _rewired(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (Layer, kind), {})


def rewire(model: nn.Module, vllm_config: VllmConfig) -> None:
    """Let a vLLM decoder without weights run by its configuration's wiring, in place."""
    config = vllm_config.model_config.hf_config
    _, table = wiring_of(config)
    check_compiled(vllm_config)
    communicator.connect(get_tp_group())
    communicator.guard()
    if table.signal:
        model.first_attention_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
    stage = Stage(table, getattr(model, "first_attention_norm", None))
    for number, layer in enumerate(model.layers):
        if form_of(layer) is not FORMS[0]:
            raise UserError(f"{type(layer).__name__}: not {FORMS[0].words}, which alone can be served")
        for module in layer.modules():
            if isinstance(module, RowParallelLinear):
                module.reduce_results = False
            elif hasattr(module, "moe_config"):
                module.moe_config.skip_final_all_reduce = True
        layer.__class__ = _rewired(type(layer))
        layer.stage, layer.last = stage, number == len(model.layers) - 1
    model.norm.__class__ = LastNorm


def served(family: type[nn.Module]) -> type[nn.Module]:
    """vLLM's class of a family, its layers rewired."""

    class Served(family):
        def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            rewire(self.model, vllm_config)

    return Served


def __getattr__(name: str) -> type[nn.Module]:
    """The class of an architecture: imports of vLLM's models only the one that is served."""
    if name not in SERVED:
        raise AttributeError(f"module 'ladder.vllm.model' has no attribute {name!r}")
    family = served(ModelRegistry.models[SERVED[name]].load_model_cls())
    family.__name__ = family.__qualname__ = name
    globals()[name] = family
    return family
