"""Files appear whole or not at all: permissions, full disks, kills; and how the command line ends."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ladder import cli, files, outputs
from ladder.errors import UserError, sentence
from ladder.files import CARD, OLD, PART, atomic_set, atomic_write, check_target, write_json

ROOT = Path(__file__).parent.parent


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_model_is_replaced_only_if_nothing_was_added(tmp_path):
    def written(text):
        with atomic_write(tmp_path / "model", directory=True) as part:
            (part / "weights").write_text(text)
            write_json(part / CARD, {"sha256": {"weights": files.sha256(part / "weights")}})

    written("old")
    written("new")
    assert (tmp_path / "model/weights").read_text() == "new"
    for name, make in (("x.txt", Path.touch), ("link", lambda path: path.symlink_to(tmp_path))):
        make(tmp_path / "model" / name)
        with pytest.raises(UserError, match=name):
            written("again")
        (tmp_path / "model" / name).unlink()
    assert content(tmp_path / "model").keys() == {"weights", CARD}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, mask):
    import torch
    from safetensors.torch import save_file

    before = os.umask(mask)
    try:
        write_json(tmp_path / "x.json", {})
        with atomic_write(tmp_path / "model", directory=True) as part:
            save_file({"x": torch.zeros(2)}, part / "model.safetensors")  # of mode 0600
    finally:
        os.umask(before)
    for name, mode in (("x.json", 0o666), ("model", 0o777), ("model/model.safetensors", 0o666)):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode & ~mask, name


def test_a_failure_leaves_what_was_there(tmp_path, limited_files):
    """A set of files is replaced as one, or not at all, however it fails."""
    with atomic_set(tmp_path / "manifest.json") as parts:
        for name in ("manifest.json", "train.jsonl"):
            parts[name].write_text("old")
    before = content(tmp_path)

    def write():
        with limited_files(100), atomic_set(tmp_path / "manifest.json") as parts:
            for name in ("manifest.json", "train.jsonl"):
                parts[name].write_text("new")
            parts["test.jsonl"].write_text("x" * 1000)

    with pytest.raises(OSError, match="large") as raised:
        write()
    assert "larger than" in sentence(raised.value)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.json"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed: [Errno 28] No space left on device"),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
    ],
)
def test_a_full_disk_is_told_in_a_sentence(error):
    assert "free some space" in sentence(error)


def test_bugs_are_not_told_in_a_sentence():
    assert sentence(RuntimeError("shapes differ")) is None


def killed(code: str, folder: Path) -> None:
    """Run ``code``, which ends itself with signal 9, as another process in ``folder``."""
    start = "import os, sys\nsys.argv = ['ladder']  # imports no torch\nfrom ladder import files\n"
    lines = start + "kill = lambda *_: os.kill(os.getpid(), 9)\n" + code
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", lines], cwd=folder, env=environment).returncode == -signal.SIGKILL


WRITE = """
with files.atomic_write("model", directory=True) as part:
    (part / "weights").write_text("new")
    (part / files.CARD).write_text('{"sha256": {"weights": ""}}')
    %s
"""
MOMENTS = {
    "while writing": WRITE % "kill()",
    "old one aside": "replace = os.replace\nmoves = []\ndef once(a, b):\n    moves.append(a)\n    replace(a, b)\n"
    "    if str(b).endswith(files.OLD): kill()\nos.replace = once\n" + WRITE % "",
    "old one not deleted": "files._restore_or_remove = kill\n" + WRITE % "",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_leaves_the_old_or_the_new(moment, tmp_path):
    def next_run(fails: bool):
        with atomic_write(tmp_path / "model", directory=True) as part:
            (part / "weights").write_text("newest")
            write_json(part / CARD, {"sha256": {"weights": ""}})
            if fails:
                raise RuntimeError

    def hidden():
        return [path.name for path in tmp_path.glob(".*") if path.name.endswith((PART, OLD))]

    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("old")
    write_json(tmp_path / "model" / CARD, {"sha256": {"weights": ""}})
    killed(MOMENTS[moment], tmp_path)
    assert hidden()
    with pytest.raises(RuntimeError):
        next_run(fails=True)
    assert (tmp_path / "model/weights").read_text() == ("new" if moment == "old one not deleted" else "old")
    assert not hidden()
    next_run(fails=False)
    assert (tmp_path / "model/weights").read_text() == "newest"
    assert not hidden()


def test_a_lock_of_the_users_is_not_emptied(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with files.only_one(tmp_path):
        assert (tmp_path / ".lock").read_text() == "mine"


def test_a_file_that_is_mounted_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a b.json"
    path.touch()
    escaped = str(path).replace(" ", r"\040")
    mounts = f"1 1 0:1 / / rw - x x rw\n1 1 0:1 / {escaped} rw - x x rw\n"
    monkeypatch.setattr(files.Path, "read_text", lambda *_, **__: mounts)
    with pytest.raises(UserError, match="mount point"):
        check_target(path)


def ladder(line: str, **environment) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LADDER_TRACKING": "off"} | environment
    line = f"set -o pipefail; {shlex.quote(sys.executable)} -m ladder {line}"
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True)


def test_a_reader_that_has_seen_enough():
    done = ladder("simulate --tp 2 4 8 --batch 1 2 4 8 16 --json | head -1")
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_standard_output_on_a_full_disk():
    done = ladder("simulate > /dev/full")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "standard output" in done.stderr


def test_interrupted(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "check", interrupt)
    assert cli.main(["simulate"]) == 130
    assert capsys.readouterr().err == "ladder simulate: interrupted\n"
