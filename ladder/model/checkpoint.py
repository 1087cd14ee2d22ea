"""Checkpoints are Hugging Face directories: config, safetensors, tokenizer files, and ``ladder.json``.

``ladder.json`` says what the checkpoint is (model, wiring, variant, seed, commit) and holds the sha256 of every other
file, so that a damaged copy is refused instead of evaluated. A ``standard`` checkpoint is a plain ``LlamaForCausalLM``.
"""

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from ladder.errors import UserError
from ladder.files import CARD, atomic_write, need_disk, sha256, write_json
from ladder.model.copying import damaged
from ladder.model.weights import check_weights
from ladder.reading import read_json
from ladder.records import git_commit

# What is carried from a directory beside its weights: tokenizer, chat template, defaults of generation, terms of use.
# Nothing that would be executed.
CARRIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "*.model",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
OURS = ("wiring", "tensor_parallel_size", "auto_map", "wiring_rows")  # keys of config.json that a plain Llama has not


def carried(folder: Path) -> list[str]:
    """Names of the files beside the weights that belong to the model as well."""
    found = (file for pattern in CARRIED for file in folder.glob(pattern) if file.is_file())
    return sorted({file.relative_to(folder).as_posix() for file in found})


def seal(folder: Path, info: dict, known: Mapping[str, str] = {}) -> None:
    """Write ``ladder.json``: ``info`` and the digest of every file beside it. ``known``: digests taken already."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != CARD)
    names = {file.relative_to(folder).as_posix(): file for file in files}
    digests = {name: known.get(name) or sha256(file) for name, file in names.items()}
    write_json(folder / CARD, {**info, "commit": git_commit()[0], "sha256": digests})


def card(folder: str | Path) -> dict:
    """The content of ``ladder.json``, or what a foreign Hugging Face directory tells about itself."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no checkpoint there (config.json is missing)")
    if (folder / CARD).is_file():
        return read_json(folder / CARD)
    config = read_json(folder / "config.json")
    wiring = {"wiring": config.get("wiring", "standard"), "tp": config.get("tensor_parallel_size")}
    return {"model": folder.resolve().name, **wiring, "variant": "original", "seed": None}


def verify(folder: str | Path, but: Collection[str] = ()) -> dict:
    """The checkpoint's card, after every file was found as it was written. Raises UserError naming the first that is
    not. ``but``: names of files that are not read, since the caller compares their digests."""
    folder = Path(folder)
    info = card(folder)
    for name, expected in info.get("sha256", {}).items():
        file = folder / name
        if not file.is_file():
            raise damaged(file, "is missing")
        if name not in but and sha256(file) != expected:
            raise damaged(file)
    return info


def rewired(config: dict, wiring: str, tp: int | None = None) -> dict:
    """``config`` (of config.json) for another wiring, at ``tp`` ranks if it belongs to some; ``standard`` gives a plain
    Llama's."""
    config = {key: value for key, value in config.items() if key not in OURS}
    if wiring == "standard":
        return config | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    degree = {} if tp is None else {"tensor_parallel_size": tp}
    return config | {"model_type": "ladder", "architectures": ["LadderForCausalLM"], "wiring": wiring} | degree


def save(model, tokenizer: str | Path, out: str | Path, info: dict, state_dict: dict | None = None) -> None:
    """Write ``model`` (or ``state_dict`` in its place) as a checkpoint at ``out``, whole or not at all.

    ``tokenizer`` is a directory whose tokenizer files are carried; ``info`` has model, wiring, tp, variant and seed.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    state = model.state_dict() if state_dict is None else state_dict
    need_disk(out, sum(value.nbytes for value in state.values()))
    with atomic_write(out, directory=True) as part:
        model.save_pretrained(part, state_dict=state_dict)
        config = rewired(read_json(part / "config.json"), info["wiring"], info.get("tp"))
        write_json(part / "config.json", config)
        for name in carried(Path(tokenizer)):
            (part / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(Path(tokenizer) / name, part / name)
        seal(part, info)


def load(folder: str | Path, dtype: str = "auto", mesh=None, **choices: bool):
    """(model, tokenizer) of a checkpoint, verified. Raises UserError if it is damaged or not a Llama.

    The model is a :class:`LadderForCausalLM` for every wiring, ``standard`` included. With a 1-D ``mesh`` of ranks it
    is this rank's shard, as :func:`ladder.parallelize` makes it with the same ``choices``, and only its slices are
    read: then names and shapes are checked, digests are not.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from ladder.model.modeling import LadderConfig, LadderForCausalLM

    disable_progress_bar()  # of reading the weights: it is one line in every log
    folder = Path(folder)
    if mesh is None:
        verify(folder)
    config = read_json(folder / "config.json")
    if config.get("model_type") not in ("llama", "ladder"):
        raise UserError(
            f"{folder}/config.json: model_type {config.get('model_type')!r} is neither 'llama' nor 'ladder'"
        )
    try:
        config = rewired(config, config.get("wiring", "standard"), config.get("tensor_parallel_size"))
        config = LadderConfig.from_dict({key: value for key, value in config.items() if key != "model_type"})
        if mesh is not None:
            return _shard(folder, config, dtype, mesh, choices), AutoTokenizer.from_pretrained(folder)
        model, loading = LadderForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, use_safetensors=True
        )
    except UserError:
        raise
    except StrictDataclassError as error:
        raise UserError(f"{folder}/config.json: {error.__cause__ or error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: cannot load the checkpoint ({str(error).splitlines()[0]})") from error
    if problems := {key: sorted(map(str, names)) for key, names in loading.items() if names}:
        raise UserError(f"{folder}: the weights do not fit the configuration: {problems}")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def _shard(folder: Path, config, dtype: str, mesh, choices: dict[str, bool]):
    import torch

    from ladder.model.modeling import build
    from ladder.parallel.shard import connect

    weight = slices(folder, None if dtype == "auto" else getattr(torch, dtype))
    model = build(config, mesh.get_local_rank(), mesh.size(), weight, copy=False, **choices)
    return connect(model.to(mesh.device_type), mesh, choices.get("split_vocabulary", False))


def slices(folder: str | Path, dtype=None) -> Callable:
    """``weight(name, parameter)``: the tensor called so, of which only what is indexed is read from its file.

    What it returns has a ``shape`` and gives a torch tensor, of ``dtype`` if given, for a tuple of slices; so a rank
    reads its own part. Names and shapes are checked by the files' headers. The digests are not: that would take
    reading everything.
    """
    from safetensors import safe_open

    folder = Path(folder)
    config = read_json(folder / "config.json")
    found = check_weights(folder, config)
    opened = {file: safe_open(file, framework="pt") for file in {tensor.file for tensor in found.values()}}

    def weight(name: str, parameter=None) -> Slices:
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            name = "model.embed_tokens.weight"
        return Slices(opened[found[name].file].get_slice(name), dtype)

    return weight


class Slices:
    """A tensor in a file."""

    def __init__(self, stored, dtype):
        self._stored, self._dtype, self.shape = stored, dtype, tuple(stored.get_shape())

    def __getitem__(self, index: tuple[slice, ...]):
        return self._stored[index].to(self._dtype)  # None: as it is
