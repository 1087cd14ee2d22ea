"""What a run still has to tell MLflow: held while the store does not answer, and kept in a file if the job ends first.

The files are in mlpending/. Every job and `ladder track` send those whose process is gone.
"""

import contextlib
import fcntl
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ladder.files import write_json
from ladder.redact import redact
from ladder.running import has_ended
from ladder.store import experiment_name, prepare, reason, uri

FOLDER = Path("mlpending")
GONE = "RESOURCE_DOES_NOT_EXIST"
REFUSED = (GONE, "INVALID_PARAMETER_VALUE", "BAD_REQUEST")  # of no use to try again


def _destination() -> str:
    return f"{redact(uri())} {experiment_name()}"


@dataclass
class Pending:
    """Params, points and artifacts of one run that MLflow does not have yet, its end too. Times in milliseconds.

    ``run_id`` is None until the run is created, in ``experiment``. dataset: what the job reads. ``process``: whose run
    it is (:func:`ladder.running.identity`).
    """

    name: str
    process: dict[str, str]
    started: int
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None
    resumes: bool = False
    metrics: list = field(default_factory=list)  # (name, value, time, step)
    status: str | None = None
    ended: int | None = None
    artifacts: list[str] = field(default_factory=list)
    experiment: str = field(default_factory=experiment_name)
    dataset: dict | None = None  # the fields of MLflow's Dataset
    store: str = field(default_factory=_destination)

    def __bool__(self) -> bool:
        parts = self.resumes, self.params, self.dataset, self.metrics, self.status, self.artifacts
        return self.run_id is None or any(parts)

    def send(self, client) -> None:
        """Tell MLflow, and forget what it was told. Raises at the first failure; what is left can be sent again."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
        from mlflow.exceptions import MlflowException

        if self.resumes:
            try:
                for key, value in self.process.items():
                    client.set_tag(self.run_id, key, value)
                client.update_run(self.run_id, status="RUNNING")
            except MlflowException as error:
                if error.error_code not in REFUSED:
                    raise
                self.run_id = None  # of another store, or deleted
            self.resumes = False
        if self.run_id is None:
            tags = self.tags | self.process
            experiment = prepare(client, self.experiment)
            self.run_id = client.create_run(experiment, self.started, tags, self.name).info.run_id
        else:
            self.params = {}  # a run that is resumed has them
        while self.params:
            some = dict(list(self.params.items())[:100])  # the API's limit
            client.log_batch(self.run_id, params=[Param(key, value[:6000]) for key, value in some.items()])
            self.params = {key: value for key, value in self.params.items() if key not in some}
        if self.dataset:
            context = [InputTag("mlflow.data.context", "training")]
            client.log_inputs(self.run_id, [DatasetInput(Dataset(**self.dataset), context)])
            self.dataset = None
        while self.metrics:
            some = self.metrics[:1000]  # the API's limit
            client.log_batch(self.run_id, metrics=[Metric(*point) for point in some])
            self.metrics = self.metrics[len(some) :]
        if self.status:
            client.set_terminated(self.run_id, self.status, self.ended)
            self.status = None
        while self.artifacts:
            if Path(self.artifacts[0]).exists():
                client.log_artifact(self.run_id, self.artifacts[0])
            self.artifacts = self.artifacts[1:]

    @property
    def file(self) -> Path:
        return FOLDER / f"{self.started}-{self.process['host']}-{self.process['pid']}.json"  # sorted by time

    def keep(self) -> None:
        """Write what is left to its file, or remove the file if nothing is left. Raises OSError."""
        if self:
            write_json(self.file, asdict(self))
        else:
            self.file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others are in it, or it is not there
                FOLDER.rmdir()


def send_kept(client) -> int:
    """Send what jobs that are gone could not, to the same store and experiments; return how many were sent whole."""
    from mlflow.exceptions import MlflowException

    sent = 0
    for file in sorted(FOLDER.glob("*.json")):
        with contextlib.suppress(OSError), file.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another job is at it otherwise
                run = Pending(**json.loads(lock.read()))
            except (BlockingIOError, ValueError, TypeError):
                continue
            if not os.fstat(lock.fileno()).st_nlink:  # another job has just sent it
                continue
            if run.store != _destination() or not (run.status or has_ended(run.process)):
                continue
            if not run.status and run.run_id:
                run.resumes = False  # another process may have the run by now
            try:
                run.send(client)
                sent += 1
            except MlflowException as error:
                if error.error_code not in REFUSED:
                    run.keep()
                    raise
                print(f"{file}: MLflow refuses it ({reason(error)}); kept as {file.stem}.refused", file=sys.stderr)
                file.replace(file.with_suffix(".refused"))
                continue
            run.keep()
    return sent
