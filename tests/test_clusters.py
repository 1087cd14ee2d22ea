"""The SLURM profile, and what its jobs ask of a cluster: nothing here needs one."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from torch.distributed.run import get_args_parser

from ladder.config import check
from ladder.errors import UserError
from ladder.plan import Plan

ROOT = Path(__file__).parent.parent
PROFILE = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
PAPER = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
LAUNCHED = {
    1: "ladder",
    8: "torchrun --standalone --nproc-per-node 8 -m -- ladder",
    64: "srun --nodes 8 --ntasks-per-node 1 --cpu-bind none torchrun --nnodes 8 --nproc-per-node 8 "
    "--rdzv-backend c10d --rdzv-id $SLURM_JOB_ID --rdzv-endpoint $(hostname):29500 -m -- ladder",
}


def paper(gpus):
    """The paper's profile with one pretraining run, on so many GPUs."""
    run = PAPER["pretrain"]["runs"][0] | {"gpus": gpus}
    return PAPER | {"pretrain": PAPER["pretrain"] | {"runs": [run]}}


def pretraining(gpus):
    return next(iter(Plan(paper(gpus)).pretrain.values()))


class Resources(dict):
    """Of a job, as the executor reads them: items that are attributes too."""

    __getattr__ = dict.__getitem__


class Job:
    threads = 1

    def __init__(self, resources):
        self.resources = Resources(resources)


def submitted(job):
    """Options of the line with which snakemake's executor submits a job."""
    names = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
    return set(shlex.split(get_submit_command(job, dict.fromkeys(names, "x"))))


@pytest.mark.parametrize("gpus", LAUNCHED)
def test_a_training_job_is_started_on_its_gpus(gpus):
    assert pretraining(gpus)["launch"] == LAUNCHED[gpus]


@pytest.mark.parametrize("gpus", [8, 64])
def test_torchrun_leaves_the_command_its_options(gpus):
    """Without ``--`` it takes ``--run`` for an abbreviation of its own."""
    launcher = LAUNCHED[gpus][LAUNCHED[gpus].index("torchrun") :]
    found = get_args_parser().parse_args(shlex.split(f"{launcher} pretrain --run run.json")[1:])
    assert (found.module, found.training_script) == (True, "ladder")
    assert found.training_script_args == ["pretrain", "--run", "run.json"]


@pytest.mark.parametrize(("gpus", "nodes"), [(1, 1), (8, 1), (64, 8)])
def test_a_training_job_asks_for_its_gpus_and_nodes(gpus, nodes):
    place = pretraining(gpus)["place"]
    assert (place["gpu"], place["nodes"]) == (gpus, nodes)
    options = submitted(Job(PROFILE["default-resources"] | place))
    assert {f"--nodes={nodes}", "--cpus-per-gpu=12"} <= options
    # One launcher a node; several nodes leave srun to the job, which starts them.
    assert ("mpi" in place) == (nodes > 1)
    assert (f"--ntasks={nodes}" in options) == (nodes > 1)
    assert not any(option.startswith("--ntasks-per") for option in options)


def test_jobs_without_a_gpu_ask_for_none():
    plan = Plan(paper(8) | {"device": "cpu"})
    assert {job["place"]["gpu"] for jobs in (plan.pretrain, plan.adapt, plan.bench) for job in jobs.values()} == {0}
    assert {job["launch"] for job in plan.bench.values()} == {"ladder"}
    # A core for each rank, said outright: threads are those of the machine that reads the rule.
    assert {job["place"]["cpus_per_task"] for job in plan.pretrain.values()} == {8}
    assert {job["place"]["cpus_per_task"] for job in plan.bench.values()} == {4, 8, 16}
    options = submitted(Job(PROFILE["default-resources"] | next(iter(plan.pretrain.values()))["place"]))
    assert "--cpus-per-task=8" in options
    assert not any(option.startswith("--cpus-per-gpu") for option in options)


def test_several_nodes_are_whole_ones():
    with pytest.raises(UserError, match=r"pretrain.runs\[0\].gpus: 12 GPUs .* whole nodes of gpus_per_node \(8\)"):
        check(paper(12) | {"pretrain": paper(12)["pretrain"] | {"batch": 96}}, "mine.yaml")


def test_the_profile_speaks_of_rules_that_there_are():
    rules = re.findall(r"^rule (\w+):", "".join(p.read_text() for p in (ROOT / "workflow/rules").glob("*.smk")), re.M)
    assert set(PROFILE["set-resources"]) <= set(rules)
    assert {"slurm_partition", "mem_mb", "runtime"} <= set(PROFILE["default-resources"])
    assert all({"mem_mb", "runtime"} & set(asked) for asked in PROFILE["set-resources"].values())


def test_a_dry_run_prints_jobs_hours_and_disk_by_stage():
    """Of the paper's profile under SLURM, with what each job asks for."""
    command = [Path(sys.executable).parent / "snakemake", "-n", "reports/all", "--workflow-profile", "profiles/slurm"]
    done = subprocess.run(
        [*command, "--configfile", "config/paper.yaml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    hours, disk = (
        re.search(rf"about [\d,.]+ {unit} \(([^)]*)\)", done.stderr)[1] for unit in ("H100 hours", "GB of disk")
    )
    assert re.findall("[a-z]+", hours) == ["pretrain", "adapt", "evaluate", "bench"]
    assert re.findall("[a-z]+", disk) == ["tokens", "pretrain", "convert", "adapt", "checkpoints"]
    every = re.findall(r"^    resources: .*", done.stdout, re.M)
    assert all("slurm_partition=main" in asked and "runtime=" in asked for asked in every)
    for rule in ("pretrain", "adapt"):
        asked = re.search(rf"^rule {rule}:.*?resources: (.*?)$", done.stdout, re.M | re.S)[1]
        assert "slurm_extra=--exclusive --signal=TERM@300" in asked
        assert "mpi=srun" in asked
