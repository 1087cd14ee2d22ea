# Shared by all stages: the plan (every job by name) and checks before any work.
import contextlib
import functools
import operator
from pathlib import Path

from ladder.budget import disk, summary
from ladder.config import check, check_machine
from ladder.errors import UserError
from ladder.init import write_run
from ladder.plan import Plan, flags
from ladder.reading import read_yaml
from ladder.running import alone

# No hub without need, no telemetry, one thread a job unless it takes more; jobs inherit these.
OFFLINE = "1" if config.get("device") == "cpu" else "0"
for name, value in {
    "HF_HUB_OFFLINE": OFFLINE,
    "HF_DATASETS_OFFLINE": OFFLINE,
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_MKDOCS_2_WARNING": "1",
}.items():
    os.environ.setdefault(name, value)
# Python compiles torch and transformers anew in every job where this is set: seconds each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def stop(error):
    """One sentence, exit code 1, no stack trace."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


CONFIGURATIONS = [
    os.path.relpath(path)
    for path in workflow.overwrite_configfiles or ["config/default.yaml"]
]
try:
    for path in CONFIGURATIONS:
        read_yaml(path)  # snakemake has read them, but takes the last of two equal keys
    check(config, CONFIGURATIONS[0])
except UserError as error:
    stop(error)

PLAN = Plan(config)
R = PLAN.root
RUN = f"{R}/run.json"  # ties jobs to the configuration; no input, or any change of it would rerun everything
print("\n".join([summary(PLAN), *PLAN.missing]), file=sys.stderr)


wildcard_constraints:
    name="[A-Za-z0-9_.@,+-]+",


with contextlib.suppress(
    OSError
):  # a file system without locks, or a folder that only can be read
    ALIVE = alone(Path(".snakemake/locks")) if workflow.is_main_process else None


def of(stage, *keys):
    """An input function: what the plan says under ``keys`` about the job of ``stage`` that the wildcard names."""

    def value(wildcards):
        return functools.reduce(
            operator.getitem, keys, getattr(PLAN, stage)[wildcards.name]
        )

    return value


def place(stage):
    """Resources that say where the jobs of ``stage`` run: input functions; None leaves a resource out."""

    def of_place(key):
        return lambda wildcards: of(stage, "place")(wildcards).get(key)

    names = ("gpu", "nodes", "mpi", "tasks", "tasks_per_gpu", "cpus_per_task")
    return {name: of_place(name) for name in names}


def on_this_machine():
    return (
        workflow.executor_plugin is None
        or workflow.executor_plugin.common_settings.local_exec
    )


onstart:
    try:
        if on_this_machine():
            check_machine(config, sum(disk(PLAN).values()))
        write_run(config, RUN)
    except UserError as error:
        stop(error)
