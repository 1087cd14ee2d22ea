"""The settings of a training run: declarations, checks before work, and the learning rate they imply."""

import argparse
import math
from dataclasses import dataclass, replace

from ladder import options
from ladder.options import COUNT, LENGTH, POSITIVE, RANKS, SEED, OptionError, option
from ladder.outputs import OutputFolder, OutputModel
from ladder.parallel.environment import world_size

PARTS = 8


@dataclass(frozen=True)
class Options:
    """What pretraining and finetuning share. Lengths in tokens, batches in sequences.

    A run resumes only with the ``numeric`` ones as they were. The plan sets those that are not of a profile.
    """

    seed: int = option(0, "of the weights and the order of the data", profile=False, **SEED)
    sequence: int = option(128, "tokens per sequence", profile=False, **LENGTH | {"minimum": 2})
    steps: int = option(120, "optimiser steps", **COUNT)
    minutes: float | None = option(None, "as many steps as that takes, by the first two; in place of steps", **POSITIVE)
    batch: int = option(8, "sequences per step, over all ranks and micro-batches", **COUNT)
    micro_batch: int | None = option(None, "sequences per rank at once (default: all)", numeric=False, **COUNT)
    lr: float = option(3e-3, "peak learning rate", **POSITIVE)
    warmup: int = option(20, "steps of linear warm-up", **COUNT | {"minimum": 0})
    min_lr: float = option(0.1, "final learning rate, as a share of the peak", minimum=0, maximum=1)
    # Decay goes to every parameter, norms included: the paper names no exception.
    weight_decay: float = option(0.1, "decoupled weight decay, on every parameter", minimum=0)
    betas: tuple[float, float] = option((0.9, 0.95), "of AdamW", minimum=0, exclusiveMaximum=1)
    eps: float = option(1e-8, "of AdamW", **POSITIVE)
    clip: float = option(1.0, "largest gradient norm; 0: no clipping", minimum=0)
    precision: str = option(
        "fp32",
        "of compute; bf16 keeps fp32 weights and reductions; auto: bf16 where the device has it and the model is large",
        enum=("fp32", "bf16", "auto"),
    )
    evaluate_every: int = option(20, "steps between validations", **COUNT)
    validation_windows: int = option(64, "validation sequences, at most", **COUNT)
    shard: int = option(
        1, "data-parallel ranks to a copy of the weights; the others replicate it", numeric=False, **RANKS
    )
    tp_ranks: int = option(1, "tensor-parallel ranks of each copy or shard, neighbours", numeric=False, **RANKS)
    activation_checkpointing: bool = option(False, "recompute each module in backward", numeric=False)
    compile: bool = option(False, "torch.compile each attention and MLP", numeric=False)
    device: str = option(
        "auto", "auto: cuda if there is one", numeric=False, profile=False, enum=("auto", "cpu", "cuda")
    )
    checkpoint_every: int = option(40, "steps between checkpoints", numeric=False, **COUNT)
    keep: int = option(2, "newest checkpoints to keep, besides the best", numeric=False, profile=False, **COUNT)

    @property
    def sharded(self) -> bool:
        """bf16 goes the same way at one rank as at many: fp32 shards, cast to bf16 when gathered."""
        return self.precision == "bf16"

    def numeric(self) -> dict:
        """The settings that change a run's numbers by more than rounding: what a checkpoint must agree with."""
        return options.numeric(Options, self)

    def of_steps(self, steps: int) -> "Options":
        """The options of a run of ``minutes``: it is validated PARTS times, and saved about every five minutes."""
        every = max(self.evaluate_every, math.ceil(steps / PARTS))
        return replace(self, steps=steps, evaluate_every=every, checkpoint_every=max(1, int(5 * steps / self.minutes)))

    def steps_within(self, seconds: float, step: float, validation: float) -> int:
        """How many steps, at least one, fit into so many seconds, given what a step and a validation take."""

        def took(steps: int) -> float:
            return steps * step + (1 + math.ceil(steps / self.of_steps(steps).evaluate_every)) * validation

        return max((n for n in range(1, int(max(0, seconds) / step) + 1) if took(n) <= seconds), default=1)

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
            raise OptionError(
                "batch",
                f"{self.batch} is not a multiple of {micro * ranks} (micro-batch {micro} x {_ranks(ranks)}); "
                "choose a batch that is",
            )
        return accumulate, micro

    def check(self, ranks: int | None = None) -> None:
        """Refuse what cannot work, before torch is loaded. ``ranks`` defaults to those that were started."""
        ranks = ranks or world_size()
        options.check(Options, self)
        if self.warmup > self.steps:
            raise OptionError("warmup", f"{self.warmup} is more than the {self.steps} steps")
        if ranks % self.tp_ranks:
            raise OptionError("tp_ranks", f"{self.tp_ranks} does not divide the {_ranks(ranks)} of this job")
        data = ranks // self.tp_ranks
        if data % self.shard:
            of = f"{_ranks(ranks)} of this job" + f" / tp-ranks {self.tp_ranks}" * (self.tp_ranks > 1)
            raise OptionError("shard", f"{self.shard} does not divide the {of}")
        self.per_rank(data)


def _ranks(count: int) -> str:
    return f"{count} rank{'s' * (count > 1)}"


def add_arguments(parser: argparse.ArgumentParser, work: bool = True, **defaults) -> None:
    """One flag per option; ``defaults`` replace those of :class:`Options`. work: whether its folder must be named."""
    options.add_arguments(parser.add_argument_group("training"), Options, **defaults)
    files = parser.add_argument_group("files")
    files.add_argument(
        "--work",
        action=OutputFolder,
        writes=("step-*",),
        required=work,
        help="folder for this run's checkpoints; emptied at the end" + " (default: OUT.work)" * (not work),
    )
    out = {"action": OutputModel, "help": "the trained model, a Hugging Face directory"}
    files.add_argument("--out", required=True, **out) if work else parser.add_argument("out", **out)
