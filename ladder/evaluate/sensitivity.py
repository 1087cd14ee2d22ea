"""Which layers of a standard checkpoint can be converted, to which wiring, and at what loss? Asked before any training.

Each layer is converted alone, then the last n, then a set that grows by the layer that adds least to the loss: how many
layers against nats is the frontier that is printed. Sets are chosen on every other window of the text and measured on
those between; changes of the loss against the original are paired by window, and so are their standard errors.

--layers N or --budget NATS asks for one of the sets; otherwise the largest that is free is recommended: whose loss
rises by at most 0.01 nats, or two standard errors if that is more. `ladder convert SRC OUT --layers-from RECORD` takes
it, or any other (--layers, --budget). The model is loaded once, in bf16 where the processor has it, and rewired in
place; streams before each layer stay in memory, so that no pass repeats what an earlier one did.

MODEL is a directory, a GGUF file or a hub's name. Text comes from any file of yours, through the model's own tokenizer,
or from `ladder tokens`, if the model has the tokenizer they were made with. A set is of one wiring: `parallel-2norm`
bears more layers than `ladder`, `ladder-2` fewer, and `partial` is one function more at each --tp.

  ladder sensitivity SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext.txt --budget 0.3 --record scan.json
  ladder sensitivity meta-llama/Llama-3.2-1B --text mine.txt --wiring ladder-2 parallel-2norm partial --tp 2 \\
      --layers 8 --record scan.json
"""

import argparse
import itertools
import math
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ladder.errors import UserError
from ladder.evaluate.frontier import ScanPoint, passes, scan
from ladder.evaluate.metrics import standard_error
from ladder.files import sha256
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.model.chosen import ALONE, CHOSEN, LAST, RECOMMENDED, architecture, fitting
from ladder.outputs import path_or_name
from ladder.progress import Progress
from ladder.reading import read_json, take
from ladder.wiring import Wiring, spell_layers

READ = 16  # times the tokens that are needed are read of a text, so that windows come from many documents
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="MODEL", type=path_or_name, help="directory, GGUF, or name on the hub")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, help="a file or directory of held-out .txt, .md, .jsonl or .parquet")
    source.add_argument("--tokens", type=Path, help="directory of `ladder tokens`; its test split is read")
    parser.add_argument("--text-field", default="text", help="the column that holds the text (default: text)")
    parser.add_argument(
        "--wiring", nargs="+", default=["ladder"], help="ladder (default), parallel-2norm, ladder-2, ..."
    )
    parser.add_argument("--tp", type=int, help="tensor-parallel degree of the wirings that depend on it")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--layers", type=int, help="recommend the set of so many layers")
    asked.add_argument(
        "--budget", type=float, help="recommend the largest set whose loss rises by at most so many nats"
    )
    parser.add_argument("--windows", type=int, default=16, help="windows to choose on, and to measure on (default: 16)")
    parser.add_argument("--sequence", type=int, default=256, help="tokens in a window (default: 256)")
    parser.add_argument("--batch", type=int, default=8, help="windows at once (default: 8)")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="auto: bf16 where it is fast")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--model", help="row of the table of sizes to file the result under")
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    degrees = check_wirings(args.wiring, args.tp)
    for key, least in (("windows", 2), ("sequence", 1), ("batch", 1), ("layers", 1)):
        if (value := getattr(args, key)) is not None and value < least:
            raise UserError(f"--{key} {value} must be at least {least}")

    from ladder.model.convert import find
    from ladder.model.imported import imported

    with imported(find(args.checkpoint), args.record) as folder:
        of_checkpoint(args, degrees, folder)


def of_checkpoint(args: argparse.Namespace, degrees: dict[str, int | None], checkpoint: Path) -> None:
    from ladder.model.convert import called
    from ladder.model.opened import Checkpoint

    opened = Checkpoint.open(checkpoint)
    described = opened.card
    if described["wiring"] != "standard":
        raise UserError(f"{checkpoint}: its wiring is {described['wiring']!r}; the scan starts from a standard model")
    opened.positions(args.sequence)
    layers = opened.config["num_hidden_layers"]
    if args.layers and args.layers > layers:
        raise UserError(f"--layers {args.layers}: {args.checkpoint} has only {layers}")
    windows = (shard_windows if args.tokens else text_windows)(args, checkpoint)
    if windows.max() >= opened.config["vocab_size"]:
        raise UserError(
            f"{args.tokens or args.text}: holds the token number {windows.max()}, but {checkpoint} has a vocab_size of "
            f"{opened.config['vocab_size']}; use the tokenizer that the model was trained with"
        )

    import torch

    from ladder.model import load

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device; use --device cpu")
    for wiring, tp in degrees.items():
        opened.fit(wiring, tp)
    dtype = ("bf16" if fast_bf16(device) else "fp32") if args.dtype == "auto" else args.dtype
    model, _ = load(checkpoint, DTYPES[dtype])
    name = args.model or (described["model"] if "sha256" in described else called(args.checkpoint))
    about = {"model": name, "variant": "converted", "seed": described.get("seed"), "dtype": dtype}
    run = name if about["seed"] is None else f"{name}-s{about['seed']}"
    with job(args, "sensitivity", run, **{k: v for k, v in about.items() if v is not None}) as this:
        points, apart = [], (windows[0::2], windows[1::2])
        with Progress(len(degrees) * passes(layers), "pass") as progress:
            for wiring, tp in degrees.items():

                def told(count: int, wiring=wiring) -> None:
                    progress.advance(count, f"{wiring}: {progress.done:,} of {progress.total:,} passes")

                for point in scan(model.to(device), Wiring(wiring, tp=tp), *apart, args.batch, told):
                    if not np.isfinite(point.loss).all():
                        raise UserError(
                            f"{checkpoint}: its losses under wiring '{point.spelled}' are no finite numbers; it may "
                            f"have been damaged in training, or its numbers may be too large for {dtype}"
                        )
                    points.append(point)
        tidy = [this.row(**row, origin="measured") for row in rows(points)]
        print(card_of(points))
        unmet = None
        for wiring in degrees:
            steps = [row for row in tidy if row["metric"] == CHOSEN and row["wiring"] == wiring]
            try:
                row = fitting(steps, args.layers, args.budget, f"{args.record}, {wiring}")
            except UserError as error:  # said when the record is written
                unmet = error
                continue
            tidy.append(recommended := {**row, "metric": RECOMMENDED, "value": row["converted"], "unit": "layers"})
            del recommended["stderr"]
            print(f"recommended: {wiring}@{row['layers']} ({row['value']:+.4f} ± {row['stderr']:.4f} nats)")
        settings = {"windows": args.windows, "sequence": args.sequence, "model": architecture(opened)}
        losses: dict[str, dict[str, list[float]]] = {metric: {} for metric in (LAST, ALONE, CHOSEN)}
        for point in points:
            losses[point.metric][point.spelled] = point.loss.tolist()
        curves = [row for row in tidy if row["metric"] != ALONE]
        this.finish(tidy, tracked=curves, settings=settings, losses=losses)
        if unmet and (args.layers or args.budget is not None):
            raise unmet


def fast_bf16(device: str) -> bool:
    """Whether matrix products are faster in bf16 than in fp32."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def check_wirings(wirings: list[str], tp: int | None) -> dict[str, int | None]:
    """{wiring: its tensor-parallel degree, None if it depends on none}. Raises UserError for one that cannot be scanned
    and for a ``tp`` that is missing or that no wiring needs."""
    for wiring in wirings:
        scannable(wiring)
    parsed = [Wiring.parse(wiring, tp) for wiring in wirings]
    any_tied = any(wiring.tied for wiring in parsed)
    chosen = [replace(wiring, tp=tp if wiring.tied or not any_tied else None).of_model() for wiring in parsed]
    return {wiring.name: wiring.tp for wiring in chosen}


def scannable(wiring: str) -> None:
    """Refuse what is not a whole model's wiring to convert to."""
    chosen = Wiring.parse(wiring)
    if chosen.timing_only:
        chosen.of_model()
    if chosen.layers is not None:
        raise UserError(f"wiring {wiring!r} names layers, but the scan chooses them; give {chosen.name!r}")
    if wiring == "standard":
        raise UserError("wiring 'standard' is what the scan starts from; name the wirings to convert to")


def shard_windows(args: argparse.Namespace, checkpoint: Path) -> np.ndarray:
    """Token ids [2 N, S + 1] of twice --windows windows of the test split of --tokens."""
    from ladder.data.shards import TokenShards

    manifest, own = args.tokens / "manifest.json", checkpoint / "tokenizer.json"
    if not own.is_file() or sha256(own) != take(read_json(manifest), "tokenizer", str, str(manifest)):
        raise UserError(f"{args.tokens}: made with another tokenizer than {checkpoint} has; give --text in its place")
    shards = TokenShards(args.tokens, "test")
    return _spread(args, args.tokens, shards.tokens, shards.read)


def text_windows(args: argparse.Namespace, checkpoint: Path) -> np.ndarray:
    """Token ids [2 N, S + 1] of twice --windows windows of --text, under the checkpoint's tokenizer."""
    from ladder.data.corpus import from_files
    from ladder.data.sources import local_files
    from ladder.data.tokenizer import load
    from ladder.data.tokens import encode

    tokenizer, eos = load(checkpoint)
    documents = from_files(local_files([args.text]), args.text_field)
    stream = itertools.chain.from_iterable(encode(tokenizer, eos, documents))
    ids = np.fromiter(itertools.islice(stream, READ * 2 * args.windows * args.sequence + 1), np.int64)
    windows = _spread(args, args.text, len(ids), lambda start, length: ids[start : start + length])
    # What the tokenizer puts before every text (Llama's bos, without which its losses are not its own) stands in the
    # place of the one token of a window that is not scored.
    windows[:, :1] = tokenizer.encode("").ids[:1] or windows[:, :1]
    return windows


def _spread(args: argparse.Namespace, place: Path, tokens: int, read) -> np.ndarray:
    """Windows spread evenly over the ``tokens`` tokens of ``place``; ``read(start, length)`` gives some of them."""
    from ladder.train.batches import evenly

    there, needed = max(0, tokens - 1) // args.sequence, 2 * args.windows
    if there < needed:
        raise UserError(
            f"{place}: holds {there} windows of {args.sequence} tokens, fewer than twice --windows {args.windows}; "
            "give more text, fewer windows or a shorter --sequence"
        )
    starts = evenly(there, needed) * args.sequence
    return np.stack([read(int(start), args.sequence + 1) for start in starts])


def free_layers(points: list[ScanPoint]) -> int:
    """The most layers that one wiring's scan from the end converted before the loss changed."""
    return sum(1 for _ in itertools.takewhile(lambda point: point.free, points)) - 1  # less the original


def by_wiring(points: list[ScanPoint]) -> Iterator[dict[str, list[ScanPoint]]]:
    """{metric: points} of each wiring."""
    for _, group in itertools.groupby(points, lambda point: point.wiring.name):
        group = list(group)
        yield {metric: [point for point in group if point.metric == metric] for metric in (LAST, ALONE, CHOSEN)}


def rows(points: list[ScanPoint]) -> Iterator[dict]:
    """Tidy rows: every point, and for each wiring how many layers from the end are free."""
    for group in by_wiring(points):
        what = {"wiring": group[LAST][0].wiring.name, "tp": group[LAST][0].wiring.tp}
        for point in itertools.chain(*group.values()):
            here = what | {"converted": len(point.layers), "n": len(point.loss)}
            here |= {"layers": spell_layers(point.layers) or None, "added": point.added}
            spread = point.perplexity * standard_error("loss", point.loss)  # to first order
            if point.metric == LAST and math.isfinite(spread):
                yield here | {"metric": "perplexity", "value": point.perplexity, "unit": "1", "stderr": spread}
            change = {"value": float(point.change.mean()), "stderr": point.stderr}
            yield here | {"metric": point.metric, "unit": "nats"} | change
        yield what | {"metric": "free_layers", "value": free_layers(group[LAST]), "unit": "layers"}


def card_of(points: list[ScanPoint]) -> str:
    """The frontier of each wiring, for people."""
    lines = []
    for group in by_wiring(points):
        original, *last = group[LAST]
        degree = f" (T = {original.wiring.tp})" if original.wiring.tp else ""
        lines.append(f"{original.wiring.name}{degree}: nats above the original's loss of {original.loss.mean():.4f}")
        dear = sorted(group[ALONE], key=lambda point: -point.change.mean())
        alone = ", ".join(f"{point.layers[0]} ({point.change.mean():+.3f} ± {point.stderr:.3f})" for point in dear)
        lines += textwrap.wrap(f"each layer alone: {alone}", 119, subsequent_indent="  ", break_on_hyphens=False)
        lines.append(f"{'layers':>6} {'added':>6} {'chosen':>9} {'± stderr':>9} {'the last':>9} {'± stderr':>9}")
        for chosen, end in zip(group[CHOSEN], last, strict=True):
            cells = (f"{point.change.mean():>+9.4f} {point.stderr:>9.4f}" for point in (chosen, end))
            lines.append(f"{len(chosen.layers):>6} {chosen.added:>6} {' '.join(cells)}" + "  free" * bool(chosen.free))
        lines.append(f"of the last {len(last)}, {free_layers(group[LAST])} are free\n")
    return "\n".join(lines).rstrip("\n")
