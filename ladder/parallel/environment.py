"""Which rank this process is, by the environment of what started it: torchrun, srun, `ladder` itself, or nothing.

Without torch, so that what a job cannot do is refused before torch is loaded.
"""

import os
import subprocess

from ladder.errors import UserError


def environment() -> dict[str, str]:
    """RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT as torchrun sets them, also of a task of a SLURM step with
    several; empty for a process by itself. Raises UserError if SLURM's list of nodes cannot be read."""
    env = os.environ
    if {"WORLD_SIZE", "RANK", "LOCAL_RANK"} <= env.keys():
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", **env}
    # A batch script has SLURM_PROCID too, but is no task of a step.
    keys = {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_STEP_ID"}
    if int(env.get("SLURM_NTASKS", 1)) == 1 or not keys <= env.keys():
        return {}
    # Below the ports that the kernel gives to clients; another one for each step of a job.
    port = 15000 + (31 * int(env["SLURM_JOB_ID"]) + int(env["SLURM_STEP_ID"])) % 15000
    return {
        "RANK": env["SLURM_PROCID"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "WORLD_SIZE": env["SLURM_NTASKS"],
        "MASTER_ADDR": env.get("MASTER_ADDR") or _first_host(env["SLURM_JOB_NODELIST"]),
        "MASTER_PORT": env.get("MASTER_PORT") or str(port),
    }


def rank() -> int:
    return int(environment().get("RANK", 0))


def world_size() -> int:
    return int(environment().get("WORLD_SIZE", 1))


def _first_host(nodes: str) -> str:
    try:
        names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return names.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        raise UserError(f"scontrol cannot name the hosts of SLURM_JOB_NODELIST={nodes}; set MASTER_ADDR") from None
