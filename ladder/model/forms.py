"""How the layers of each family are made, recognised from their submodules: a row of FORMS."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from ladder.errors import UserError


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


def decoder_of(model: nn.Module) -> tuple[str, nn.Module]:
    """(name, module) of what holds the decoder's layers as ``layers`` (or ``h``, ...) beside embeddings and last norm:
    a list of them that is as long as the configuration says. Raises UserError where there is none."""
    depth = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if any(isinstance(child, nn.ModuleList) and len(child) == depth for child in module.children()):
            return name, module
    raise UserError(f"{type(model).__name__}: no list of {depth} decoder layers in it")


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The decoder's layers. Raises UserError where there are none."""
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    children = decoder_of(model)[1].children()
    return next(child for child in children if isinstance(child, nn.ModuleList) and len(child) == depth)
