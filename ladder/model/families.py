"""Decoders of other families than Llama: what a config.json says of one, whether it can be rewired, how it is loaded.

A converted checkpoint keeps its family's configuration and gets a model type that only this package knows. The model is
transformers' own, its layers rewired (ladder.model.rewire); so whether a family is taken is decided there, first on a
model without weights, and with the weights when it is loaded.
"""

import copy
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from ladder.errors import UserError, explained
from ladder.model.shapes import MOST
from ladder.model.weights import NORM, SIGNAL, Tensor, has_signal
from ladder.reading import REQUIRED, take
from ladder.wiring import Wiring, spell_layers

PREFIX = "ladder_"  # of the model type under a wiring
OURS = ("wiring", "tensor_parallel_size", "auto_map", "wiring_rows")  # keys of config.json that a plain model has not
WIDTHS = ("num_hidden_layers", "hidden_size", "vocab_size")
# Architectures of converted models that vLLM serves (ladder.vllm), and those of its own that give them their layers.
SERVED = {
    f"Ladder{name}": name
    for name in ("MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
} | {"LadderForCausalLM": "LlamaForCausalLM"}
BOUNDLESS = 2**31  # positions of a decoder that has no embedding of them


def not_quantised(config: dict, file: Path) -> None:
    """Refuse a config.json of quantised weights."""
    if method := config.get("quantization_config"):
        method = method.get("quant_method", "by an unknown method") if isinstance(method, dict) else method
        raise UserError(f"{file}: its weights are quantised ({method}); convert the original and quantise the result")


def translated(config: dict, file: Path) -> dict:
    """``config`` (of config.json), one of the paper's own code (``llamaLadder``, with a list of layers) made ours."""
    if config.get("model_type") != "llamaLadder":
        return config
    layers = take(config, "ladder_layers", list, str(file))
    for layer in layers:
        take({"ladder_layers": layer}, "ladder_layers", int, str(file), least=0)
    rest = {key: value for key, value in config.items() if key != "ladder_layers"} | {"model_type": "llama"}
    return rewired(rest, f"ladder@{spell_layers(tuple(sorted({*layers})))}" if layers else "standard")


def rewired(config: dict, wiring: str, tp: int | None = None) -> dict:
    """``config`` (of config.json) for another wiring, at ``tp`` ranks if it belongs to some; ``standard`` gives that of
    the plain family. Any other has a model type that only this package knows: nobody else computes another function."""
    kind = config["model_type"].removeprefix(PREFIX)
    kind = "llama" if kind == "ladder" else kind
    ours = "ladder" if kind == "llama" else PREFIX + kind
    classes = [name.removeprefix("Ladder") for name in config.get("architectures") or ()]
    named = [f"Ladder{name}" for name in classes]
    if kind == "llama":
        classes, named = ["LlamaForCausalLM"], ["LadderForCausalLM"]
    config = {key: value for key, value in config.items() if key not in OURS}
    if wiring == "standard":
        return config | {"model_type": kind} | ({"architectures": classes} if classes else {})
    degree = {} if tp is None else {"tensor_parallel_size": tp}
    return config | {"model_type": ours} | ({"architectures": named} if named else {}) | {"wiring": wiring} | degree


@dataclass(frozen=True)
class Family:
    """A checkpoint's family. name: its model type as transformers calls it; stored: the config.json as it is; config,
    model_class: transformers'."""

    name: str
    file: Path
    stored: dict
    config: object
    model_class: type

    @classmethod
    def read(cls, stored: dict, file: Path) -> "Family":
        """Of a config.json. Raises UserError for a family, or a model of it, that transformers does not know."""
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        name = take(stored, "model_type", str, str(file), REQUIRED).removeprefix(PREFIX)
        classes = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(name, ())
        classes = (classes,) if isinstance(classes, str) else classes
        if not classes:
            raise UserError(
                f"{file}: model_type {stored['model_type']!r} cannot be read or rewired; it is none of transformers "
                f"{transformers.__version__}'s causal language models"
            )
        given = [f"{one}".removeprefix("Ladder") for one in take(stored, "architectures", list, str(file), None) or ()]
        if unknown := [one for one in given if one not in classes]:
            raise UserError(
                f"{file}: architecture {unknown[0]!r} cannot be read or rewired; {', '.join(classes)} of {name} can"
            )
        not_quantised(stored, file)
        plain = {key: value for key, value in stored.items() if key not in (*OURS, "architectures")}
        with explained(f"{file}: not a {name} that transformers knows"):
            config = CONFIG_MAPPING[name].from_dict(copy.deepcopy(plain | {"model_type": name}))
            text = config.get_text_config(decoder=True)
            widths = {key: getattr(text, key, None) for key in WIDTHS}
        not_quantised(getattr(text, "__dict__", {}), file)
        for key in WIDTHS:
            take(widths, key, int, str(file), least=1, most=MOST[key])
        return cls(name, file, stored, config, getattr(transformers, (given or classes)[0]))

    def filled(self) -> dict:
        """config.json with what others ask of it, which it may call by other names or leave to the default."""
        text = self.config.get_text_config(decoder=True)
        said = {key: getattr(text, key) for key in WIDTHS}
        said["max_position_embeddings"] = getattr(text, "max_position_embeddings", None) or BOUNDLESS
        said["tie_word_embeddings"] = bool(getattr(self.config, "tie_word_embeddings", False))
        return self.stored | said

    @cached_property
    def skeleton(self):
        """The model without weights."""
        import torch

        with torch.device("meta"), explained(f"{self.file}: not a {self.name} that transformers can make"):
            return self.loaded_class(copy.deepcopy(self.config)).eval()

    @property
    def loaded_class(self) -> type:
        """The class that has a place for every weight under the stored wiring."""
        from ladder.model.rewire import with_signal

        return with_signal(self.model_class) if has_signal(self.filled()) else self.model_class

    def check_shapes(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        """Every tensor that the model knows by its name has the model's shape. Where transformers renames or joins a
        family's weights as it loads them, that is all that headers can tell; else every tensor is there, and no other.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping

        model = self.skeleton
        state = model.state_dict(keep_vars=True)
        seen = set()
        converted = bool(get_model_conversion_mapping(model, add_legacy=False))
        for name, tensor in sorted(tensors.items()):
            called = next((one for one in (name, f"{model.base_model_prefix}.{name}") if one in state), None)
            if called is None:
                if converted or self._ignored(name):
                    continue
                raise UserError(f"{folder}: unexpected tensor {name!r}: not of a {self.name} of its config.json")
            if tuple(state[called].shape) != tensor.shape:
                shape = tuple(state[called].shape)
                raise UserError(f"{folder}: {name!r} has shape {tensor.shape}, its config.json says {shape}")
            seen.add(called)
        shared = {id(state[name]) for name in seen}
        if not converted and (missing := [name for name, value in state.items() if id(value) not in shared]):
            raise UserError(f"{folder}: tensor {missing[0]!r} is missing")

    def _ignored(self, name: str) -> bool:
        import re

        patterns = self.skeleton._keys_to_ignore_on_load_unexpected or ()
        return name.endswith(".rotary_emb.inv_freq") or any(re.search(pattern, name) for pattern in patterns)

    def fit(self, wiring: Wiring, layers: int) -> None:
        """Refuse a wiring that this model cannot have, and a family whose layers are not understood."""
        signal = wiring.of_model(layers).table(layers).signal
        _proved(self.name)
        self.rewire(self.skeleton, str(wiring), wiring.tp)
        if signal and not {SIGNAL, NORM} <= self.skeleton.state_dict().keys():
            raise UserError(f"{self.file}: wiring '{wiring}' needs {SIGNAL}, which a {self.name} has no place for")

    def rewire(self, model, wiring: str, tp: int | None = None) -> None:
        """Let ``model``, loaded or without weights, run by ``wiring``; ``standard`` is the model as it is."""
        from ladder.model.rewire import rewire

        if wiring == "standard":
            return
        try:
            with explained("its code"):
                rewire(model, wiring, tp)
        except UserError as error:
            raise UserError(f"{self.file}: cannot be rewired: {error}") from error


@cache
def _proved(name: str) -> None:
    """Try the family on a small model of it, since one without weights cannot show what its layers compute. Raises
    UserError where they do more than their submodules say; a family that has no small model is tried when loaded."""
    from ladder.model.rewire import rewire
    from ladder.model.tiny import NoSmallModel, tiny

    try:
        model = tiny(name)
    except NoSmallModel:
        return
    rewire(model, "standard")
