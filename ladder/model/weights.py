"""The safetensors files of a checkpoint: which there are, what is in them, what has to be.

Only headers are read into memory. Tensors are copied as bytes and never changed; the one that not every wiring has, the
norm of the first attention, is put in or left out.
"""

import json
from pathlib import Path
from typing import NamedTuple

from ladder.errors import UserError
from ladder.files import write_json
from ladder.model.copying import Copier
from ladder.reading import read_json
from ladder.wiring import Wiring

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FIRST = "model-00001-of-00001.safetensors"  # a single file's name beside another: readers take SINGLE for all there is
SIGNAL, SIGNAL_FILE = "model.first_attention_norm.weight", "model-first-attention-norm.safetensors"
NORM, EMBEDDINGS, HEAD = "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"


class Tensor(NamedTuple):
    """A tensor in a file, named ``name`` there."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str  # as in the header: F32, BF16, ...


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: the single one, or those of its index. Raises UserError if one is
    missing."""
    names = [SINGLE]
    if not (folder / SINGLE).is_file() and (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if not names or not all(isinstance(name, str) and Path(name).name == name != ".." for name in names):
            raise UserError(f"{folder / INDEX}: no weight_map from tensors to files beside it; download it again")
        names = sorted(set(names))
    for name in names:
        if (folder / name).is_file():
            continue
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        if pickled and name == SINGLE:
            raise UserError(
                f"{folder}: its weights are pickled ({pickled[0]}); only safetensors checkpoints are read, so save it "
                "again with save_pretrained"
            )
        raise UserError(f"{folder / name}: this weight file is missing (only safetensors checkpoints are read)")
    return [folder / name for name in names]


def tensors(folder: Path) -> dict[str, Tensor]:
    """What the weight files hold, by the tensor's name. Raises UserError for a file that is not whole and for a tensor
    that is in two."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a dict)
                    if name in found:
                        raise UserError(
                            f"{folder}: tensor {name!r} is in two files, {found[name].file.name} and {file.name}"
                        )
                    header = opened.get_slice(name)
                    found[name] = Tensor(name, file, tuple(header.get_shape()), header.get_dtype())
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: not a whole safetensors file ({error}); copy or download it again") from None
    return found


def check_shapes(folder: Path, config: dict, found: dict[str, Tensor]) -> None:
    """Every tensor of a model of this (checked) config.json is there once, in the right shape, and no other."""
    expected = expected_shapes(config)
    for name in sorted(expected.keys() | found.keys()):
        if name.endswith(".rotary_emb.inv_freq"):
            continue  # of no use, but older Llama checkpoints have them
        if name not in found:
            if name == HEAD and config["tie_word_embeddings"]:
                continue
            raise UserError(f"{folder}: tensor {name!r} is missing")
        if name not in expected:
            raise UserError(f"{folder}: unexpected tensor {name!r}: not a plain Llama of its config.json")
        if found[name].shape != expected[name]:
            raise UserError(f"{folder}: {name!r} has shape {found[name].shape}, its config.json says {expected[name]}")


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers; read in pieces."""
    import torch
    from safetensors import safe_open

    a, b = (safe_open(tensor.file, framework="pt").get_slice(tensor.name) for tensor in (one, other))
    starts = range(0, one.shape[0], 1024)
    return all(torch.equal(a[n : n + 1024].double(), b[n : n + 1024].double()) for n in starts)


def has_signal(config: dict) -> bool:
    """Whether the wiring in this config.json reads the first attention through a norm of its own."""
    wiring = Wiring.parse(config.get("wiring", "standard"), config.get("tensor_parallel_size"))
    return wiring.table(config["num_hidden_layers"]).signal


def expected_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight of a Llama with this checked config.json, its head included."""
    hidden, width, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q, kv = (config[f"num_{heads}_heads"] * config["head_dim"] for heads in ("attention", "key_value"))
    linear = {f"self_attn.{n}_proj": (o, i) for n, o, i in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden))}
    linear |= {"self_attn.o_proj": (hidden, q), "mlp.gate_proj": (width, hidden), "mlp.up_proj": (width, hidden)}
    linear |= {"mlp.down_proj": (hidden, width)}
    bias = {"self_attn": config["attention_bias"], "mlp": config["mlp_bias"]}
    shapes = {EMBEDDINGS: (vocab, hidden), HEAD: (vocab, hidden), NORM: (hidden,)}
    if has_signal(config):
        shapes[SIGNAL] = (hidden,)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, shape in linear.items():
            shapes[f"{prefix}{name}.weight"] = shape
            if bias[name.partition(".")[0]]:
                shapes[f"{prefix}{name}.bias"] = shape[:1]
        shapes |= {f"{prefix}{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return shapes


def copy_weights(found: dict[str, Tensor], copier: Copier, signal: bool) -> None:
    """Copy the files of ``found``, and an index if they are several.

    signal: whether the norm of the first attention belongs to the copy. Where it is new it is 0, so that it changes
    nothing until it is trained; where it is too much, its file is left out, or written without it.
    """
    files: dict[Path, list[str]] = {}
    for name, tensor in found.items():
        files.setdefault(tensor.file, []).append(name)
    excess = found[SIGNAL].file if SIGNAL in found and not signal else None
    if excess and files[excess] == [SIGNAL]:
        del files[excess]
    missing = signal and SIGNAL not in found
    single = len(files) + missing == 1
    index = {}
    for file, names in files.items():
        target = SINGLE if single else FIRST if file.name == SINGLE else file.name
        index |= {name: target for name in names if file != excess or name != SIGNAL}
        if file == excess:
            _copy_without(SIGNAL, file, target, copier)
        else:
            copier.copy(file, target)
    if missing:
        index[SIGNAL] = SIGNAL_FILE
        _write_zeros(copier.folder / SIGNAL_FILE, SIGNAL, found[NORM])
    if not single:
        written = [copier.folder / name for name in set(index.values())]
        size = sum(file.stat().st_size - _header(file)[1] for file in written)
        write_json(copier.folder / INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))})


def total_size(found: dict[str, Tensor]) -> int:
    """Bytes of the files that hold these tensors."""
    return sum(file.stat().st_size for file in {tensor.file for tensor in found.values()})


def _copy_without(name: str, file: Path, target: str, copier: Copier) -> None:
    header, start = _header(file)
    begin, end = header.pop(name)["data_offsets"]
    for entry in header.values():
        if entry.get("data_offsets", (0,))[0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    copier.excerpt(file, target, _encoded(header), [(start, start + begin), (start + end, file.stat().st_size)])


def _write_zeros(file: Path, name: str, like: Tensor) -> None:
    """A file of one tensor of zeros, which are runs of zero bits in every format."""
    begin, end = _header(like.file)[0][NORM]["data_offsets"]
    entry = {"dtype": like.dtype, "shape": list(like.shape), "data_offsets": [0, end - begin]}
    file.write_bytes(_encoded({"__metadata__": {"format": "pt"}, name: entry}) + bytes(end - begin))


def _header(file: Path) -> tuple[dict, int]:
    """(header of a safetensors file, where its data begins)"""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return json.loads(opened.read(length)), 8 + length


def _encoded(header: dict) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
