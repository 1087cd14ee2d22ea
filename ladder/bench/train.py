"""Time training steps of a model's whole shape on this device, wiring against wiring, with random weights and tokens.

    ladder bench train --size paper-1b --compile --micro-batch 8 --record train-1b.json
    ladder bench train --size paper-3b --compile --micro-batch 4 --record train-3b.json     (on 80 GB: --micro-batch 1)

Each wiring takes --steps steps of the training loop's own: forward, backward, norm of the gradients, AdamW. All wirings
share one set of weights, since they have the same, and are timed in turn (A B, B A, ...) once warm. Before that, the
first step's loss of what is compiled is compared with that of what is not. Seconds are medians with 95 % intervals
(bootstrap over rounds). MFU is the share of the device's peak in bf16 matrix products, where the table of devices knows
it; what is recomputed does not count.
"""

import argparse
import sys
import time
from dataclasses import replace

import numpy as np

from ladder import cost
from ladder.errors import UserError
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.model.sizes import size
from ladder.options import add_arguments as add_options
from ladder.parallel.environment import world_size
from ladder.train.options import Options
from ladder.wiring import Wiring, table

# Options that a step has of training
SHARED = ("seed", "sequence", "steps", "micro_batch", "precision", "activation_checkpointing", "device")
WARM_UP = 3  # rounds that do not count
CLOSE = {"fp32": 1e-4, "bf16": 1e-2}  # relative difference of losses, compiled or not


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--size", required=True, help="row of the table of sizes")
    add("--wirings", nargs="+", default=["standard", "ladder"])
    add("--layers", type=int, help="run this many of the model's layers")
    add_options(parser, Options, *SHARED, "compile", sequence=2048, micro_batch=4, steps=20, precision="bf16")
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    options = Options(batch=args.micro_batch, warmup=0, **{name: getattr(args, name) for name in SHARED})
    options.check(1)
    shape = size(args.size) if args.layers is None else replace(size(args.size), layers=args.layers)
    if shape.layers < 1:
        raise UserError(f"--layers {args.layers} must be at least 1")
    if options.sequence > shape.positions:
        raise UserError(f"--sequence {options.sequence} is longer than the {shape.positions} positions of {args.size}")
    if world_size() > 1:
        raise UserError("`ladder bench train` times one device; start it without torchrun")
    for wiring in args.wirings:
        chosen = Wiring.parse(wiring)
        if (chosen.tied and not chosen.timing_only) or chosen.of_model(shape.layers).table(shape.layers).signal:
            raise UserError(
                f"wiring {wiring!r} has parameters or ranks of its own, and all wirings are timed on one set of "
                "weights; leave it out"
            )
    with job(args, "bench", f"train-{args.size}", model=args.size, seed=args.seed) as this:
        rows, extra = measure(args, shape, options)
        if args.layers is not None:
            rows = [row | {"timed_layers": args.layers} for row in rows]
        print(card(rows), file=sys.stderr, flush=True)
        this.finish([this.row(**row) for row in rows], settings=settings(args), **extra)


def settings(args: argparse.Namespace) -> dict:
    return {key: value for key, value in vars(args).items() if key not in ("run", "record")}


def measure(args: argparse.Namespace, shape, options: Options) -> tuple[list[dict], dict]:
    """Tidy rows, and what is kept beside them."""
    import torch

    from ladder.model import LadderConfig, LadderForCausalLM
    from ladder.parallel.group import join
    from ladder.train import layout, memory
    from ladder.train.loop import adamw, backward
    from ladder.train.speed import peak, peak_memory

    config = LadderConfig(**shape.config())
    with join(options.device, always=options.sharded) as these, memory.explained(config, options, these):
        memory.check(config, options, these)
        torch.manual_seed(options.seed)
        with these.device:
            model = LadderForCausalLM(config)
        model = layout.distribute(model, these, options)
        print(model.layout.words(model, replace(options, compile=args.compile)), file=sys.stderr, flush=True)
        data, wirings = RandomTokens(shape.vocab, options), {name: table(name, shape.layers) for name in args.wirings}
        model.train()

        def loss(wiring: str, step: int) -> float:
            model.rewiring.table = wirings[wiring]
            return backward(model, data, data.of_step(options.batch, options.seed, step), options, these)

        def first() -> dict[str, float]:
            found = {wiring: loss(wiring, 1) for wiring in wirings}
            model.zero_grad()
            return found

        losses = first()
        if args.compile:
            layout.compile_modules(model)
            compare(losses, first(), options.precision)
        optimizer = adamw(model, options)
        seconds = {wiring: [] for wiring in wirings}
        for turn in range(WARM_UP + options.steps):
            order = list(wirings)[turn % len(wirings) :] + list(wirings)[: turn % len(wirings)]
            for wiring in order:
                began = time.perf_counter()
                loss(wiring, turn + 1)
                model.layout.clip(model, options.clip)
                optimizer.step()
                optimizer.zero_grad()
                if these.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds[wiring].append(time.perf_counter() - began)
        whole = cost.part(config)
        work = float(cost.training_flops(whole, model.layout.parameters - whole.looked_up, options.sequence))
        rows = summary(
            {wiring: values[WARM_UP:] for wiring, values in seconds.items()},
            options.batch * options.sequence,
            work,
            peak(these.device, options.precision),
        )
        rows += [{"metric": "train_loss", "wiring": w, "value": v, "unit": "nats"} for w, v in losses.items()]
        rows.append({"metric": "peak_memory", "value": peak_memory(these.device) / 2**30, "unit": "GiB"})
        what = {"tp": 1, "batch": options.batch, "dtype": options.precision, "origin": "measured"}
        what |= {"compute": "compiled" if args.compile else "eager", "note": note(options)}
        return [what | row for row in rows], {"seconds": seconds, "flops_per_token": work}


class RandomTokens:
    """A dataset (see ladder.train.batches) of rows that are a function of their number."""

    def __init__(self, vocab: int, options: Options):
        self.vocab, self.sequence, self.seed = vocab, options.sequence, options.seed

    def of_step(self, batch: int, seed: int, step: int) -> np.ndarray:
        return np.arange((step - 1) * batch, step * batch)

    def rows(self, numbers):
        from ladder.train.batches import Batch

        generators = [np.random.default_rng([self.seed, int(number)]) for number in numbers]
        tokens = np.stack([generator.integers(self.vocab, size=self.sequence + 1) for generator in generators])
        return Batch(tokens[:, :-1], tokens[:, 1:], None)

    def supervised(self, numbers) -> int:
        return len(numbers) * self.sequence


def compare(losses: dict[str, float], compiled: dict[str, float], precision: str) -> None:
    """Refuse to time what computes something else once it is compiled."""
    for wiring, expected in losses.items():
        if not abs(compiled[wiring] - expected) <= CLOSE[precision] * abs(expected):
            raise UserError(
                f"{wiring}: the first step's loss is {compiled[wiring]:.6f} compiled and {expected:.6f} otherwise; "
                "drop --compile, and look at this version of torch"
            )


def note(options: Options) -> str:
    return f"sequence {options.sequence}" + "; activations recomputed" * options.activation_checkpointing


def summary(seconds: dict[str, list[float]], tokens: int, work: float, peak: float | None) -> list[dict]:
    """Rows of each wiring from its samples; a step has ``tokens`` tokens of ``work`` FLOP each; peak: FLOP/s."""
    from ladder.bench.statistics import estimate

    rows = []
    for wiring, values in seconds.items():
        here = {"wiring": wiring}
        rows.append(here | {"metric": "train_seconds", "unit": "s", **estimate(lambda t: t, values)})
        speed = estimate(lambda t: tokens / t, values)
        rows.append(here | {"metric": "train_tokens_per_second", "unit": "tokens/s", **speed})
        if peak:
            share = estimate(lambda t: tokens * work / t / peak, values)
            rows.append(here | {"metric": "train_mfu", "unit": "fraction", **share})
        if "standard" in seconds and wiring != "standard":
            ratio = estimate(lambda a, b: a / b, seconds["standard"], values)
            rows.append(here | {"metric": "train_speedup", "unit": "x", **ratio})
    return rows


def card(rows: list[dict]) -> str:
    """The numbers for people."""
    found: dict[str, dict] = {}
    for row in rows:
        if "wiring" in row:
            found.setdefault(row["wiring"], {})[row["metric"]] = row["value"]
    lines = [f"{'wiring':<16} {'ms/step':>9} {'tokens/s':>10} {'MFU':>6} {'speed-up':>9} {'first loss':>11}"]
    for wiring, here in found.items():
        share = f"{here['train_mfu']:.1%}" if "train_mfu" in here else "-"
        ratio = f"{here['train_speedup']:.3f}x" if "train_speedup" in here else "-"
        lines.append(
            f"{wiring:<16} {here['train_seconds'] * 1e3:>9.1f} {here['train_tokens_per_second']:>10,.0f} {share:>6} "
            f"{ratio:>9} {here['train_loss']:>11.4f}"
        )
    return "\n".join(lines)
