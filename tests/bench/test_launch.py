"""Ranks started here, by torchrun on two nodes, and by SLURM: one command, one result."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from ladder import cli
from ladder.bench import launch
from ladder.bench.launch import hosts, meet, run_ranks, this_place, this_rank
from ladder.errors import UserError
from ladder.tracking import Run

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1234"}
SLURM = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
SLURM |= {"SLURM_JOB_NODELIST": "node[1-2]"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for key in (*TORCHRUN, *SLURM, "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A stand-in that says what the real one says of its host list."""
    script = tmp_path / "scontrol"
    script.write_text('#!/bin/sh\n[ "$1 $2 $3" = "show hostnames node[1-2]" ] && printf "127.0.0.1\\nnode2\\n"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


def work(rank: int, local_rank: int, offset: float):
    total = torch.tensor([rank + offset])
    dist.all_reduce(total)
    meet("half way")
    return {"sum": total.item(), "local": local_rank, "threads": torch.get_num_threads(), "hosts": hosts()}


@pytest.mark.ranks
def test_ranks_started_here():
    """Each on one thread, and what rank 0 returns comes back."""
    here = socket.gethostname()
    found = run_ranks(work, (10.0,), 3, "cpu")
    assert found == {"sum": 33.0, "local": 0, "threads": 1, "hosts": [here] * 3}


def long_result(rank: int, local_rank: int):
    return "x" * 10_000_000


@pytest.mark.ranks
def test_a_result_longer_than_a_pipe_holds():
    assert len(run_ranks(long_result, (), 2, "cpu")) == 10_000_000


def test_gpus_that_are_not_there():
    with pytest.raises(UserError, match="tp 99 on cuda needs as many GPUs"):
        run_ranks(work, (), 99, "cuda")


def test_nobody_started_this_process():
    assert this_rank() is None


def test_a_rank_of_torchrun(monkeypatch):
    for key, value in TORCHRUN.items():
        monkeypatch.setenv(key, value)
    place = this_place()
    assert (place.rank, place.local_rank, place.size, place.host, place.port) == (3, 1, 4, "a", 1234)
    with pytest.raises(UserError, match="4 ranks were started for tensor-parallel degree 8"):
        run_ranks(work, (), 8, "cpu")


def test_a_task_of_slurm(monkeypatch, scontrol):
    for key, value in SLURM.items():
        monkeypatch.setenv(key, value)
    place = this_place()
    assert (place.rank, place.local_rank, place.size, place.host) == (1, 0, 2, "127.0.0.1")
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    assert 1024 < this_place().port != place.port < 32768
    monkeypatch.delenv("SLURM_STEP_ID")  # a batch script, which is no task
    assert this_rank() is None


def test_slurm_without_scontrol(monkeypatch, tmp_path):
    for key, value in (SLURM | {"PATH": str(tmp_path)}).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match=r"SLURM_JOB_NODELIST=node\[1-2\]; set MASTER_ADDR"):
        this_rank()


BENCH = "bench --size tiny --layers 1 --tp 2 --prompt 2 3 --new-tokens 2 --prefills 1 --wirings standard upper_bound"


@pytest.mark.ranks
@pytest.mark.parametrize("line", [f"{BENCH} --out records", "bench link --tp 2 --out link.json"])
def test_ended_by_the_watchdog_its_run_is_a_failed_one(line, tmp_path, monkeypatch):
    statuses = []

    def ended(*arguments):
        arguments[-1]()
        raise SystemExit

    for key, value in (TORCHRUN | {"WORLD_SIZE": "2", "RANK": "0"}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_run", ended)
    monkeypatch.setattr(Run, "finish", lambda _, status="FINISHED": statuses.append(status))
    with pytest.raises(SystemExit):
        cli.main(line.split())
    assert statuses == ["FAILED"] * 2  # at the end, and as the job itself


def ladder(env: dict, *words: str, cwd) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_records(started: list[subprocess.Popen], folder) -> None:
    for process in started:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    records = [json.loads(path.read_text()) for path in folder.glob("records/*.json")]
    assert sorted(record["rows"][0]["prompt"] for record in records) == [2, 3]
    assert {(row["origin"], row["tp"]) for record in records for row in record["rows"]} == {("measured", 2)}


@pytest.mark.ranks
def test_torchrun_on_two_nodes_write_one_record_a_point(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = f"-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --master-addr 127.0.0.1 --master-port {port}"
    started = [
        ladder({}, *f"{nodes} --node-rank {node} -m ladder {BENCH} --out records".split(), cwd=tmp_path)
        for node in range(2)
    ]
    check_records(started, tmp_path)


@pytest.mark.ranks
def test_two_tasks_of_slurm_write_one_record_a_point(tmp_path, scontrol):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        ladder(
            SLURM | {"SLURM_PROCID": str(task), "MASTER_PORT": str(port)},
            *f"-m ladder {BENCH} --out records".split(),
            cwd=tmp_path,
        )
        for task in range(2)
    ]
    check_records(started, tmp_path)
