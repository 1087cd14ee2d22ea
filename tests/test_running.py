"""How jobs are run: one pipeline in a folder, paths of any kind, in this project's folder, of this project's commit."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ladder import running
from ladder.plan import Plan
from ladder.running import alone, has_ended, identity

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
LIVES = "import sys; from pathlib import Path; from ladder.running import alone; a = alone(Path('.snakemake/locks'))"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_locks_are_removed_only_if_no_other_snakemake_lives(folder):
    locks = folder / ".snakemake" / "locks"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{LIVES}; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    other.stdout.readline()
    locks.mkdir()
    second = subprocess.run([sys.executable, "-c", LIVES], capture_output=True, text=True)
    assert locks.exists()
    assert str(folder) in second.stderr
    other.kill()
    other.wait()
    with alone(locks):
        assert not locks.exists()


def test_a_process_is_known_by_more_than_its_number():
    dead = subprocess.Popen(["true"])
    dead.wait()
    me = identity()
    assert not has_ended(me)
    assert has_ended(me | {"pid": str(dead.pid)})
    assert has_ended(me | {"pid_started": "1"})  # the number was given to another
    assert not has_ended(me | {"pid": str(dead.pid), "host": "elsewhere"})
    assert not has_ended(me | {"pid": str(dead.pid), "pid_namespace": "pid:[1]"})
    assert not has_ended({})
    assert not has_ended({"host": running.socket.gethostname(), "pid": str(os.getpid())})


@pytest.mark.parametrize("place", ["inside another repository", "own checkout"])
def test_the_commit_is_this_projects(folder, place):
    own = folder if place == "own checkout" else folder / "unpacked"
    (own / "ladder").mkdir(parents=True)
    for name in ("__init__", "records", "errors", "files", "reading", "redact"):
        shutil.copy(ROOT / "ladder" / f"{name}.py", own / "ladder")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q", folder], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    code = "from ladder import records; print(records.git_commit()[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=own, env=os.environ | {"PYTHONPATH": str(own)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert done.stdout.strip() == (head if place == "own checkout" else "None")


@pytest.fixture(scope="module")
def spaced():
    """The toy configuration with paths that a shell would part, or run."""
    config = yaml.safe_load((ROOT / "tests" / "toy.yaml").read_text())
    config["corpus"] = {"kind": "files", "path": ["my docs/$(touch x)'"], "validation": 0.1, "test": 0.2}
    config["tokenizer"] = {"from": "my model"}
    config["adapt"]["from"] = {"checkpoint": "my model; exit", "size": "tiny"}
    config["evaluate"]["adapt"] = ["a task:3"]
    return config


def test_flags_of_the_plan_are_words_of_a_shell(spaced):
    plan = Plan(spaced)
    assert "my docs/$(touch x)'" in shlex.split(plan.corpus["flags"])
    assert "my model" in shlex.split(plan.tokenizer["flags"])
    assert "a task=3" in shlex.split(plan.evaluate["adapted-s0"]["flags"])


def test_every_path_of_a_rule_is_quoted(spaced, folder):
    for name in ("workflow", "profiles", "reports"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "my docs").mkdir()
    (folder / "my docs" / "$(touch x)'").write_text("text")
    (folder / "toy.yaml").write_text(yaml.safe_dump(spaced | {"evaluate": spaced["evaluate"] | {"adapt": ["cloze"]}}))
    snakemake = Path(sys.executable).parent / "snakemake"
    command = [snakemake, "-n", "-p", "--cores", "1", "results/toy/convert/tiny-ladder@5-9/record.json"]
    command += ["results/toy/sensitivity/tiny/record.json", "--configfile", "toy.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    lines = [line.partition("Shell command: ")[2] for line in done.stdout.splitlines() if "Shell command: " in line]
    words = {shlex.split(line)[1]: shlex.split(line) for line in lines}
    assert words["convert"][2] == "my model; exit"
    assert words["sensitivity"][2] == "my model; exit"
    assert "my docs/$(touch x)'" in words["corpus"]


def test_another_working_directory_is_refused_in_a_sentence(folder):
    snakemake = Path(sys.executable).parent / "snakemake"
    command = [snakemake, "-n", "--directory", folder, "--cores", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr
