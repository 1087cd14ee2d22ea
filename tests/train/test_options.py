import argparse
import math

import pytest

from ladder.errors import UserError
from ladder.options import of
from ladder.train import options as module
from ladder.train.options import Options


def test_learning_rate():
    rate = Options(steps=120, warmup=20, lr=1.0, min_lr=0.1).learning_rate
    assert [rate(1), rate(10), rate(20)] == pytest.approx([0.05, 0.5, 1.0])  # the first step is not wasted
    assert rate(70) == pytest.approx(0.55)
    assert rate(120) == pytest.approx(0.1)
    assert all(rate(step) > rate(step + 1) for step in range(20, 120))


def test_learning_rate_without_warmup_or_decay():
    assert Options(steps=1, warmup=0, lr=2.0, min_lr=0.5).learning_rate(1) == pytest.approx(1.0)
    assert Options(steps=5, warmup=5, lr=2.0).learning_rate(5) == 2.0


@pytest.mark.parametrize(("seconds", "steps"), [(-5, 1), (10, 5), (60, 42), (6000, 5982)])
def test_steps_in_a_time(seconds, steps):
    """A step takes one second, a validation two: before the first, and after every fifth step or eighth of all."""
    chosen = Options(minutes=10, evaluate_every=5)
    assert chosen.steps_within(seconds, 1.0, 2.0) == steps
    assert chosen.of_steps(800).evaluate_every == 100
    assert chosen.of_steps(800).checkpoint_every == 400


def test_per_rank():
    assert Options(batch=8).per_rank(1) == (1, 8)
    assert Options(batch=8).per_rank(4) == (1, 2)
    assert Options(batch=24, micro_batch=2).per_rank(4) == (3, 2)


@pytest.mark.parametrize(
    ("changes", "ranks", "words"),
    [
        ({"batch": 8, "micro_batch": 3}, 1, "--batch 8 is not a multiple of 3 .*micro-batch 3 x 1 rank"),
        ({"batch": 2}, 4, "--batch 2 is not a multiple of 4 .*x 4 ranks"),
        ({"shard": 2}, 1, "--shard 2 does not divide the 1 rank "),
        ({"tp_ranks": 3}, 4, "--tp-ranks 3 does not divide the 4 ranks of this job"),
        ({"tp_ranks": 2, "shard": 4}, 4, "--shard 4 does not divide the 4 ranks of this job / tp-ranks 2"),
        ({"steps": 0}, 1, "--steps 0 must be at least 1"),
        ({"micro_batch": 0}, 1, "--micro-batch 0 must be at least 1"),
        ({"warmup": 121}, 1, "--warmup 121 is more than the 120 steps"),
        ({"warmup": -1}, 1, "--warmup -1 must be at least 0"),
        ({"lr": math.nan}, 1, "--lr nan must be above 0"),
        ({"clip": -1.0}, 1, "--clip -1.0 must be at least 0"),
        ({"betas": (0.9, 1.0)}, 1, "--betas 0.9 1.0 must be below 1"),
        ({"betas": (-0.1, 0.5)}, 1, "--betas -0.1 0.5 must be at least 0"),
        ({"precision": "fp16"}, 1, "unknown precision 'fp16'"),
    ],
)
def test_what_cannot_work_is_refused(changes, ranks, words):
    with pytest.raises(UserError, match=words):
        Options(**changes).check(ranks)


def test_flags():
    parser = argparse.ArgumentParser()
    module.add_arguments(parser, lr=5e-4)
    default = of(Options, parser.parse_args(["--work", "w", "--out", "o"]))
    assert default == Options(lr=5e-4)
    words = "--work w --out o --micro-batch 2 --betas 0.8 0.99 --compile --precision bf16 --warmup 3 --device cpu"
    assert of(Options, parser.parse_args(words.split())) == Options(
        lr=5e-4, micro_batch=2, betas=(0.8, 0.99), compile=True, precision="bf16", warmup=3, device="cpu"
    )
    parser.format_help()


def test_only_rounding_is_left_out_of_what_a_checkpoint_must_agree_with():
    left_out = {"micro_batch", "shard", "tp_ranks", "activation_checkpointing", "compile", "device"}
    left_out |= {"checkpoint_every", "keep"}
    assert set(vars(Options())) - set(Options().numeric()) == left_out
