"""Checkpoints: which one is used, which are kept."""

import json
import os
import shutil

import pytest
import torch
from toy import Tracking, killed, losses, model, run

from ladder.errors import UserError
from ladder.files import MARK


@pytest.fixture
def stopped(tmp_path):
    """A run that was killed in step 5, with checkpoints of steps 2 and 4."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Tracking({5: killed}))
    assert names(tmp_path) == ["step-00000002", "step-00000004"]
    return tmp_path


def names(work) -> list[str]:
    return sorted(path.name for path in work.iterdir() if path.name != MARK)


def first_step(tracking) -> int:
    return min(step for step, values in tracking.logged if "train/loss" in values)


def cut(folder):
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def flip(folder):
    file = next(folder.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-50] ^= 1
    file.write_bytes(data)


def remove(folder):
    next(folder.glob("*.safetensors")).unlink()


def half_a_json(folder):
    (folder / "state.json").write_text((folder / "state.json").read_text()[:200])


def no_json(folder):
    (folder / "state.json").unlink()


def other_json(folder):
    (folder / "state.json").write_text("[]")


def edit(folder, change):
    content = json.loads((folder / "state.json").read_text())
    change(content)
    (folder / "state.json").write_text(json.dumps(content))


def no_curve(folder):
    edit(folder, lambda content: content["state"].update(training=None))


def other_curve(folder):
    edit(folder, lambda content: content["state"]["training"][0].update(loss=0.0))


def a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("mine")


def a_link(folder):
    elsewhere = folder.with_name("elsewhere")
    os.replace(folder, elsewhere)
    folder.symlink_to(elsewhere)


DAMAGES = [cut, flip, remove, half_a_json, no_json, other_json, no_curve, other_curve, a_file, a_link]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(damage, stopped, capfd):
    damage(stopped / "step-00000004")
    tracking = Tracking()
    run(stopped, tracking)
    assert first_step(tracking) == 3
    said = capfd.readouterr().err
    assert "step-00000004: the checkpoint is damaged" in said
    assert "step-00000002: resuming after step 2" in said


def test_nothing_sound_left(stopped):
    for folder in stopped.glob("step-*"):
        cut(folder)
    tracking = Tracking()
    run(stopped, tracking)
    assert first_step(tracking) == 1


def test_other_settings_start_afresh(stopped, capfd):
    tracking = Tracking()
    run(stopped, tracking, lr=2e-2, steps=3, checkpoint_every=3)
    assert first_step(tracking) == 1
    assert "made with other settings (lr, steps); starting afresh" in capfd.readouterr().err
    assert names(stopped) == ["step-00000003"]


def test_settings_that_only_round_resume(stopped):
    tracking = Tracking()
    run(stopped, tracking, micro_batch=2, keep=1, checkpoint_every=3)
    assert first_step(tracking) == 5
    assert names(stopped) == ["step-00000006"]


def test_leftovers_of_a_kill_are_removed(stopped):
    for name in (".step-00000006.part", ".step-00000002.gone"):
        (stopped / name).mkdir()
        (stopped / name / "x.safetensors").write_text("half")
    state, _ = run(stopped)
    assert len(losses(state)) == 6
    assert names(stopped) == ["step-00000004", "step-00000006"]


def test_no_pickle(stopped):
    files = [path.name for path in (stopped / "step-00000004").iterdir()]
    assert {name.rpartition(".")[2] for name in files} == {"safetensors", "json"}
    assert json.loads((stopped / "step-00000004/state.json").read_text())["state"]["step"] == 4


@pytest.mark.parametrize("wiring", ["parallel", "ladder@1"])
def test_every_wiring_resumes(tmp_path, wiring):
    """``parallel`` never uses the MLP's norm, so the optimizer has no moments of it."""
    expected, weights = run(tmp_path / "whole", net=model(wiring=wiring))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Tracking({5: killed}), net=model(wiring=wiring))
    state, again = run(tmp_path / "killed", net=model(wiring=wiring))
    assert losses(state) == losses(expected)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_what_others_put_there_is_never_deleted(stopped, capfd):
    """Names that look like ours: a file, a folder that holds more than a checkpoint, and temporary names."""
    precious = [
        stopped / name for name in ("step-00000002", "step-1", "step-notes", ".step-mine.part", ".step-00000002")
    ]
    shutil.rmtree(precious[0])
    for folder in precious:
        folder.mkdir()
        (folder / "precious.txt").write_text("mine")
    a_file(stopped / "step-00000004")
    run(stopped, keep=1)
    moved = {path.name: path for path in stopped.glob("*.moved-1")}
    assert set(moved) == {"step-00000002.moved-1", "step-00000004.moved-1"}
    assert (moved["step-00000002.moved-1"] / "precious.txt").read_text() == "mine"
    assert moved["step-00000004.moved-1"].read_text() == "mine"
    assert all((folder / "precious.txt").exists() for folder in precious[1:])
    assert "step-00000004: is no checkpoint of this package" in capfd.readouterr().err


def test_a_folder_without_our_mark_is_refused(stopped):
    (stopped / MARK).unlink()
    with pytest.raises(UserError, match=r"step-00000002.*does not list"):
        run(stopped)
    assert names(stopped) == ["step-00000002", "step-00000004"]


def test_a_checkpoint_follows_the_umask(stopped):
    mask = os.umask(0o077)
    os.umask(mask)
    for path in (stopped / "step-00000004").iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
