"""Checkpoints are Hugging Face directories: config, safetensors, tokenizer files, and ``ladder.json``.

``ladder.json`` says what the checkpoint is (model, wiring, variant, seed, commit) and holds the sha256 of every other
file, so that a damaged copy is refused instead of evaluated. A ``standard`` checkpoint is a plain ``LlamaForCausalLM``.
"""

import shutil
from pathlib import Path

from ladder.errors import UserError
from ladder.files import need_disk, read_json, sha256, whole, write_json
from ladder.records import git_commit

CARD = "ladder.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def seal(folder: Path, info: dict) -> None:
    """Write ``ladder.json``: ``info`` and the digest of every file beside it."""
    digests = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.is_file() and file.name != CARD}
    write_json(folder / CARD, {**info, "commit": git_commit()[0], "sha256": digests})


def card(folder: str | Path) -> dict:
    """The content of ``ladder.json``, or what a foreign Hugging Face directory tells about itself."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no checkpoint there (config.json is missing)")
    if (folder / CARD).is_file():
        return read_json(folder / CARD)
    config = read_json(folder / "config.json")
    return {"model": folder.name, "wiring": config.get("wiring", "standard"), "variant": "original", "seed": None}


def verify(folder: str | Path) -> dict:
    """The checkpoint's card, after every file was found as it was written. Raises UserError naming the first that is
    not."""
    folder = Path(folder)
    info = card(folder)
    for name, expected in info.get("sha256", {}).items():
        file = folder / name
        if not file.is_file() or sha256(file) != expected:
            state = "does not match its digest" if file.is_file() else "is missing"
            raise UserError(f"{file}: the checkpoint is damaged, this file {state}; delete {folder} and make it again")
    return info


def rewired(config: dict, wiring: str) -> dict:
    """``config`` (of config.json) for another wiring; ``standard`` gives a plain Llama's."""
    config = {key: value for key, value in config.items() if key != "wiring"}
    if wiring == "standard":
        return config | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    return config | {"model_type": "ladder", "architectures": ["LadderForCausalLM"], "wiring": wiring}


def save(model, tokenizer: str | Path, out: str | Path, info: dict, state_dict: dict | None = None) -> None:
    """Write ``model`` (or ``state_dict`` in its place) as a checkpoint at ``out``, whole or not at all.

    ``tokenizer`` is a directory whose tokenizer files are carried; ``info`` has model, wiring, variant and seed.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    state = model.state_dict() if state_dict is None else state_dict
    need_disk(out, sum(value.nbytes for value in state.values()))
    with whole(out) as part:
        model.save_pretrained(part, state_dict=state_dict)
        config = rewired(read_json(part / "config.json"), info["wiring"])
        write_json(part / "config.json", config)
        for name in TOKENIZER_FILES:
            if (Path(tokenizer) / name).is_file():
                shutil.copyfile(Path(tokenizer) / name, part / name)
        seal(part, info)


def load(folder: str | Path, dtype: str = "auto"):
    """(model, tokenizer) of a checkpoint, verified. Raises UserError if it is damaged or not a Llama.

    The model is a :class:`LadderForCausalLM` for every wiring, ``standard`` included.
    """
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from ladder.model.modeling import LadderConfig, LadderForCausalLM

    disable_progress_bar()  # of reading the weights: it is one line in every log
    folder = Path(folder)
    verify(folder)
    config = read_json(folder / "config.json")
    if config.get("model_type") not in ("llama", "ladder"):
        raise UserError(
            f"{folder}/config.json: model_type {config.get('model_type')!r} is neither 'llama' nor 'ladder'"
        )
    try:
        config = LadderConfig.from_dict({key: value for key, value in config.items() if key != "model_type"})
        model, loading = LadderForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: cannot load the checkpoint ({str(error).splitlines()[0]})") from error
    if problems := {key: sorted(map(str, names)) for key, names in loading.items() if names}:
        raise UserError(f"{folder}: the weights do not fit the configuration: {problems}")
    return model.eval(), AutoTokenizer.from_pretrained(folder)
