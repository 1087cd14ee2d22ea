"""Which layers of a standard checkpoint are free to convert, for which wiring? Asked before any training.

The layers are converted from the last to the first, one more each time (`W@9`, `W@8-9`, ...), or each on its own with
--each. Every point reads the same held-out windows, so the change of the loss against the original is paired: its
standard error is that of the differences. A number of layers is free while the change stays within 0.01 nats, or two
standard errors if that is more, up to it. The model is loaded once and rewired in place.

Text comes from `ladder tokens`, if the checkpoint has the tokenizer they were made with, or from any file of yours,
through the checkpoint's own tokenizer. Prints a table, and writes a record with the losses of every window.

  ladder sensitivity build/models/tiny-standard-s0 --tokens build/tokens --wiring ladder parallel-2norm \\
      --record build/records/sensitivity.json
  ladder sensitivity meta-llama/Llama-3.2-1B --text mine.txt --sequence 2048 --wiring ladder desync-2x --tp 2 \\
      --record sensitivity.json
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ladder.errors import UserError
from ladder.evaluate.metrics import standard_error
from ladder.files import sha256
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.outputs import path_or_name
from ladder.reading import read_json, take
from ladder.wiring import Wiring

MOST = math.log(sys.float_info.max)  # nats whose perplexity is a float
FREE = 0.01  # nats: smaller changes of the loss do not matter
READ = 16  # times the tokens that are needed are read of a text, so that windows come from many documents


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=path_or_name, help="a standard one: directory, or a name on the model hub")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tokens", type=Path, help="directory of `ladder tokens`; its test split is read")
    source.add_argument("--text", type=Path, help="a file or directory of held-out .txt, .md, .jsonl or .parquet")
    parser.add_argument("--text-field", default="text", help="the column that holds the text (default: text)")
    parser.add_argument("--wiring", nargs="+", required=True, help="ladder, parallel-2norm, desync-2x, ...")
    parser.add_argument("--tp", type=int, help="tensor-parallel degree of the wirings that depend on it")
    parser.add_argument("--each", action="store_true", help="convert each layer on its own, the others standard")
    parser.add_argument("--windows", type=int, default=32, help="windows of text to read (default: 32)")
    parser.add_argument("--sequence", type=int, default=128, help="tokens in a window (default: 128)")
    parser.add_argument("--batch", type=int, default=8, help="windows at once (default: 8)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--model", help="row of the table of sizes to file the result under")
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    degrees = check_wirings(args.wiring, args.tp)
    for key, least in (("windows", 2), ("sequence", 1), ("batch", 1)):
        if getattr(args, key) < least:
            raise UserError(f"--{key} {getattr(args, key)} must be at least {least}")

    from ladder.model.convert import find
    from ladder.model.opened import Checkpoint

    opened = Checkpoint.open(find(args.checkpoint))
    checkpoint, described = opened.folder, opened.card
    if described["wiring"] != "standard":
        raise UserError(f"{checkpoint}: its wiring is {described['wiring']!r}; the scan starts from a standard model")
    opened.positions(args.sequence)
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
    layers = opened.config["num_hidden_layers"]
    model, _ = load(checkpoint)
    name = args.model or described["model"]
    about = {"model": name, "variant": "converted", "seed": described.get("seed")}
    run = name if about["seed"] is None else f"{name}-s{about['seed']}"
    with job(args, "sensitivity", run, **{k: v for k, v in about.items() if v is not None}) as this:
        points, total = [], len(degrees) * (layers + 1)
        for point in scan(model.to(device), degrees, windows, args.batch, args.each):
            if not np.isfinite(point.loss).all():
                raise UserError(
                    f"{checkpoint}: its losses under wiring {point.spelled!r} are no finite numbers; it may have been "
                    f"damaged in training, or its numbers may be too large for {opened.dtype}"
                )
            points.append(point)
            progress = f"{len(points)}/{total} {point.wiring}, layers {point.layers or 'none'}"
            print(f"{progress}: loss change {point.change.mean():+.4f}", file=sys.stderr, flush=True)
        print(card_of(points, args.each))
        settings = {key: getattr(args, key) for key in ("windows", "sequence", "each")}
        windows = {point.spelled: point.loss.tolist() for point in points}
        this.finish(
            [this.row(**row, origin="measured") for row in rows(points, args.each)], settings=settings, losses=windows
        )


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
    """Token ids [N, S + 1] of --windows windows of the test split of --tokens."""
    from ladder.data.shards import TokenShards

    manifest, own = args.tokens / "manifest.json", checkpoint / "tokenizer.json"
    if not own.is_file() or sha256(own) != take(read_json(manifest), "tokenizer", str, str(manifest)):
        raise UserError(f"{args.tokens}: made with another tokenizer than {checkpoint} has; give --text in its place")
    shards = TokenShards(args.tokens, "test")
    return _spread(args, args.tokens, shards.tokens, shards.read)


def text_windows(args: argparse.Namespace, checkpoint: Path) -> np.ndarray:
    """Token ids [N, S + 1] of --windows windows of --text, under the checkpoint's tokenizer."""
    from ladder.data.corpus import from_files
    from ladder.data.sources import local_files
    from ladder.data.tokenizer import load
    from ladder.data.tokens import encode

    tokenizer, eos = load(checkpoint)
    documents = from_files(local_files([args.text]), args.text_field)
    stream = itertools.chain.from_iterable(encode(tokenizer, eos, documents))
    ids = np.fromiter(itertools.islice(stream, READ * args.windows * args.sequence + 1), np.int64)
    windows = _spread(args, args.text, len(ids), lambda start, length: ids[start : start + length])
    # What the tokenizer puts before every text (Llama's bos, without which its losses are not its own) stands in the
    # place of the one token of a window that is not scored.
    windows[:, :1] = tokenizer.encode("").ids[:1] or windows[:, :1]
    return windows


def _spread(args: argparse.Namespace, place: Path, tokens: int, read) -> np.ndarray:
    """Windows spread evenly over the ``tokens`` tokens of ``place``; ``read(start, length)`` gives some of them."""
    from ladder.train.batches import evenly

    found = max(0, tokens - 1) // args.sequence
    if found < args.windows:
        raise UserError(
            f"{place}: holds {found} windows of {args.sequence} tokens, fewer than --windows {args.windows}; give more "
            "text, fewer windows or a shorter --sequence"
        )
    starts = evenly(found, args.windows) * args.sequence
    return np.stack([read(int(start), args.sequence + 1) for start in starts])


class ScanPoint(NamedTuple):
    """A rewired model's losses: ``loss`` [N] mean of each window, in nats; ``change`` [N] against the original's."""

    wiring: str
    tp: int | None
    converted: int  # number of layers
    layers: str  # which: "7-9", "" for none
    loss: np.ndarray
    change: np.ndarray

    @property
    def spelled(self) -> str:
        return f"{self.wiring}@{self.layers}" if self.layers else "standard"

    @property
    def perplexity(self) -> float:
        """Infinite where it is beyond a float (a loss above 709 nats)."""
        return math.exp(self.loss.mean()) if self.loss.mean() < MOST else math.inf

    @property
    def stderr(self) -> float:
        return standard_error("loss_change", self.change)

    @property
    def free(self) -> bool:
        return self.change.mean() <= max(FREE, 2 * self.stderr)


def scan(
    model, degrees: dict[str, int | None], windows: np.ndarray, batch: int, each: bool = False
) -> Iterator[ScanPoint]:
    """Rewire ``model`` in place, point by point, and yield each; the original comes first, under every wiring's name.

    degrees: {wiring: tensor-parallel degree or None}; windows: token ids [N, S + 1].
    """
    from ladder.model.forms import layers_of
    from ladder.model.rewire import rewire

    layers = len(layers_of(model))
    rewire(model, "standard")
    original = losses(model, windows, batch)
    for wiring, tp in degrees.items():
        yield ScanPoint(wiring, tp, 0, "", original, np.zeros_like(original))
        for first in reversed(range(layers)):
            last = first if each else layers - 1
            chosen = str(first) if first == last else f"{first}-{last}"
            rewire(model, f"{wiring}@{chosen}", tp)
            loss = losses(model, windows, batch)
            yield ScanPoint(wiring, tp, last - first + 1, chosen, loss, loss - original)


def losses(model, windows: np.ndarray, batch: int) -> np.ndarray:
    """Mean loss of each window [N], in nats."""
    import torch

    from ladder.train.batches import Batch
    from ladder.train.losses import token_losses

    with torch.inference_mode():
        parts = [
            token_losses(model, Batch(part[:, :-1], part[:, 1:], None), model.device).double().mean(1).cpu()
            for part in np.split(windows, range(batch, len(windows), batch))
        ]
    return torch.cat(parts).numpy()


def free_layers(points: list[ScanPoint]) -> int:
    """The most layers that one wiring's scan converted before the loss changed."""
    return sum(1 for _ in itertools.takewhile(lambda point: point.free, points)) - 1  # less the original


def by_wiring(points: list[ScanPoint]) -> Iterator[tuple[ScanPoint, list[ScanPoint]]]:
    """(the original, all points) of each wiring."""
    for _, group in itertools.groupby(points, lambda point: point.wiring):
        group = list(group)
        yield group[0], group


def rows(points: list[ScanPoint], each: bool) -> Iterator[dict]:
    """Tidy rows: perplexity and loss change of every point, and how many layers are free for each wiring."""
    for original, group in by_wiring(points):
        what = {"wiring": original.wiring, "tp": original.tp}
        for point in group:
            here = what | {"converted": point.converted, "layers": point.layers or None, "n": len(point.loss)}
            spread = point.perplexity * standard_error("loss", point.loss)  # to first order
            if math.isfinite(spread):
                yield here | {"metric": "perplexity", "value": point.perplexity, "unit": "1", "stderr": spread}
            change = {"value": float(point.change.mean()), "stderr": point.stderr}
            yield here | {"metric": "loss_change", "unit": "nats"} | change
        if not each:
            yield what | {"metric": "free_layers", "value": free_layers(group), "unit": "layers"}


def card_of(points: list[ScanPoint], each: bool) -> str:
    """The scan for people."""
    lines = [f"{'wiring':<18} {'layers':>8} {'perplexity':>11} {'loss change':>12} {'± stderr':>9}"]
    for original, group in by_wiring(points):
        name = original.wiring + (f" (T = {original.tp})" if original.tp else "")
        for point in group:
            cells = f"{point.perplexity:>11.2f} {point.change.mean():>+12.4f} {point.stderr:>9.4f}"
            lines.append(
                f"{name:<18} {point.layers or 'none':>8} {cells}" + "  free" * bool(point.free and point.converted)
            )
        if each:
            continue
        free, layers = free_layers(group), group[-1].converted
        lines.append(f"{name}: the last {free} of {layers} layers are free to convert\n")
    return "\n".join(lines).rstrip("\n")
