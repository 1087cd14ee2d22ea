"""Checkpoints are Hugging Face directories: config, safetensors, tokenizer files, and ``ladder.json``.

``ladder.json`` says what the checkpoint is (model, wiring, variant, seed, commit) and holds the sha256 of every other
file, so that a damaged copy is refused instead of evaluated. A ``standard`` checkpoint is a plain one of its family, a
``LlamaForCausalLM`` for example.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ladder.errors import UserError, explained
from ladder.files import CARD, atomic_write, need_disk, sha256, write_json
from ladder.model.families import rewired
from ladder.model.opened import Checkpoint, card, carried, verify
from ladder.model.weights import EMBEDDINGS, HEAD
from ladder.reading import read_json
from ladder.records import git_commit

__all__ = ["Checkpoint", "card", "load", "reader", "save", "seal", "verify", "without_code"]


def seal(folder: Path, info: dict, known: Mapping[str, str] = {}) -> None:
    """Write ``ladder.json``: ``info`` and the digest of every file beside it. ``known``: digests taken already."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != CARD)
    names = {file.relative_to(folder).as_posix(): file for file in files}
    digests = {name: known.get(name) or sha256(file) for name, file in names.items()}
    write_json(folder / CARD, {**info, "commit": git_commit()[0], "sha256": digests})


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
        without_code(part)
        seal(part, info)


def without_code(folder: Path) -> list[str]:
    """Take out of the tokenizer's configuration what names code to run; return the names of changed files."""
    file = folder / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    if "auto_map" not in config:
        return []
    write_json(file, {key: value for key, value in config.items() if key != "auto_map"})
    return [file.name]


def load(folder: str | Path, dtype: str = "auto"):
    """(model, tokenizer) of a checkpoint, verified. Raises UserError if it is damaged or of a family that is not known.

    A Llama is a :class:`LadderForCausalLM` for every wiring, ``standard`` included; a model of another family is of the
    family's own class, rewired (:func:`ladder.rewire`). The tokenizer is None where the directory has none.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of reading the weights: it is one line in every log
    verify(folder)
    checkpoint = Checkpoint.open(folder)
    config, tokenizer = checkpoint.model_config(), checkpoint.tokenizer()
    dtype = checkpoint.dtype if dtype == "auto" else dtype
    with explained(f"{folder}: cannot load the checkpoint"):
        model, loading = _class(checkpoint).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    if problems := {key: sorted(map(str, names)) for key, names in loading.items() if names}:
        raise UserError(f"{folder}: the weights do not fit the configuration: {problems}")
    if checkpoint.family:
        # A head of other values than the embeddings stays apart, whatever config.json says.
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        model.config.tie_word_embeddings = tied
        checkpoint.family.rewire(model, *checkpoint.wiring)
    return model.eval(), tokenizer


def _class(checkpoint: Checkpoint):
    from ladder.model.modeling import LadderForCausalLM

    return checkpoint.family.loaded_class if checkpoint.family else LadderForCausalLM


def reader(checkpoint: Checkpoint, dtype) -> Callable:
    """``weight(name, parameter)``: the tensor called so, of which only what is indexed is read from its file.

    What it returns has a ``shape`` and gives a torch tensor of ``dtype`` for a tuple of slices; so a rank reads its own
    part. Names and shapes are checked by the files' headers. The digests are not: that would take reading everything.
    """
    from safetensors import safe_open

    found, tied = checkpoint.tensors, checkpoint.config["tie_word_embeddings"]
    opened = {file: safe_open(file, framework="pt") for file in {tensor.file for tensor in found.values()}}

    def weight(name: str, parameter=None) -> Slices:
        name = EMBEDDINGS if name == HEAD and tied else name
        return Slices(opened[found[name].file].get_slice(name), dtype)

    return weight


class Slices:
    """A tensor in a file."""

    def __init__(self, stored, dtype):
        self._stored, self._dtype, self.shape = stored, dtype, tuple(stored.get_shape())

    def __getitem__(self, index: tuple[slice, ...]):
        return self._stored[index].to(self._dtype)  # None: as it is
