"""Kill -9 at a step and in the middle of a checkpoint, dead and stopped ranks, out of memory: what is said, and that
the resumed run is the uninterrupted one."""

import os
import re
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
from fleet import together
from toy import Stream, Tracking, losses, model, options, run

from ladder.errors import UserError, sentence
from ladder.parallel.group import Group
from ladder.train import layout, memory, state
from ladder.train.batches import PackedTokens
from ladder.train.state import Checkpoints, State

ALONE = Group(0, 1, torch.device("cpu"))
SHARED = {1: {}, 2: {"shard": 2}}


def send(number: int):
    return lambda: os.kill(os.getpid(), number)


def raises():
    raise RuntimeError("logits are off")


def whole(these, folder) -> list[float]:
    return losses(run(folder, these=these, **SHARED[these.world_size])[0])


def falls(these, folder, who: int, what) -> None:
    """``what`` happens to rank ``who`` in step 5, after the checkpoint of step 4."""
    at = {5: what} if these.world_rank == who else {}
    run(folder, Tracking(at), these=these, **SHARED[these.world_size])


def killed_in_step_5(these, folder) -> None:
    falls(these, folder, these.world_size - 1, send(signal.SIGKILL))


def killed_while_writing(these, folder) -> None:
    """Tensors of step 4 are written, the rest is not."""
    write, written = state.write_json, []

    def write_json(path, content):
        if written:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(path)
        write(path, content)

    state.write_json = write_json
    run(folder, these=these, **SHARED[these.world_size])


def stopped(these, folder) -> None:
    these.watch.at_end = (folder / "ended").touch
    falls(these, folder, 1, send(signal.SIGSTOP))


def failed(these, folder) -> None:
    falls(these, folder, 1, raises)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    def curve(size: int) -> list[float]:
        folder = tmp_path_factory.mktemp("whole")
        return together(size, folder, whole, folder)[0]

    return {size: curve(size) for size in SHARED}


@pytest.mark.ranks
@pytest.mark.parametrize("size", SHARED)
@pytest.mark.parametrize("how", [killed_in_step_5, killed_while_writing])
def test_kill_9_and_again(how, size, uninterrupted, tmp_path):
    ended = together(size, tmp_path / "first", how, tmp_path)
    assert -signal.SIGKILL in ended
    if how is killed_while_writing:
        assert list(tmp_path.glob(".step-00000004.part/*.safetensors"))
    if size == 2:
        dead, alive = ended.index(-signal.SIGKILL), 1 - ended.index(-signal.SIGKILL)
        assert ended[alive] == 1
        assert f"rank {dead} on" in (tmp_path / f"first/{alive}.err").read_text().splitlines()[-1]
    assert together(size, tmp_path / "again", whole, tmp_path)[0] == uninterrupted[size]
    # In step 5, the checkpoint of step 4 may have been under way.
    last = "[24]" if how is killed_in_step_5 else "2"
    assert re.search(f"resuming after step {last}", (tmp_path / "again/0.err").read_text())


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("how", "words"), [(stopped, "no sign of life from rank 1 on"), (failed, "failed: RuntimeError: logits are off")]
)
def test_the_others_say_which_rank_fell(how, words, tmp_path):
    ended = together(2, tmp_path / "first", how, tmp_path)
    assert ended[0] == 1
    assert words in (tmp_path / "first/0.err").read_text().splitlines()[-1]
    assert (tmp_path / "ended").exists() == (how is stopped)


def test_what_is_written_is_the_state_of_its_step(tmp_path, monkeypatch):
    """Training has gone on by the time the tensors are written."""
    expected, _ = run(tmp_path / "whole")
    went_on, save, late = threading.Event(), state.dcp.save, []

    def write(*args, **kwargs):
        late.append(went_on.wait(30))
        save(*args, **kwargs)

    def stop():
        went_on.set()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(state.dcp, "save", write)
        patch.setattr(state, "ASIDE", ("cpu",))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "late", Tracking({4: stop}), checkpoint_every=3)
    assert late == [True]
    tracking = Tracking()
    again, _ = run(tmp_path / "late", tracking, net=model(seed=5), checkpoint_every=3)
    assert min(step for step, values in tracking.logged if "train/loss" in values) == 4
    assert losses(again) == losses(expected)


def test_a_full_disk_loses_nothing(tmp_path, limited_files):
    """The checkpoint before stays, and nothing unfinished; the error is one that is told in a sentence."""
    data = PackedTokens(Stream(700, 1), options().sequence)
    run(tmp_path, data=data, steps=2)
    saved = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OSError, match="too large") as raised, limited_files(2048):
        run(tmp_path, data=data, steps=4)
    assert "larger than" in sentence(raised.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == saved


def test_the_newest_and_the_best_are_kept(tmp_path):
    net = layout.distribute(model(), ALONE, options())
    optimizer = torch.optim.AdamW(net.parameters())
    checkpoints = Checkpoints(tmp_path, ALONE, 1, {})
    assert checkpoints.best() is None
    for step, best in enumerate((True, False, True, False, False), 1):
        with torch.no_grad():
            net.model.norm.weight.fill_(step)
        checkpoints.save(State(step), net, optimizer, best=best)
    assert checkpoints.best().step == 3
    assert [folder.name[-1] for folder in checkpoints.folders()] == ["3", "5"]
    checkpoints.load(checkpoints.best(), net, optimizer)
    assert net.model.norm.weight.eq(3).all()
    assert checkpoints.latest().step == 5


def test_a_run_keeps_the_checkpoint_of_its_best_validation(tmp_path):
    run(tmp_path, lr=1.0, warmup=0, checkpoint_every=1, evaluate_every=1, keep=1)  # it gets worse
    best = min(state.read_json(tmp_path / "step-00000006/state.json")["state"]["validation"], key=lambda p: p["loss"])
    kept = {int(path.name[-1]) for path in tmp_path.glob("step-*")}
    assert kept == {6, best["step"]} if best["step"] else {6}


def test_out_of_memory_says_what_would_fit():
    chosen = options(batch=8, micro_batch=4)
    config = model().config
    with (
        pytest.raises(UserError, match=r"^out of memory on cpu with --micro-batch 4; --micro-batch 2 would fit"),
        memory.explained(config, chosen, ALONE),
    ):
        torch.empty(2**56, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size"), memory.explained(config, chosen, ALONE):
        torch.ones(2) @ torch.ones(3)


def test_the_least_change_that_fits():
    config = model().config
    four = replace(ALONE, world_size=4)
    now = memory.need(config, options(batch=16, micro_batch=4), four)

    def flags(free):
        return memory.cure(config, options(batch=16, micro_batch=4), four, free)

    assert flags(now.total - 1).startswith("--micro-batch 2 would fit by the estimate")
    recomputed = memory.need(config, options(batch=16, micro_batch=1, activation_checkpointing=True), four)
    assert flags(recomputed.total).startswith("--micro-batch 1 --activation-checkpointing would fit")
    assert flags(recomputed.total - 1).startswith("--micro-batch")
    assert "--shard 2" in flags(recomputed.total - 1)
    assert flags(0).endswith("use more ranks, with --shard over all of them")
    assert memory.cure(config, options(batch=1, activation_checkpointing=True), ALONE, 0).startswith("use more ranks")


def test_states_that_cannot_fit_are_refused(monkeypatch):
    config = model().config
    states = memory.need(config, options(), ALONE).states
    assert states == 16 * sum(p.numel() for p in model().parameters())
    memory.check(config, options(), ALONE)
    monkeypatch.setattr(memory, "available", lambda _: states - 1)
    with pytest.raises(UserError, match=r"weights, gradients and optimizer take .* of each rank, but cpu has"):
        memory.check(config, options(), ALONE)


def test_sigterm_waits_for_the_checkpoint(tmp_path, monkeypatch):
    save = state.dcp.save

    def slow(*args, **kwargs):
        time.sleep(0.2)
        save(*args, **kwargs)

    monkeypatch.setattr(state.dcp, "save", slow)
    with pytest.raises(SystemExit):
        run(tmp_path, Tracking({2: send(signal.SIGTERM)}), checkpoint_every=100)
    assert [path.name for path in tmp_path.glob("step-*")] in (["step-00000002"], ["step-00000003"])


def told_to_terminate(these, folder) -> None:
    falls(these, folder, 1, send(signal.SIGTERM))


@pytest.mark.ranks
def test_sigterm_to_one_rank_ends_all_with_a_checkpoint(tmp_path):
    assert together(2, tmp_path / "first", told_to_terminate, tmp_path) == [143, 143]
    assert re.search("stopped after step [56]", (tmp_path / "first/0.err").read_text())
    assert max(path.name for path in tmp_path.glob("step-*")) in ("step-00000005", "step-00000006")
