"""Any decoder under a wiring: the residual stream of a transformers model, run layer by layer by a wiring's table.

    model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-8B")
    ladder.rewire(model, "ladder@16-31")

The model keeps its class, configuration, masks, caches, rotary embeddings and generation. Only the layers' forward is
replaced: inside the family's own loop over its layers they hand on one stream (ladder.residual). How a layer is cut
into modules (ladder.model.forms) is proved on the model itself: rewired as ``standard`` it must give the untouched
model's logits to the last bit.
"""

import math
from collections.abc import Iterator
from functools import partial
from inspect import Parameter, signature
from pathlib import Path

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ladder.errors import UserError
from ladder.files import write_json
from ladder.model import virtual
from ladder.model.forms import Form, Part, decoder_of, form_of, layers_of
from ladder.model.slicing import check_degree
from ladder.reading import read_json
from ladder.residual import Landed, Module, ResidualStream, Row, Table
from ladder.wiring import Wiring

PROBE = (2, 5)  # rows, tokens
SIGNAL = "first_attention_norm"


class Rewiring:
    """What the layers of one model share: the table, how it is run, and during a forward pass the stream.

    all_reduce: launches the sum of a partial output over ranks; of one rank the output is the sum. begin: what runs a
    pass, ``ResidualStream`` or the like. ranks: that are computed in this process (ladder.model.virtual).
    """

    def __init__(self, table: Table):
        self.table, self.all_reduce, self.begin, self.ranks = table, Landed, ResidualStream, 1
        self.signal_norm: nn.Module | None = None
        self.stream: ResidualStream | None = None

    def layer(self, number: int, layer: nn.Module, form: Form, x: torch.Tensor, arguments: dict) -> torch.Tensor:
        """Run layer ``number`` of the stream that began as ``x`` [B, S, D]; what has landed of it, or its end: of
        streams that end apart [B, S, T, D]."""
        if number == 0:
            x = x.unsqueeze(2) if self.ranks > 1 else x
            self.stream = self.begin(x, self.table, self.all_reduce, self.signal_norm)
        stream = self.stream
        stream.run(self._module(layer, form.attention, arguments))
        stream.run(self._module(layer, form.mlp, {}))
        if 2 * number + 2 < len(self.table):
            x = stream.x
        else:
            x, self.stream = stream.end(), None
        return x.squeeze(2) if self.ranks > 1 else x

    def _module(self, layer: nn.Module, part: Part, arguments: dict) -> Module:
        norm = getattr(layer, part.norm) if part.norm else _same
        after = getattr(layer, part.after) if part.after else None
        scale = getattr(layer, "residual_multiplier", None)
        compute = partial(self._compute, getattr(layer, part.module), scale if after is None else None, arguments)
        if getattr(layer, "gradient_checkpointing", False) and layer.training:
            compute = partial(layer._gradient_checkpointing_func, compute)
        return Module(norm, compute, after)

    def _compute(self, module: nn.Module, scale: float | None, arguments: dict, normed: torch.Tensor) -> torch.Tensor:
        if self.ranks > 1:
            output = virtual.compute(module, arguments, normed, self.ranks)
        else:
            output = module(normed, **arguments)
            output = output[0] if isinstance(output, tuple) else output
            output = output.view_as(normed)  # Llama 4's experts give [B S, D]
        return output if scale is None else output * scale


def _same(x):
    return x


def rewire(model: nn.Module, wiring: str, tp: int | None = None) -> nn.Module:
    """Let the layers of ``model``, a causal language model of transformers, run by ``wiring``, in place; return it.

    tp: the number of ranks T of a wiring that depends on it; they are computed in this process. A norm of the first
    attention that was not there starts at 0, so that it changes nothing until it is trained.
    Raises UserError where the wiring does not fit the model, and where the family's layers are not understood; the
    model is then as it was.
    """
    from ladder.model.tiny import check_virtual

    depth = len(layers_of(model))
    if tp:
        check_virtual(model.config.get_text_config(decoder=True).model_type)
    new = getattr(decoder_of(model)[1], SIGNAL, None) is None
    run_by(model, Wiring.parse(wiring, tp).of_model(depth).table(depth), wiring, tp or 1)
    if new and model.rewiring.signal_norm is not None:
        nn.init.zeros_(model.rewiring.signal_norm.weight)
    if not hasattr(type(model.config), "wiring"):
        model.save_pretrained = partial(_save, model)
    model.config.wiring, model.config.tensor_parallel_size = wiring, tp
    return model


def _save(model: nn.Module, save_directory: str, *args, **words) -> None:
    """transformers' ``save_pretrained``, and then the wiring: the family's own configuration would be read, without a
    word, as that of another function."""
    from ladder.model.families import rewired

    type(model).save_pretrained(model, save_directory, *args, **words)
    file = Path(save_directory) / "config.json"
    write_json(file, rewired(read_json(file), model.config.wiring, model.config.tensor_parallel_size))


def run_by(model: nn.Module, table: Table, wiring: str, ranks: int = 1, prove: bool = True) -> nn.Module:
    """:func:`rewire` by the table. prove: that ``standard`` is the untouched model, unless it has no weights."""
    layers = layers_of(model)
    forms = [form_of(layer) for layer in layers]
    if form := next((form for form in forms if form.attention.after), None):
        if table.has("hold"):
            raise UserError(
                f"wiring {wiring!r} reduces two modules together, and layers with {form.words} norm each sum"
            )
        if table.shares:
            raise UserError(f"wiring {wiring!r} reads a rank's own share, and layers with {form.words} norm the sum")
    if fresh := not hasattr(model, "rewiring"):
        expected, whole = _untouched(model, layers) if prove else (None, True)
        model.rewiring = Rewiring(Table([Row()] * len(table)))
        for number, (layer, form) in enumerate(zip(layers, forms, strict=True)):
            names = _taken(getattr(layer, form.attention.module))
            layer.__class__ = _rewired(type(layer))
            layer.rewiring, layer.place = model.rewiring, (number, form, names, whole)
        if expected is not None:
            _check(model, expected)
    try:
        set_virtual_ranks(model, ranks)
    except UserError:
        if fresh:
            restore(model)
        raise
    _set_signal(model, table.signal)
    model.rewiring.table, model.rewiring.signal_norm = table, getattr(decoder_of(model)[1], SIGNAL)
    return model


def _check(model: nn.Module, expected: torch.Tensor) -> None:
    try:
        same, reason = torch.equal(logits(model), expected), ""
    except Exception as error:  # whatever a family's loop expects of its layers that ours do not give
        same, reason = False, f" ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
    if not same:
        restore(model)
        raise UserError(f"{type(model).__name__}: its layers do more than their submodules say{reason}")


def _set_signal(model: nn.Module, signal: bool) -> None:
    """Give the decoder a norm of the first attention, or take it away."""
    decoder = decoder_of(model)[1]
    norm = getattr(decoder, SIGNAL, None) if signal else None
    if signal and norm is None:
        config = model.config.get_text_config(decoder=True)
        norm = LlamaRMSNorm(config.hidden_size, eps=getattr(config, "rms_norm_eps", 1e-6))
        norm.to(next(layers_of(model).parameters()))
    setattr(decoder, SIGNAL, norm)


def with_signal(kind: type[nn.Module]) -> type[nn.Module]:
    """A model's class whose decoder has a norm of the first attention from the start, so that it is loaded."""

    def __init__(self, config):
        kind.__init__(self, config)
        _set_signal(self, True)

    return type(kind.__name__, (kind,), {"__init__": __init__, "__module__": kind.__module__})


def set_virtual_ranks(model: nn.Module, size: int) -> None:
    """Compute ``size`` ranks of a rewired model in this process, on the same parameters; 1: none. Raises UserError
    where its modules cannot be split."""
    rewiring = model.rewiring
    if size == rewiring.ranks:
        return
    if size > 1:
        check_degree(model.config.get_text_config(decoder=True), size)
    modules = list(bodies(model))
    try:
        for name, body in modules:
            virtual.replace(model, name, body, size)
    except UserError:
        for name, body in modules:
            virtual.replace(model, name, body, rewiring.ranks)
        raise
    rewiring.ranks, rewiring.all_reduce = size, virtual.all_reduce if size > 1 else Landed
    head = model.get_output_embeddings()
    if type(head) is nn.Linear:  # where streams end apart, each feeds its own part of the vocabulary
        model.set_output_embeddings(virtual.same(head, virtual.Colwise))


def bodies(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of attention and MLP of each layer of a rewired model."""
    names = {id(module): name for name, module in model.named_modules()}
    for layer in layers_of(model):
        for part in layer.place[1].attention, layer.place[1].mlp:
            yield names[id(body := getattr(layer, part.module))], body


def restore(model: nn.Module) -> nn.Module:
    """Undo :func:`rewire`."""
    set_virtual_ranks(model, 1)
    _set_signal(model, False)
    delattr(decoder_of(model)[1], SIGNAL)
    for layer in layers_of(model):
        layer.__class__ = type(layer).__mro__[1]
        del layer.rewiring, layer.place
    for owner, names in ((model, ("rewiring", "save_pretrained")), (model.config, ("wiring", "tensor_parallel_size"))):
        for name in names:
            vars(owner).pop(name, None)
    return model


def _untouched(model: nn.Module, layers: nn.ModuleList) -> tuple[torch.Tensor | None, bool]:
    """(logits, whether layers return a tensor and not a tuple); no logits of a model without weights."""
    if any(parameter.is_meta for parameter in model.parameters()):
        return None, True
    whole = []
    hook = layers[0].register_forward_hook(lambda module, given, output: whole.append(isinstance(output, torch.Tensor)))
    try:
        return logits(model), whole[0]
    finally:
        hook.remove()


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    """Of a few tokens, without dropout: [B, S, V]."""
    training = model.training
    model.eval()
    try:
        device = next(model.parameters()).device
        vocabulary = model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(math.prod(PROBE), device=device).view(PROBE) % vocabulary
        return model(input_ids=ids, use_cache=False).logits
    finally:
        model.train(training)


def _taken(module: nn.Module) -> frozenset[str] | None:
    """The arguments of a layer that its attention takes; None: all."""
    parameters = signature(module.forward).parameters
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return frozenset(parameters)


def _rewired(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a layer with our forward. It keeps its name, by which transformers and FSDP find layers; recomputing
    in backward goes by module, as the stream passes through all layers."""
    names = list(signature(kind.forward).parameters)[1:]

    def forward(self, *args, **kwargs):
        number, form, taken, whole = self.place
        given = dict(zip(names, args, strict=False)) | kwargs
        x = given.pop(names[0])
        if taken is not None:
            given = {name: value for name, value in given.items() if name in taken}
        x = self.rewiring.layer(number, self, form, x, given)
        return x if whole else (x,)

    unwrapped = classmethod(lambda cls, **kwargs: None)  # transformers wraps the forward of a layer's subclasses
    rewired = type(kind.__name__, (kind,), {"__call__": nn.Module.__call__, "__init_subclass__": unwrapped})
    rewired.forward = forward
    return rewired
