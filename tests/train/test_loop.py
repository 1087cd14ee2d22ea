"""The loop on one process: exact resumption, accumulation, validation, and the ways in which it stops."""

import math
import os
import signal

import numpy as np
import pytest
import torch
from toy import VOCAB, Stream, Tracking, killed, losses, model, options, run

from ladder.errors import UserError
from ladder.parallel.group import Group
from ladder.train.batches import Batch, Dataset, Mixture, PackedTokens
from ladder.train.loop import validate
from ladder.train.losses import token_losses

CPU = Group(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def numbers(state) -> list[dict]:
    """The curves without the clock."""
    points = [{k: v for k, v in p.items() if k != "tokens_per_second"} for p in state.training]
    return points + state.validation


def test_it_learns(uninterrupted):
    state, _ = uninterrupted
    assert losses(state)[0] == pytest.approx(math.log(VOCAB), rel=0.05)
    assert state.validation[-1]["loss"] < state.validation[0]["loss"] - 0.2
    assert [p["step"] for p in state.training] == [1, 2, 3, 4, 5, 6]
    assert [p["step"] for p in state.validation] == [0, 3, 6]
    assert state.training[-1]["tokens"] == 6 * 4 * 16


@pytest.mark.parametrize("at", [1, 3, 4, 6])
def test_resumed_equals_uninterrupted_to_the_last_bit(at, tmp_path, uninterrupted):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Tracking({at: killed}))
    again = Tracking()
    state, weights = run(tmp_path, again, net=model(seed=5 if at > 2 else 0))  # a checkpoint replaces all weights
    assert numbers(state) == numbers(uninterrupted[0])
    assert same(weights, uninterrupted[1])
    first = at - 1 - (at - 1) % 2  # the last checkpoint before it
    assert [step for step, values in again.logged if "train/loss" in values] == list(range(first + 1, 7))


def test_a_finished_run_only_reports(tmp_path, uninterrupted):
    run(tmp_path)
    tracking = Tracking()
    state, weights = run(tmp_path, tracking, net=model(seed=5))
    assert tracking.logged == []
    assert numbers(state) == numbers(uninterrupted[0])
    assert same(weights, uninterrupted[1])


def test_sigterm_leaves_a_checkpoint(tmp_path, uninterrupted):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, Tracking({3: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    again = Tracking()
    state, weights = run(tmp_path, again, net=model(seed=5))
    assert min(step for step, _ in again.logged) in (4, 5)  # the signal is seen at the end of its step or the next
    assert numbers(state) == numbers(uninterrupted[0])
    assert same(weights, uninterrupted[1])


def test_accumulation_equals_the_big_batch(tmp_path, uninterrupted):
    state, weights = run(tmp_path, micro_batch=1)
    assert losses(state) == pytest.approx(losses(uninterrupted[0]), rel=1e-5)
    assert state.validation[-1]["loss"] == pytest.approx(uninterrupted[0].validation[-1]["loss"], rel=1e-4)
    assert {name: w.shape for name, w in weights.items()} == {name: w.shape for name, w in uninterrupted[1].items()}


def test_recompute_changes_nothing_but_the_work(tmp_path, uninterrupted):
    net, calls = model(), []
    net.model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(net.training))
    state, weights = run(tmp_path, net=net, activation_checkpointing=True)
    assert calls.count(True) == 2 * 6  # forward and again in backward, in each step
    assert numbers(state) == numbers(uninterrupted[0])
    assert same(weights, uninterrupted[1])


def test_seeds_differ(tmp_path, uninterrupted):
    assert losses(run(tmp_path, seed=1, steps=1)[0])[0] != losses(uninterrupted[0])[0]


def test_clipping_off(tmp_path):
    assert losses(run(tmp_path, clip=0.0, steps=2)[0])[-1] < math.log(VOCAB) * 1.02


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    net = model()

    def poison():
        with torch.no_grad():
            net.model.norm.weight.fill_(math.nan)

    said = r"step 4: the loss is nan .* on rows \d+, .* \(digest \w{16}\); .* of step 2; lower --lr \(0.01\)"
    with pytest.raises(UserError, match=said):
        run(tmp_path, Tracking({3: poison}), net=net, evaluate_every=100)
    net = model()
    with pytest.raises(UserError, match=r"step 2: .* there is no checkpoint yet"):
        run(tmp_path / "second", Tracking({1: poison}), net=net)


def test_validation_of_a_known_loss():
    net = model()
    with torch.no_grad():
        net.model.embed_tokens.weight.zero_()  # all logits are 0: every token costs log V
    found = validate(net, PackedTokens(Stream(200, 2), 16), options(), CPU)
    assert found == {"loss": pytest.approx(math.log(VOCAB)), "stderr": pytest.approx(0, abs=1e-6), "n": 5}
    assert net.training


class Uneven(Dataset):
    """Rows with 1, 2, ... scored tokens."""

    def __len__(self):
        return 4

    def rows(self, numbers):
        ids = np.stack([np.arange(8) * (n + 3) % VOCAB for n in numbers])
        targets = np.stack([np.where(np.arange(8) <= n, 7, -100) for n in numbers])
        return Batch(ids, targets, None)

    def supervised(self, numbers):
        return sum(int(n) + 1 for n in numbers)


def test_validation_weighs_tokens_not_rows():
    net, data = model(), Uneven()
    with torch.no_grad():
        each = token_losses(net, data.rows(range(4)), "cpu").numpy()
    found = validate(net, data, options(micro_batch=2), CPU)
    loss, stderr = found["loss"], found["stderr"]
    assert loss == pytest.approx(each.sum() / 10, rel=1e-5)
    ratios = (each.sum(1) - loss * np.arange(1, 5)) / 2.5
    assert stderr == pytest.approx(ratios.std(ddof=1) / 2, rel=1e-3)


def test_validation_of_a_mixture_is_of_each_source_and_together():
    net, parts = model(), {"a": PackedTokens(Stream(200, 2), 16), "b": PackedTokens(Stream(120, 3), 16)}
    found = validate(net, Mixture(parts, {"a": 3, "b": 1}), options(), CPU)
    each = {label: validate(net, part, options(), CPU)["loss"] for label, part in parts.items()}
    assert {"a": found["loss_of_a"], "b": found["loss_of_b"]} == each
    assert found["loss"] == pytest.approx(0.75 * each["a"] + 0.25 * each["b"])


def test_accumulation_weighs_tokens_not_micro_batches(tmp_path):
    changes = {"steps": 2, "checkpoint_every": 10}
    one = run(tmp_path / "1", data=Uneven(), **changes)[0]
    four = run(tmp_path / "4", data=Uneven(), micro_batch=1, **changes)[0]
    assert losses(four) == pytest.approx(losses(one), rel=1e-5)
    assert [p["grad_norm"] for p in four.training] == pytest.approx([p["grad_norm"] for p in one.training], rel=1e-4)
