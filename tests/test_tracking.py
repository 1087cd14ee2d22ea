"""MLflow is the record, files are the contract."""

import argparse
import shutil
import subprocess
import sys

import pytest

from ladder import records, tracking
from ladder.errors import UserError
from ladder.files import write_json
from ladder.job import job
from ladder.reading import read_json

WRITER = """
import sys
from ladder.tracking import Run
run = Run(sys.argv[1], {"lr": 1}, {"stage": "test"})
for step in range(200):
    run.log(step, {"loss": step / 7})
    if step % 50 == 0:
        run.flush()
run.finish()
print(run.run_id)
"""


@pytest.fixture(scope="module")
def initialised(tmp_path_factory):
    """The directory of a new store: migrating a database takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        tracking.initialise()
        tracking.initialise()  # again is harmless
    return folder


@pytest.fixture
def store(tmp_path, monkeypatch, initialised):
    shutil.copy(initialised / "mlflow.db", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LADDER_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def arguments(tmp_path):
    return argparse.Namespace(run=None, record=tmp_path / "record.json", lr=0.1)


@pytest.mark.slow
def test_parallel_jobs_lose_nothing(store):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, f"w{i}"], stdout=subprocess.PIPE, text=True) for i in range(3)
    ]
    ids = [writer.communicate()[0].strip() for writer in writers]
    client = tracking._client()
    for run_id in ids:
        history = client.get_metric_history(run_id, "loss")
        assert [point.step for point in sorted(history, key=lambda p: p.step)] == list(range(200))
        assert client.get_run(run_id).info.status == "FINISHED"


def test_a_job_is_a_run_with_its_record(store):
    with job(arguments(store), "bench", "x", model="tiny", wiring="ladder", seed=1) as this:
        this.tracking.log(3, {"loss": 2.5})
        this.finish([this.row(metric="seconds", value=1.5, unit="s", origin="measured", phase="decode")])
    record = records.read(store / "record.json")
    run = tracking._client().get_run(record["provenance"]["mlflow_run_id"])
    assert run.data.params["lr"] == "0.1"
    assert run.data.metrics == {"loss": 2.5, "decode/seconds": 1.5}
    assert (run.data.tags["stage"], run.data.tags["wiring"], run.data.tags["seed"]) == ("bench", "ladder", "1")
    assert "git_commit" in run.data.tags
    assert "hardware" in run.data.tags
    assert [f.path for f in tracking._client().list_artifacts(run.info.run_id)] == ["record.json"]


def test_a_failed_job_is_a_failed_run(store):
    ids = []

    def fail():
        with job(arguments(store), "bench", "x") as this:
            ids.append(this.tracking.run_id)
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fail()
    assert tracking._client().get_run(ids[0]).info.status == "FAILED"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///nowhere.db"])
def test_without_a_server_the_work_goes_on_and_says_so_once(store, monkeypatch, capsys, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with job(arguments(store), "bench", "x") as this:
        this.tracking.log(1, {"loss": 1.0})
        this.tracking.flush()
        this.finish([this.row(metric="seconds", value=1.5, unit="s", origin="measured")])
    assert capsys.readouterr().err.count("tracking is off for this job") == 1
    assert records.read(store / "record.json")["provenance"]["mlflow_run_id"] is None
    assert not (store / "nowhere.db").exists()


def test_rows_say_what_they_are():
    good = {"metric": "seconds", "value": 1.0, "unit": "s", "origin": "measured"}
    assert records.row(**good, seed=None) == good
    for wrong in ({"origin": "guessed"}, {"value": float("nan")}, {"value": None}, {"sead": 1}):
        with pytest.raises(ValueError, match=r"origin|not a number|needs|unknown columns"):
            records.row(**good | wrong)


def test_a_file_that_is_no_record(tmp_path):
    write_json(tmp_path / "a.json", {"schema": 1})
    with pytest.raises(UserError, match=r"a\.json: not a record"):
        records.read(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match=r"b\.json: not valid JSON"):
        read_json(tmp_path / "b.json")
