"""The settings of a training run: command-line flags, checks before work, and the learning rate they imply."""

import argparse
import math
from dataclasses import dataclass, field, fields

from ladder.errors import UserError, known
from ladder.outputs import OutputFolder, OutputModel
from ladder.parallel.environment import world_size


def _option(default, help_: str, numeric: bool = True, **flag):
    """``numeric``: it changes the numbers of a run by more than rounding, so a run does not resume across it."""
    return field(default=default, metadata={"help": help_, "numeric": numeric, "flag": flag})


@dataclass(frozen=True)
class Options:
    """What pretraining and finetuning share. Lengths in tokens, batches in sequences."""

    seed: int = _option(0, "of the weights and the order of the data")
    sequence: int = _option(128, "tokens per sequence")
    steps: int = _option(120, "optimiser steps")
    batch: int = _option(8, "sequences per step, over all ranks and micro-batches")
    micro_batch: int | None = _option(None, "sequences per rank at once (default: batch / ranks)", numeric=False)
    lr: float = _option(3e-3, "peak learning rate")
    warmup: int = _option(20, "steps of linear warm-up")
    min_lr: float = _option(0.1, "final learning rate, as a share of the peak")
    # Decay goes to every parameter, norms included: the paper names no exception.
    weight_decay: float = _option(0.1, "decoupled weight decay, on every parameter")
    betas: tuple[float, float] = _option((0.9, 0.95), "of AdamW", type=float, nargs=2)
    eps: float = _option(1e-8, "of AdamW")
    clip: float = _option(1.0, "largest gradient norm; 0: no clipping")
    precision: str = _option("fp32", "of compute; bf16 keeps fp32 weights and reductions", choices=("fp32", "bf16"))
    evaluate_every: int = _option(20, "steps between validations")
    validation_windows: int = _option(64, "validation sequences, at most")
    shard: int = _option(
        1, "data-parallel ranks that share one copy of the weights; the others replicate it", numeric=False
    )
    tp_ranks: int = _option(1, "tensor-parallel ranks of each copy or shard, neighbours", numeric=False)
    activation_checkpointing: bool = _option(False, "recompute each module in backward", numeric=False)
    compile: bool = _option(False, "torch.compile each attention and MLP", numeric=False)
    device: str = _option("auto", "default: cuda if there is one", numeric=False, choices=("auto", "cpu", "cuda"))
    checkpoint_every: int = _option(40, "steps between checkpoints", numeric=False)
    keep: int = _option(2, "newest checkpoints to keep, besides the best", numeric=False)

    @property
    def sharded(self) -> bool:
        """bf16 goes the same way at one rank as at many: fp32 shards, cast to bf16 when gathered."""
        return self.precision == "bf16"

    def numeric(self) -> dict:
        """The settings that change a run's numbers by more than rounding: what a checkpoint must agree with."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["numeric"]}

    def learning_rate(self, step: int) -> float:
        """Of step 1, 2, ..., ``steps``: linear from lr / warmup to lr, then half a cosine down to min_lr x lr."""
        if step <= self.warmup:
            return self.lr * step / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (self.min_lr + (1 - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2)

    def per_rank(self, ranks: int) -> tuple[int, int]:
        """(micro-batches per step, sequences in each) of one of ``ranks`` data-parallel ranks. Raises UserError if the
        batch does not come out whole."""
        micro = self.micro_batch or max(1, self.batch // ranks)
        accumulate, rest = divmod(self.batch, micro * ranks)
        if rest or not accumulate:
            raise UserError(
                f"--batch {self.batch} is not a multiple of {micro * ranks} "
                f"(--micro-batch {micro} x {_ranks(ranks)}); choose a batch that is"
            )
        return accumulate, micro

    def check(self, ranks: int | None = None) -> None:
        """Refuse what cannot work, before torch is loaded. ``ranks`` defaults to those that were started."""
        ranks = ranks or world_size()
        at_least_one = ("sequence", "steps", "batch", "evaluate_every", "checkpoint_every", "keep", "shard", "tp_ranks")
        for name in (*at_least_one, "validation_windows", *(["micro_batch"] if self.micro_batch is not None else [])):
            if getattr(self, name) < 1:
                raise UserError(f"{_flag(name)} {getattr(self, name)} must be at least 1")
        for name in ("lr", "eps"):
            if not getattr(self, name) > 0:
                raise UserError(f"{_flag(name)} {getattr(self, name)} must be above 0")
        for name, top in (
            ("seed", None),
            ("warmup", self.steps),
            ("min_lr", 1),
            ("weight_decay", None),
            ("clip", None),
        ):
            value = getattr(self, name)
            if not 0 <= value <= (math.inf if top is None else top):
                raise UserError(f"{_flag(name)} {value} must be at least 0" + (f" and at most {top}" if top else ""))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"--betas {self.betas[0]} {self.betas[1]} must be at least 0 and below 1")
        if self.precision not in ("fp32", "bf16"):
            raise known("precision", self.precision, ("fp32", "bf16"))
        if ranks % self.tp_ranks:
            raise UserError(f"--tp-ranks {self.tp_ranks} does not divide the {_ranks(ranks)} of this job")
        data = ranks // self.tp_ranks
        if data % self.shard:
            of = f"{_ranks(ranks)} of this job" + f" / --tp-ranks {self.tp_ranks}" * (self.tp_ranks > 1)
            raise UserError(f"--shard {self.shard} does not divide the {of}")
        self.per_rank(data)


def _ranks(count: int) -> str:
    return f"{count} rank{'s' * (count > 1)}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_arguments(parser: argparse.ArgumentParser, **defaults) -> None:
    """One flag per option; ``defaults`` replace those of :class:`Options`."""
    group = parser.add_argument_group("training")
    for f in fields(Options):
        default = defaults.get(f.name, f.default)
        settings = {"default": default, "help": f.metadata["help"]} | f.metadata["flag"]
        if f.type is bool:
            settings["action"] = "store_true"
        elif "type" not in settings:
            settings["type"] = int if f.type == int | None else f.type
        if f.type is not bool and default not in (None, "auto"):
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            settings["help"] += f" (default: {shown})"
        group.add_argument(_flag(f.name), **settings)
    files = parser.add_argument_group("files")
    files.add_argument(
        "--work",
        action=OutputFolder,
        writes=("step-*",),
        required=True,
        help="folder for this run's checkpoints; emptied at the end",
    )
    files.add_argument("--out", action=OutputModel, required=True, help="the trained model, a Hugging Face directory")


def of(args: argparse.Namespace) -> Options:
    values = {f.name: getattr(args, f.name) for f in fields(Options)}
    return Options(**values | {"betas": tuple(args.betas)})
