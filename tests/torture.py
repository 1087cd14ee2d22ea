"""Disturb the toy pipeline at random moments until it is done, and hold its numbers against an undisturbed run's.

    python -m tests.torture --kills 12 --seed 7          (or: make torture KILLS=12)

A disturbance is one of: kill -9 of a job, of snakemake, of both with all their children; a second snakemake beside the
first; files dated an hour ahead; the tracking database locked for some seconds. Ends with a table, and with status 1 if
a number differs, a job's run is missing in MLflow, or one is left RUNNING.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # as pytest does
from test_workflow import BIN, environment, numbers, project

COMMAND = [BIN / "snakemake", "--cores", "2", "reports/all", "--configfile", "tests/toy.yaml"]
PAUSE = (2.0, 12.0)  # seconds between two disturbances


def start(folder: Path) -> subprocess.Popen:
    log = (folder / "torture.log").open("a")
    return subprocess.Popen(COMMAND, cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True)


def running_jobs(of: int) -> list[int]:
    """The `ladder` processes below the process ``of``."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in lines.splitlines()[1:]]
    below = {of}
    for _ in range(8):  # as deep as a job lies below snakemake
        below |= {int(pid) for pid, parent, _ in rows if int(parent) in below}
    return [int(pid) for pid, _, words in rows if int(pid) in below and "bin/ladder " in words and " -c " not in words]


def kill_job(process: subprocess.Popen, folder: Path, draw: random.Random) -> None:
    if jobs := running_jobs(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(jobs), signal.SIGKILL)


def kill_snakemake(process: subprocess.Popen, folder: Path, draw: random.Random) -> None:
    process.kill()
    process.wait()


def kill_group(process: subprocess.Popen, folder: Path, draw: random.Random) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def second_run(process: subprocess.Popen, folder: Path, draw: random.Random) -> None:
    subprocess.run(COMMAND, cwd=folder, env=environment(), capture_output=True, check=False, timeout=600)


def skewed_clock(process: subprocess.Popen, folder: Path, draw: random.Random) -> None:
    files = sorted(path for path in (folder / "results").rglob("*") if path.is_file())
    for path in draw.sample(files, min(5, len(files))):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (time.time() + 3600,) * 2)


def locked_database(process: subprocess.Popen, folder: Path, draw: random.Random) -> None:
    if not (folder / "mlflow.db").exists():
        return

    def hold() -> None:
        with contextlib.closing(sqlite3.connect(folder / "mlflow.db", timeout=30)) as database:
            database.execute("BEGIN EXCLUSIVE")
            time.sleep(8)

    threading.Thread(target=hold).start()


DISTURBANCES = (kill_job, kill_job, kill_snakemake, kill_group, second_run, skewed_clock, locked_database)


def torture(folder: Path, kills: int, draw: random.Random) -> tuple[Counter, int]:
    """How often each disturbance was made, and how often snakemake had to be started."""
    done, starts = Counter(), 1
    process = start(folder)
    while True:
        if done.total() < kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(*PAUSE))
        elif not process.wait():
            return done, starts
        if process.poll() is None:
            disturb = draw.choice(DISTURBANCES)
            disturb(process, folder, draw)
            done[disturb.__name__] += 1
            print(f"{done.total():>3} {disturb.__name__}", flush=True)
        elif process.returncode == 0 and done.total() < kills:  # ended before enough was done to it: a part again
            shutil.rmtree(draw.choice(sorted((folder / "results/toy").glob("*/*/"))), ignore_errors=True)
        if process.poll() is not None:
            starts += 1
            process = start(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        calm, disturbed = (project.__wrapped__(Place(Path(place) / name)) for name in ("calm", "disturbed"))
        if start(calm).wait():
            print(f"the undisturbed run failed:\n{(calm / 'torture.log').read_text()[-3000:]}")
            return 1
        began = time.monotonic()
        done, starts = torture(disturbed, args.kills, random.Random(args.seed))
        expected, got = numbers(calm), numbers(disturbed)
        runs = Counter(_runs(disturbed))
        lost = {name for name, _ in _runs(calm)} - {name for name, status in runs if status == "FINISHED"}
        left = sum(count for (_, status), count in runs.items() if status == "RUNNING")
    for name, count in sorted(done.items()):
        print(f"{name:<20} {count:>4} tried, survived")
    same = sum(got.get(key) == value for key, value in expected.items())
    print(f"numbers equal: {same} of {len(expected)}; runs lost: {len(lost)}; left RUNNING: {left}; snakemake started")
    print(f"{starts} times in {time.monotonic() - began:.0f} s; seed {args.seed}")
    return int(same < len(expected) or bool(lost) or left > 0)


def _runs(folder: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return database.execute("SELECT name, status FROM runs").fetchall()


class Place:
    """Makes the folder that pytest's factory would."""

    def __init__(self, folder: Path):
        self.folder = folder

    def mktemp(self, _: str) -> Path:
        self.folder.mkdir()
        return self.folder


if __name__ == "__main__":
    sys.exit(main())
