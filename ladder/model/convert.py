"""Rewire a Llama checkpoint: the same weights under another wiring.

in:  a Hugging Face directory of a Llama (or a hub name), safetensors
out: OUT/ with the same weight files bit for bit, the wiring in config.json, tokenizer and chat template carried

    ladder convert results/default/pretrain/tiny-standard-s0/model converted --wiring ladder@5-9 --record convert.json

Nothing is computed and nothing but headers is read into memory: the weights of all wirings have the same names.
"""

import argparse
import shutil
from pathlib import Path

from ladder.data.tokenizer import chat_template
from ladder.errors import UserError
from ladder.files import need_disk, read_json, whole, write_json
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.model.checkpoint import TOKENIZER_FILES, rewired, seal, verify
from ladder.wiring import pattern, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="checkpoint directory, or a name on the model hub")
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("--wiring", required=True, help="standard, ladder, ladder@16-31, parallel, ...")
    parser.add_argument("--model", help="row of the table of sizes to file the result under")
    parser.add_argument("--chat-template", help="replace the chat template (`ladder tokenizer --help` says by what)")
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    template = chat_template(args.chat_template) if args.chat_template else None
    source = find(args.source)
    what = check(source, args.wiring) | ({"model": args.model} if args.model else {})
    name = f"{what['model']}-{args.wiring}" + ("" if what.get("seed") is None else f"-s{what['seed']}")
    columns = {key: what.get(key) for key in ("model", "seed")} | {"wiring": args.wiring, "variant": "converted"}
    with job(args, "convert", name, **columns) as this:
        size = convert(source, args.out, args.wiring, what, template)
        layers = read_json(args.out / "config.json")["num_hidden_layers"]
        rows, standard = table(args.wiring, layers), table("standard", layers)
        changed = sum(rows[2 * i : 2 * i + 2] != standard[2 * i : 2 * i + 2] for i in range(layers))
        this.finish(
            [
                this.row(metric="layers_converted", value=changed, unit="layers", origin="measured"),
                this.row(metric="bytes", value=size, unit="bytes", origin="measured"),
            ],
            artifacts=(args.out / "config.json",),
        )


def find(source: str) -> Path:
    """The directory called ``source``, or a local copy of the hub's model of that name."""
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists() or source.count("/") != 1 or source.startswith((".", "/")):
        raise UserError(f"{source}: no such checkpoint directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.json", *TOKENIZER_FILES]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{source}: neither a directory here nor to be had from the model hub ({reason})") from error


def check(source: Path, wiring: str) -> dict:
    """The card of ``source`` if it can be rewired so. Raises UserError before anything is written."""
    info = verify(source)
    config = read_json(source / "config.json")
    if config.get("model_type") not in ("llama", "ladder"):
        raise UserError(
            f"{source}/config.json: model_type {config.get('model_type')!r} cannot be rewired; "
            "'llama' (Llama 2, 3, 3.1, 3.2) can"
        )
    name = wiring.partition("@")[0]
    if pattern(name).timing_only:
        raise UserError(f"wiring {name!r} is for timing only: no model computes it at more than one rank")
    table(wiring, config["num_hidden_layers"])
    check_weights(source, config)
    return info


def check_weights(source: Path, config: dict) -> None:
    """Every tensor of a Llama of this configuration is there once, in the right shape, and no other."""
    from safetensors import SafetensorError, safe_open

    expected = expected_shapes(config)
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(source):
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    found[name] = tuple(tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: not a whole safetensors file ({error}); copy or download it again") from None
    if config.get("tie_word_embeddings"):
        found.pop("lm_head.weight", None)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise UserError(f"{source}: tensor {name!r} is missing")
        if name not in expected:
            raise UserError(f"{source}: unexpected tensor {name!r}: not a plain Llama of its config.json")
        if found[name] != expected[name]:
            raise UserError(f"{source}: {name!r} has shape {found[name]}, its config.json says {expected[name]}")


def weight_files(source: Path) -> list[Path]:
    """The safetensors files of a checkpoint, by its index if it has one."""
    index = source / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in names:
        if not (source / name).is_file():
            raise UserError(f"{source / name}: this weight file is missing (only safetensors checkpoints are read)")
    return [source / name for name in names]


def expected_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight of a Llama with this config.json."""
    hidden, width, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    q, kv = heads * head, (config.get("num_key_value_heads") or heads) * head
    linear = {f"self_attn.{n}_proj": (o, i) for n, o, i in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden))}
    linear |= {"self_attn.o_proj": (hidden, q), "mlp.gate_proj": (width, hidden), "mlp.up_proj": (width, hidden)}
    linear |= {"mlp.down_proj": (hidden, width)}
    bias = {"self_attn": config.get("attention_bias"), "mlp": config.get("mlp_bias")}
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, shape in linear.items():
            shapes[f"{prefix}{name}.weight"] = shape
            if bias[name.partition(".")[0]]:
                shapes[f"{prefix}{name}.bias"] = shape[:1]
        shapes |= {f"{prefix}{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return shapes


def convert(source: Path, out: Path, wiring: str, info: dict, template: str | None = None) -> int:
    """Copy the checkpoint under another wiring, whole or not at all; return the bytes of weights copied."""
    weights = weight_files(source)
    index = source / "model.safetensors.index.json"
    size = sum(file.stat().st_size for file in weights)
    need_disk(out, size)
    carried = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    with whole(out) as part:
        part.mkdir()
        for file in [*weights, *carried, *([index] if index.is_file() else [])]:
            shutil.copyfile(file, part / file.name)
        if template:
            (part / "chat_template.jinja").write_text(template, encoding="utf-8")
        write_json(part / "config.json", rewired(read_json(source / "config.json"), wiring))
        what = {key: value for key, value in info.items() if key not in ("sha256", "commit")}
        origin = {"path": str(source), "wiring": info["wiring"], "variant": info["variant"]}
        seal(part, what | {"wiring": wiring, "variant": "converted", "source": origin})
    return size
