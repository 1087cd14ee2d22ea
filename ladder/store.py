"""The MLflow store: where it is, and what must hold in it before a run is tracked.

MLFLOW_TRACKING_URI says where (default: sqlite:///mlflow.db, with mlartifacts beside it). Each stage has an experiment,
MLFLOW_EXPERIMENT_NAME (default: ladder) followed by its name: the runs of ladder-pretrain are the curves to compare.
"""

import contextlib
import json
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from ladder.redact import redact
from ladder.running import has_ended, identity

DEFAULT_URI = "sqlite:///mlflow.db"
BUSY = 40  # seconds
# A view of the runs that the UI has by its address: what it shows of each beside its name, time and dataset.
VIEW = "mlflow.sharedViewState.ladder"
COLUMNS = {"selectedColumns": [f"tags.`{name}`" for name in ("size", "wiring", "seed", "method")]}
# What a stage's runs are, and the page of the site that shows them. Pretraining is made first: reports link to it.
STAGES = {
    "pretrain": ("Models trained from scratch", "quality"),
    "adapt": ("Converted models finetuned or distilled", "adaptation"),
    "evaluate": ("Tasks and perplexities of trained models", "quality"),
    "sensitivity": ("Layers converted one after the other, without training", "sensitivity"),
    "bench": ("Timed prefill, decode and training", "speed"),
    "convert": ("Checkpoints under another wiring", "convert"),
    "corpus": ("Corpora, tokenizers, token shards, conversations and tasks", "reproduce"),
    "simulate": ("Predictions, and their validation", "simulator"),
    "report": ("The tables and figures of the site", "reproduce"),
}


def uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def experiment_name(stage: str | None = None) -> str:
    """Of a stage; without one, what the names of all begin with."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "ladder"
    return f"{name}-{stage}" if stage else name


def page(stage: str | None) -> str:
    """The address of the page that shows a stage's numbers: of the published site, or of `make site`."""
    site = os.environ.get("SITE_URL") or "http://127.0.0.1:8000/"
    return f"{site.rstrip('/')}/{STAGES[stage][1] if stage in STAGES else 'index'}.html"


def database() -> Path | None:
    """The file of a sqlite store."""
    if not uri().startswith("sqlite:///"):
        return None
    return Path(uri().removeprefix("sqlite:///").removeprefix("file:").partition("?")[0]).absolute()


def client():
    """A client of the store, which it asks once; an unreachable server costs seconds, not minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it would print the password
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    # sqlite gives up on a locked database after 5 s.
    waiting = f"{uri()}?timeout={BUSY}" if database() and "?" not in uri() else uri()
    return MlflowClient(tracking_uri=waiting)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """MLflow and its libraries log a stack trace for each error, which is caught here and told in a sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def reason(error: Exception) -> str:
    """The first line of an error's text, without secrets."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return redact(lines[0])[:200]


def prepare(client, name: str) -> str:
    """Make the experiment ``name`` usable and return its id: created if there is none, restored if it was deleted, and
    with its artifacts beside the database if both were moved. Harmless if all is well, and in several jobs at once."""
    from mlflow.exceptions import MlflowException

    file, stage = database(), name.removeprefix(f"{experiment_name()}-")
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        with contextlib.suppress(MlflowException):  # another job was faster
            made = client.create_experiment(
                name, _artifacts(file).as_uri() if file else None, {VIEW: json.dumps(COLUMNS)}
            )
            about, where = STAGES.get(stage, ("Runs", ""))[0], f"#/experiments/{made}/runs"
            about += f": [by size, wiring, seed and method]({where}?viewStateShareKey=ladder), or [as curves]({where}?"
            about += f"compareRunsMode=CHART). Shown on [{page(stage)}]({page(stage)})."
            client.set_experiment_tag(made, "mlflow.note.content", about)
        experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
        print(f"the experiment {name!r} was deleted in MLflow; it is restored, since runs go there", file=sys.stderr)
    if file:
        with contextlib.suppress(OSError):
            _artifacts(file).mkdir(exist_ok=True)
        _relocate(file, experiment.artifact_location)
    return experiment.experiment_id


def _artifacts(file: Path) -> Path:
    return file.parent / "mlartifacts"


def _relocate(file: Path, stored: str) -> None:
    """MLflow keeps absolute locations. After the folder of the database was moved or copied they name the old place,
    where another copy of the project may live: name the artifacts beside the database instead. A location of the user's
    own choice, which is not called mlartifacts, stays."""
    here = _artifacts(file).as_uri()
    if stored == here or not (stored.startswith("file:") and stored.endswith("/mlartifacts")):
        return
    with contextlib.closing(sqlite3.connect(file, timeout=20)) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column} || '/', 1, ?) = ?",
                (here, len(stored) + 1, len(stored) + 1, f"{stored}/"),
            )
    print(f"{file}: its artifacts were at {stored}; they are looked for at {here} now", file=sys.stderr)


def experiments(client) -> list[str]:
    """Ids of the experiments of all stages, that of earlier versions too, which had one for all."""
    name = experiment_name()
    known = client.search_experiments(filter_string=f"name LIKE '{name}%'" if "'" not in name else None)
    return [e.experiment_id for e in known if e.name == name or e.name.startswith(f"{name}-")]


def close_stale(client) -> int:
    """End the runs that a killed process of this host left RUNNING: as KILLED, at their last metric's time."""
    host = identity()["host"].replace("'", "")
    running = f"attributes.status = 'RUNNING' and tags.host = '{host}'"
    closed = 0
    for run in client.search_runs(experiments(client), running, max_results=1000):
        if has_ended(run.data.tags):
            last = [run.info.start_time]
            for key in run.data.metrics:
                last += [point.timestamp for point in client.get_metric_history(run.info.run_id, key)]
            client.set_terminated(run.info.run_id, "KILLED", max(last))
            closed += 1
    return closed
