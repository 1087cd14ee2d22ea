"""Ranks started here, by torchrun on two nodes, and by SLURM: one command, one result."""

import json
import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from ladder import cli
from ladder.bench import link, ranks
from ladder.errors import LAUNCHED, UserError
from ladder.parallel import group
from ladder.parallel.environment import environment, rank, world_size
from ladder.tracking import Run

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1234"}
SLURM = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
SLURM |= {"SLURM_JOB_NODELIST": "node[1-2]"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for key in (*TORCHRUN, *SLURM, "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE", LAUNCHED):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A stand-in that says what the real one says of its host list."""
    script = tmp_path / "scontrol"
    script.write_text('#!/bin/sh\n[ "$1 $2 $3" = "show hostnames node[1-2]" ] && printf "127.0.0.1\\nnode2\\n"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


WORK = """
import sys
out, sys.argv = sys.argv[1], ["ladder"]  # no model is needed
import json
import torch
from ladder.parallel.group import join

with join("cpu", timing=True) as group:
    total = group.sum(torch.tensor([group.world_rank + 10.0])).item()
    group.meet()
    if group.first:
        found = {"sum": total, "threads": torch.get_num_threads(), "hosts": group.hosts, "said": group.meet("hello")}
        json.dump(found, open(out, "w"))
    else:
        assert group.meet() == "hello"
"""


@pytest.mark.ranks
def test_ranks_launched_here(tmp_path):
    """Each on one thread; they sum, meet, and part."""
    group.launch(3, [sys.executable, "-c", WORK, str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found == {"sum": 33.0, "threads": 1, "hosts": [socket.gethostname()] * 3, "said": "hello"}


def test_gpus_that_are_not_there(monkeypatch):
    with pytest.raises(UserError, match="--device cuda: torch finds no GPU"):
        group.check_gpus(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="99 ranks on cuda need as many GPUs; this machine has 0"):
        group.check_gpus(99)


def test_nobody_started_this_process():
    assert (environment(), rank(), world_size()) == ({}, 0, 1)


@pytest.mark.parametrize(
    ("line", "launched"),
    [
        ("bench --size tiny --tp 1 2 --out here", [(1, ["--tp", "1"]), (2, ["--tp", "2"])]),
        ("bench link --tp 2 --out l.json", [(2, [])]),
    ],
)
def test_a_command_without_ranks_launches_itself(line, launched, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(group, "launch", lambda *which: sizes.append(which))
    assert cli.main(line.split()) == 0
    assert sizes == [(size, [sys.executable, "-m", "ladder", *line.split(), *more]) for size, more in launched]


def test_no_ranks_are_launched_for_a_degree_that_cannot_be(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(group, "launch", None)
    assert cli.main(f"bench --size tiny --tp 2 1000 --out {tmp_path}/here".split()) == 1
    assert "tensor-parallel degree 1000 does not divide" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["bench --size tiny", "bench link"])
def test_a_rank_of_torchrun(command, monkeypatch, tmp_path, capsys):
    for key, value in TORCHRUN.items():
        monkeypatch.setenv(key, value)
    found = environment()
    assert {key: found[key] for key in TORCHRUN} == TORCHRUN
    monkeypatch.chdir(tmp_path)
    assert cli.main(f"{command} --tp 2 --out {tmp_path}/out.json".split()) == 1
    assert "4 ranks were started for --tp 2; make them equal" in capsys.readouterr().err


def test_a_task_of_slurm(monkeypatch, scontrol):
    for key, value in SLURM.items():
        monkeypatch.setenv(key, value)
    found = environment()
    assert (rank(), world_size(), found["LOCAL_RANK"], found["MASTER_ADDR"]) == (1, 2, "0", "127.0.0.1")
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    assert 1024 < int(environment()["MASTER_PORT"]) != int(found["MASTER_PORT"]) < 32768
    monkeypatch.delenv("SLURM_STEP_ID")  # a batch script, which is no task
    assert environment() == {}


def test_slurm_without_scontrol(monkeypatch, tmp_path):
    for key, value in (SLURM | {"PATH": str(tmp_path)}).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match=r"SLURM_JOB_NODELIST=node\[1-2\]; set MASTER_ADDR"):
        environment()


BENCH = "bench --size tiny --layers 1 --tp 2 --prompt 2 3 --new-tokens 2 --prefills 1 --wirings standard upper_bound"


@pytest.mark.ranks
@pytest.mark.parametrize("line", [f"{BENCH} --out records", "bench link --tp 2 --out link.json"])
def test_ended_by_the_watchdog_its_run_is_a_failed_one(line, tmp_path, monkeypatch):
    watch, statuses = SimpleNamespace(), []

    def ended(*_):
        watch.at_end()
        raise SystemExit

    for key, value in (TORCHRUN | {"WORLD_SIZE": "2", "RANK": "0"}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    alone = group.Group(0, 1, torch.device("cpu"), watch=watch, store=dist.HashStore())
    monkeypatch.setattr(group, "join", lambda *_, **__: nullcontext(alone))
    monkeypatch.setattr(ranks, "measure", ended)
    monkeypatch.setattr(link, "measure", ended)
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
def test_two_degrees_launched_here_write_one_record_a_point(tmp_path, monkeypatch, capsys):
    process = ladder({}, *f"-m ladder {BENCH} --tp 1 2 --trace --out records".split(), cwd=tmp_path)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    records = [json.loads(path.read_text()) for path in tmp_path.glob("records/*n2-fp32-gloo.json")]
    assert sorted((record["rows"][0]["tp"], record["rows"][0]["prompt"]) for record in records) == [
        (tp, prompt) for tp in (1, 2) for prompt in (2, 3)
    ]
    monkeypatch.chdir(tmp_path)
    for key, value in (TORCHRUN | {"WORLD_SIZE": "2", "RANK": "0"}).items():
        monkeypatch.setenv(key, value)
    assert cli.main(f"{BENCH} --trace --out records".split()) == 0
    assert capsys.readouterr().err == "2 points, 2 of them finished\n"


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
