"""Prepare MLflow tracking, send what jobs could not, and end the runs that killed jobs left open.

Every job is an MLflow run. MLFLOW_TRACKING_URI says where (default: sqlite:///mlflow.db and ./mlartifacts); each stage
has an experiment, whose name begins with MLFLOW_EXPERIMENT_NAME (default: ladder): ladder-pretrain, ladder-adapt, ...
Files are the contract, MLflow is the record: without it the work goes on, and what it could not be told is kept in
mlpending/ for the next job or `ladder track`.

    ladder track --out results/default/tracking.json
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path

from ladder import store
from ladder.files import write_json
from ladder.outputs import OutputFile
from ladder.pending import FOLDER, Pending, send_kept
from ladder.redact import redact
from ladder.running import identity
from ladder.store import experiment_name, reason, uri

WAIT, LONGEST = 5, 600  # seconds until a store that failed is asked again: doubled each time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", action=OutputFile, required=True, help="file that says where runs are tracked")


def main(args: argparse.Namespace) -> None:
    try:
        initialise()
    except Exception as error:  # whatever tracking does, the work goes on; each job says so once
        print(f"MLflow at {redact(uri())} cannot be prepared ({reason(error)}); results go to files", file=sys.stderr)
    write_json(args.out, {"tracking_uri": redact(uri()), "experiment": experiment_name()})


def initialise() -> None:
    """Migrate the database, make the experiments, do what every job does first; harmless if all is well."""
    with store.quiet():
        client = _open()
        for stage in store.STAGES:
            store.prepare(client, experiment_name(stage))


def _open():
    """A client of a store that was told what earlier jobs left: what they could not send, and their end where they were
    killed."""
    client = store.client()
    if sent := send_kept(client):
        print(f"MLflow was told what {sent} earlier jobs could not send", file=sys.stderr)
    if closed := store.close_stale(client):
        print(f"MLflow still held {closed} runs of killed jobs as running; they are KILLED now", file=sys.stderr)
    return client


class Run:
    """One MLflow run. What the store cannot take now is kept in a file (:mod:`ladder.pending`) and sent later: by this
    job, which tries ever more rarely and once more at its end, or by one after it."""

    def __init__(self, name: str, params: dict, tags: dict, run_id: str | None = None, dataset: dict | None = None):
        self._pending: Pending | None = None
        self._connection = None
        self._next, self._wait, self._failed = 0.0, WAIT, False
        self._lock = threading.RLock()  # a watchdog may end the run
        if os.environ.get("LADDER_TRACKING", "").lower() == "off":
            return
        file = store.database()
        if file and not file.exists():  # nobody asked for tracking, and jobs that race for it would break it
            return self._off(f"{redact(uri())} does not exist; `ladder track` creates it")
        now = int(time.time() * 1000)
        self._pending = Pending(name, identity(), now, _text(tags), _text(params), run_id, resumes=bool(run_id))
        self._pending.experiment, self._pending.dataset = experiment_name(tags.get("stage")), dataset
        self.flush()

    @property
    def run_id(self) -> str | None:
        """None while the store has not been reached."""
        return self._pending.run_id if self._pending is not None else None

    def log(self, step: int, values: dict[str, float]) -> None:
        """Hold the points of one step; :meth:`flush` sends them."""
        now = int(time.time() * 1000)
        if self._pending is not None:
            self._pending.metrics += [(key, float(value), now, step) for key, value in values.items()]

    def artifact(self, path: str | Path) -> None:
        if self._pending is not None:
            self._pending.artifacts.append(str(path))
            self.flush()

    def finish(self, status: str = "FINISHED") -> None:
        if self._pending is not None:
            self._pending.status, self._pending.ended = status, int(time.time() * 1000)
            self._next = 0.0
            self.flush()

    def flush(self) -> None:
        """Send what there is; after a failure only when it is time to try again."""
        with self._lock:
            if not self._pending:
                return
            if time.monotonic() >= self._next:
                self._send()
            if self._failed:
                try:
                    self._pending.keep()
                    self._failed = bool(self._pending)
                except OSError as error:
                    self._off(reason(error))

    def _send(self) -> None:
        try:
            with store.quiet():
                self._connection = self._connection or _open()
                self._pending.send(self._connection)
            self._wait = WAIT
        except Exception as error:  # whatever tracking does, the work goes on
            self._next = time.monotonic() + self._wait
            if self._wait == WAIT and not self._failed:
                print(
                    f"MLflow cannot be told of this job now ({reason(error)}); what it lacks is kept in {FOLDER}/ and "
                    "sent later, results are written to files as always",
                    file=sys.stderr,
                )
            self._wait, self._failed = min(2 * self._wait, LONGEST), True

    def _off(self, why: str) -> None:
        self._pending = None
        print(f"tracking is off for this job ({why}); results are written to files as always", file=sys.stderr)


def _text(values: dict) -> dict[str, str]:
    return {key: redact(str(value)) for key, value in values.items() if value is not None}
