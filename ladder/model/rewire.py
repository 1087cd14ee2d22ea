"""Any decoder under a wiring: the residual stream of a transformers model, run layer by layer by a wiring's table.

    model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-8B")
    ladder.rewire(model, "ladder@16-31")

The model keeps its class, configuration, masks, caches, rotary embeddings and generation. Only the layers' forward is
replaced: inside the family's own loop over its layers they hand on one stream (ladder.residual). How a layer is cut
into modules is a row of FORMS, recognised from the layer's submodules, and proved on the model itself: rewired as
``standard`` it must give the untouched model's logits to the last bit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ladder.errors import UserError
from ladder.files import write_json
from ladder.reading import read_json
from ladder.residual import Landed, Module, ResidualStream, Row, Table, run
from ladder.wiring import Wiring

PROBE = (2, 5)  # rows, tokens


class Part(NamedTuple):
    """One module of a layer: the names of the norm that it reads through, of the module, of the norm of its output."""

    norm: str | None
    module: str
    after: str | None = None


@dataclass(frozen=True)
class Form:
    """How the layers of a family are made, in words and by the names of their submodules."""

    words: str
    attention: Part
    mlp: Part

    def names(self) -> set[str]:
        return {name for part in (self.attention, self.mlp) for name in part if name}


FORMS = (
    Form(
        "a norm before each module (Llama)",
        Part("input_layernorm", "self_attn"),
        Part("post_attention_layernorm", "mlp"),
    ),
    Form(
        "a norm after each module (OLMo-2)",
        Part(None, "self_attn", "post_attention_layernorm"),
        Part(None, "mlp", "post_feedforward_layernorm"),
    ),
    Form(
        "norms before and after each module (Gemma-2)",
        Part("input_layernorm", "self_attn", "post_attention_layernorm"),
        Part("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
    ),
    Form(
        "norms before and after each module (GLM-4)",
        Part("input_layernorm", "self_attn", "post_self_attn_layernorm"),
        Part("post_attention_layernorm", "mlp", "post_mlp_layernorm"),
    ),
    Form(
        "norms before and after each module (AFMoE)",
        Part("input_layernorm", "self_attn", "post_attention_layernorm"),
        Part("pre_mlp_layernorm", "mlp", "post_mlp_layernorm"),
    ),
    Form(
        "a norm before each module (Granite-MoE)",
        Part("input_layernorm", "self_attn"),
        Part("post_attention_layernorm", "block_sparse_moe"),
    ),
    Form(
        "a norm before each module (Llama 4)",
        Part("input_layernorm", "self_attn"),
        Part("post_attention_layernorm", "feed_forward"),
    ),
    Form(
        "a norm before each module (Apertus)",
        Part("attention_layernorm", "self_attn"),
        Part("feedforward_layernorm", "mlp"),
    ),
    Form("a norm before each module (GPT-2)", Part("ln_1", "attn"), Part("ln_2", "mlp")),
)


def form_of(layer: nn.Module) -> Form:
    """The form of a decoder layer. Raises UserError naming what about it is not understood."""
    names = {name for name, child in layer.named_children() if not isinstance(child, nn.Dropout | nn.Identity)}
    for name, child in layer.named_children():  # which a rewired layer passes by
        if isinstance(child, nn.Dropout) and child.p:
            raise UserError(f"{type(layer).__name__}: drops {child.p:g} of its outputs ({name}); set that to 0 first")
    for form in FORMS:
        if form.names() == names:
            return form
    nearest = min(FORMS, key=lambda form: len(form.names() ^ names))
    missing, excess = sorted(nearest.names() - names), sorted(names - nearest.names())
    said = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(excess)} besides"] * bool(excess)
    raise UserError(f"{type(layer).__name__}: not a form of layer that is known ({'; '.join(said)})")


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The decoder's layers: the list of them that is as long as the configuration says, and stands in a base model.

    Raises UserError where there is none.
    """
    config = model.config.get_text_config(decoder=True)
    depth = getattr(config, "num_hidden_layers", None)
    for _, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(f"{type(model).__name__}: no list of {depth} decoder layers in it")


class Rewiring:
    """What the layers of one model share: the table, and during a forward pass the stream."""

    def __init__(self, rows: Sequence[Row], all_reduce: Callable):
        self.table, self.all_reduce, self.begin = Table(rows), all_reduce, ResidualStream
        self.stream: ResidualStream | None = None

    def layer(self, number: int, layer: nn.Module, form: Form, x: torch.Tensor, arguments: dict) -> torch.Tensor:
        """Run layer ``number`` of the stream that began as ``x`` [B, S, D]; what has landed of it, or its end."""
        if number == 0:
            self.stream = self.begin(x, self.table, self.all_reduce)
        stream = self.stream
        stream.run(_module(layer, form.attention, arguments))
        stream.run(_module(layer, form.mlp, {}))
        if 2 * number + 2 < len(self.table):
            return stream.x
        self.stream = None
        return stream.end()


def _module(layer: nn.Module, part: Part, arguments: dict) -> Module:
    norm = getattr(layer, part.norm) if part.norm else _same
    after = getattr(layer, part.after) if part.after else None
    scale = getattr(layer, "residual_multiplier", None)
    compute = partial(_compute, getattr(layer, part.module), scale if after is None else None, arguments)
    if getattr(layer, "gradient_checkpointing", False) and layer.training:
        compute = partial(layer._gradient_checkpointing_func, compute)
    return Module(norm, compute, after)


def _same(x):
    return x


def _compute(module: nn.Module, scale: float | None, arguments: dict, normed: torch.Tensor) -> torch.Tensor:
    output = module(normed, **arguments)
    output = output[0] if isinstance(output, tuple) else output
    output = output.view_as(normed)  # Llama 4's experts give [B S, D]
    return output if scale is None else output * scale


def _arguments(module: nn.Module, given: dict) -> dict:
    """Of the arguments of a layer those that its attention takes."""
    parameters = signature(module.forward).parameters
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}


def rewire(model: nn.Module, wiring: str, all_reduce: Callable = Landed) -> nn.Module:
    """Let the layers of ``model``, a causal language model of transformers, run by ``wiring``, in place; return it.

    all_reduce: launches the sum of a partial output over ranks; of one rank the output is the sum.
    Raises UserError where the wiring does not fit the model, and where the family's layers are not understood; the
    model is then as it was.
    """
    depth = len(layers_of(model))
    run_by(model, Wiring.parse(wiring).of_model(depth).table(depth), wiring, all_reduce)
    model.save_pretrained = partial(_save, model, wiring)
    return model


def _save(model: nn.Module, wiring: str, save_directory: str, *args, **words) -> None:
    """transformers' ``save_pretrained``, and then the wiring: the family's own configuration would be read, without a
    word, as that of another function."""
    from ladder.model.families import rewired

    type(model).save_pretrained(model, save_directory, *args, **words)
    file = Path(save_directory) / "config.json"
    write_json(file, rewired(read_json(file), wiring))


def run_by(model: nn.Module, table: Table, wiring: str, all_reduce: Callable = Landed) -> nn.Module:
    """:func:`rewire` by the wiring's table."""
    layers = layers_of(model)
    if hasattr(layers[0], "rewiring"):
        restore(model)
    forms = [form_of(layer) for layer in layers]
    if table.signal:
        raise UserError(f"wiring {wiring!r} needs a norm of the first attention, which {type(model).__name__} lacks")
    if table.has("hold") and (form := next((form for form in forms if form.attention.after), None)):
        raise UserError(f"wiring {wiring!r} reduces two modules together, and layers with {form.words} norm each sum")
    expected, whole = _untouched(model, layers)
    rewiring = Rewiring([Row()] * len(table), all_reduce)
    for number, (layer, form) in enumerate(zip(layers, forms, strict=True)):
        layer.__class__ = _rewired(type(layer))
        layer.rewiring, layer.place = rewiring, (number, form, whole)
    if expected is not None:
        try:
            same = torch.equal(_logits(model), expected)
        except Exception as error:  # whatever a family's loop expects of its layers that ours do not give
            same, reason = False, f" ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
        else:
            reason = ""
        if not same:
            restore(model)
            raise UserError(f"{type(model).__name__}: its layers do more than their submodules say{reason}")
    set_table(model, table)
    return model


def set_table(model: nn.Module, table: Table) -> None:
    """Exchange the table of a rewired model, or of this package's own Llama."""
    if hasattr(first := layers_of(model)[0], "rewiring"):
        first.rewiring.table = table
    else:
        model.model.rows = table


def set_stream(model: nn.Module, begin: Callable) -> None:
    """Let ``begin``, called as :class:`ResidualStream` is, make the streams of a model that has a table."""
    if hasattr(first := layers_of(model)[0], "rewiring"):
        first.rewiring.begin = begin
    else:
        model.model.run = partial(run, begin=begin)


def set_wiring(model: nn.Module, wiring: str, tp: int | None = None) -> None:
    """Rewire a model of any family in place. ``tp``: the number of ranks of a wiring that depends on it (own Llama)."""
    if hasattr(model.base_model, "set_wiring"):
        model.base_model.set_wiring(wiring, tp)
    else:
        rewire(model, wiring)


def restore(model: nn.Module) -> nn.Module:
    """Undo :func:`rewire`."""
    for layer in layers_of(model):
        layer.__class__ = type(layer).__mro__[1]
        del layer.rewiring, layer.place
    vars(model).pop("save_pretrained", None)
    return model


def _untouched(model: nn.Module, layers: nn.ModuleList) -> tuple[torch.Tensor | None, bool]:
    """(logits, whether layers return a tensor and not a tuple); no logits of a model without weights."""
    if any(parameter.is_meta for parameter in model.parameters()):
        return None, True
    whole = []
    hook = layers[0].register_forward_hook(lambda module, given, output: whole.append(isinstance(output, torch.Tensor)))
    try:
        return _logits(model), whole[0]
    finally:
        hook.remove()


@torch.no_grad()
def _logits(model: nn.Module) -> torch.Tensor:
    training = model.training
    model.eval()
    try:
        device = next(model.parameters()).device
        vocabulary = model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(math.prod(PROBE), device=device).view(PROBE) % vocabulary
        return model(input_ids=ids, use_cache=False).logits
    finally:
        model.train(training)


def _rewired(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a layer with our forward. It keeps its name, by which transformers and FSDP find layers; recomputing
    in backward goes by module, as the stream passes through all layers."""
    names = list(signature(kind.forward).parameters)[1:]

    def forward(self, *args, **kwargs):
        number, form, whole = self.place
        given = dict(zip(names, args, strict=False)) | kwargs
        x = given.pop(names[0])
        attention = getattr(self, form.attention.module)
        x = self.rewiring.layer(number, self, form, x, _arguments(attention, given))
        return x if whole else (x,)

    unwrapped = classmethod(lambda cls, **kwargs: None)  # transformers wraps the forward of a layer's subclasses
    rewired = type(kind.__name__, (kind,), {"__call__": nn.Module.__call__, "__init_subclass__": unwrapped})
    rewired.forward = forward
    return rewired
