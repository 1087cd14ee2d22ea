"""Changes of a checkpoint directory."""

from safetensors.torch import load_file, save_file

from ladder.files import write_json
from ladder.reading import read_json


def configured(folder, **changes):
    """Change config.json; ``...`` takes a key out."""
    config = read_json(folder / "config.json") | changes
    write_json(folder / "config.json", {key: value for key, value in config.items() if value is not ...})


def stored(folder, **changes):
    """Change tensors, all in one file; None takes one out."""
    file = folder / "model.safetensors"
    tensors = load_file(file) | {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in tensors.items() if value is not None}, file, {"format": "pt"})


def no_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()
