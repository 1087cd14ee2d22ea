"""Prepare MLflow tracking: the database and the experiment, before parallel jobs could race for them.

Every job is an MLflow run. MLFLOW_TRACKING_URI says where (default: sqlite:///mlflow.db and ./mlartifacts). Files are
the contract, MLflow is the record: without it the work goes on.

    ladder track --out results/default/tracking.json
"""

import argparse
import os
import sys
import time
from pathlib import Path

from ladder.files import write_json
from ladder.outputs import OutputFile

EXPERIMENT = "ladder"
DEFAULT_URI = "sqlite:///mlflow.db"


def uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def _client():
    # Telemetry is on by default; an unreachable server must cost seconds, not minutes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", action=OutputFile, required=True, help="file that says where runs are tracked")


def main(args: argparse.Namespace) -> None:
    try:
        initialise()
    except Exception as error:  # whatever tracking does, the work goes on; each job says so once
        print(f"MLflow at {uri()} cannot be prepared ({error}); results go to files", file=sys.stderr)
    write_json(args.out, {"tracking_uri": uri(), "experiment": EXPERIMENT})


def initialise() -> None:
    """Migrate the database and create the experiment; harmless if both are there."""
    client = _client()
    if client.get_experiment_by_name(EXPERIMENT) is None:
        local = uri().startswith("sqlite:")
        client.create_experiment(EXPERIMENT, Path("mlartifacts").absolute().as_uri() if local else None)


class Run:
    """One MLflow run; after the first failure it says so once and becomes silent."""

    def __init__(self, name: str, params: dict, tags: dict, run_id: str | None = None):
        self.run_id: str | None = None
        self._client = None
        self._pending: list = []
        if os.environ.get("LADDER_TRACKING", "").lower() == "off":
            return
        try:
            if uri().startswith("sqlite:///") and not Path(uri().removeprefix("sqlite:///")).exists():
                raise LookupError(f"{uri()} does not exist; `ladder track` creates it")
            self._client = _client()
            if run_id:
                self._client.update_run(run_id, status="RUNNING")
            else:
                experiment = self._client.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    raise LookupError(f"no experiment {EXPERIMENT!r} in {uri()}; `ladder track` creates it")
                run_id = self._client.create_run(experiment.experiment_id, run_name=name, tags=_text(tags)).info.run_id
                self._batch(run_id, params=params)
            self.run_id = run_id
        except Exception as error:  # whatever tracking does, the work goes on
            self._give_up(error)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Keep the points of one step; :meth:`flush` sends them."""
        from_now = int(time.time() * 1000)
        self._pending += [(key, float(value), from_now, step) for key, value in values.items()]

    def flush(self) -> None:
        if self._client is None:
            return
        from mlflow.entities import Metric

        try:
            for start in range(0, len(self._pending), 1000):  # the API's limit
                chunk = [Metric(*point) for point in self._pending[start : start + 1000]]
                self._client.log_batch(self.run_id, metrics=chunk)
            self._pending = []
        except Exception as error:
            self._give_up(error)

    def artifact(self, path: str | Path) -> None:
        self._try(lambda: self._client.log_artifact(self.run_id, str(path)))

    def finish(self, status: str = "FINISHED") -> None:
        self.flush()
        self._try(lambda: self._client.set_terminated(self.run_id, status))

    def _batch(self, run_id: str, params: dict) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(k, v[:6000]) for k, v in _text(params).items()])

    def _try(self, call) -> None:
        if self._client is not None:
            try:
                call()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._client = None
        line = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        print(f"tracking is off for this job ({line}); results are written to files as always", file=sys.stderr)


def _text(values: dict) -> dict[str, str]:
    return {key: str(value) for key, value in values.items() if value is not None}
