"""MLflow is the record, files are the contract."""

import argparse
import os
import shutil
import subprocess
import sys
import time

import pytest

from ladder import records, store, tracking
from ladder.cli import main
from ladder.errors import UserError
from ladder.files import write_json
from ladder.job import job
from ladder.pending import Pending
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


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """An empty database of MLflow, which takes seconds to make."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch, store.quiet():
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        store.client()
    return file


@pytest.fixture
def place(tmp_path, monkeypatch, database):
    monkeypatch.chdir(tmp_path)
    shutil.copy(database, tmp_path)
    monkeypatch.setenv("LADDER_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


@pytest.fixture
def outage(monkeypatch):
    """Switches the store off, and on again."""
    monkeypatch.setattr(tracking, "WAIT", 0)
    send, on = Pending.send, []

    def failing(self, *args):
        if on and on[-1]:
            raise OSError("database is locked")
        send(self, *args)

    monkeypatch.setattr(Pending, "send", failing)
    return on.append


def arguments(tmp_path):
    return argparse.Namespace(run=None, record=tmp_path / "record.json", lr=0.1)


@pytest.mark.slow
def test_parallel_jobs_lose_nothing(place):
    tracking.initialise()
    tracking.initialise()  # again is harmless
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, f"w{i}"], stdout=subprocess.PIPE, text=True) for i in range(3)
    ]
    ids = [writer.communicate()[0].strip() for writer in writers]
    client = store.client()
    for run_id in ids:
        history = client.get_metric_history(run_id, "loss")
        assert [point.step for point in sorted(history, key=lambda p: p.step)] == list(range(200))
        assert client.get_run(run_id).info.status == "FINISHED"


def test_a_job_is_a_run_with_its_record(place):
    tracking.initialise()
    with job(arguments(place), "bench", "x", model="tiny", wiring="ladder", seed=1) as this:
        this.tracking.log(3, {"loss": 2.5})
        this.finish([this.row(metric="seconds", value=1.5, unit="s", origin="measured", phase="decode")])
    record = records.read(place / "record.json")
    run = store.client().get_run(record["provenance"]["mlflow_run_id"])
    assert run.data.params["lr"] == "0.1"
    assert run.data.metrics == {"loss": 2.5, "decode/seconds": 1.5}
    assert (run.data.tags["stage"], run.data.tags["wiring"], run.data.tags["seed"]) == ("bench", "ladder", "1")
    assert (run.info.run_name, run.data.tags["size"]) == ("x", "tiny")
    assert "record.json" in run.data.tags["mlflow.note.content"]
    assert "speed.html" in run.data.tags["mlflow.note.content"]
    experiment = store.client().get_experiment(run.info.experiment_id)
    assert experiment.name == "ladder-bench"
    assert f"#/experiments/{run.info.experiment_id}/runs" in experiment.tags["mlflow.note.content"]
    assert "tags.`wiring`" in experiment.tags[store.VIEW]
    assert "git_commit" in run.data.tags
    assert "hardware" in run.data.tags
    assert [f.path for f in store.client().list_artifacts(run.info.run_id)] == ["record.json"]


@pytest.mark.parametrize("away", [False, True])
def test_a_job_names_the_corpus_that_it_reads(place, outage, away):
    corpus = place / "corpus"
    corpus.mkdir()
    write_json(corpus / "manifest.json", {"source": "the documentation", "documents": {"train": 3}})
    tracking.initialise()
    outage(away)
    with job(argparse.Namespace(run=None, record=None, tokens=corpus), "pretrain", "x"):
        pass
    outage(False)
    tracking.initialise()
    (run,) = runs()
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.tags[0].value) == ("the documentation corpus", "training")
    assert "train" in given.dataset.profile


def test_no_secret_is_stored(place, monkeypatch):
    tracking.initialise()
    address = "http://me:secret@there/runs"
    monkeypatch.setattr(sys, "argv", ["/bin/ladder", "report", "--mlflow-ui", address])
    with job(
        argparse.Namespace(run=None, record=place / "record.json", ui=address), "report", "x", note=address
    ) as this:
        this.finish([])
    run = store.client().get_run(this.tracking.run_id)
    assert run.data.params["ui"] == run.data.tags["note"] == "http://there/runs"
    command = records.read(place / "record.json")["provenance"]["command"]
    assert command == "ladder report --mlflow-ui http://there/runs"


def test_a_failed_job_is_a_failed_run(place):
    tracking.initialise()
    ids = []

    def fail():
        with job(arguments(place), "bench", "x") as this:
            ids.append(this.tracking.run_id)
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fail()
    assert store.client().get_run(ids[0]).info.status == "FAILED"


@pytest.mark.parametrize(
    ("uri", "said"),
    [("http://me:secret@127.0.0.1:9", "kept in mlpending"), ("sqlite:///nowhere.db", "tracking is off for this job")],
)
def test_without_a_store_the_work_goes_on_and_says_so_once(place, monkeypatch, capsys, uri, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with job(arguments(place), "bench", "x") as this:
        this.tracking.log(1, {"loss": 1.0})
        this.tracking.flush()
        this.finish([this.row(metric="seconds", value=1.5, unit="s", origin="measured")])
    error = capsys.readouterr().err
    assert error.count(said) == len(error.strip().splitlines()) == 1
    assert records.read(place / "record.json")["provenance"]["mlflow_run_id"] is None
    assert not (place / "nowhere.db").exists()
    if uri.startswith("http"):
        main(["track", "--out", str(place / "tracking.json")])
    texts = [error, capsys.readouterr().err, *(file.read_text() for file in place.rglob("*.json"))]
    assert not [text for text in texts if "secret" in text]


def steps_of(run_id):
    return sorted(point.step for point in store.client().get_metric_history(run_id, "loss"))


@pytest.mark.parametrize(("first", "last"), [(True, False), (False, True), (True, True)])
def test_no_point_is_lost_when_the_store_is_away_for_a_while(place, outage, first, last, capsys):
    """``first``: it is away when the job begins; ``last``: when it ends, so that the next job tells its points."""
    tracking.initialise()
    outage(first)
    with job(arguments(place), "bench", "x") as this:
        for step, down in enumerate([first, True, False, True, last]):
            outage(down)
            this.tracking.log(step, {"loss": step})
            this.tracking.flush()
        this.finish([this.row(metric="seconds", value=1.5, unit="s", origin="measured")])
    run_id = this.tracking.run_id
    assert records.read(place / "record.json")["provenance"]["mlflow_run_id"] == run_id
    outage(False)
    if last:
        assert len(list((place / "mlpending").glob("*.json"))) == 1
        with job(arguments(place), "bench", "next"):
            pass
    assert not (place / "mlpending").exists()
    assert steps_of(run_id) == [0, 1, 2, 3, 4]
    run = store.client().get_run(run_id)
    assert (run.info.status, run.data.params["lr"]) == ("FINISHED", "0.1")
    assert [f.path for f in store.client().list_artifacts(run_id)] == ["record.json"]


def test_what_was_never_tracked_becomes_a_run_of_its_time(place, outage):
    tracking.initialise()
    outage(True)
    with job(arguments(place), "bench", "x") as this:
        this.tracking.log(1, {"loss": 1.0})
    outage(False)
    tracking.initialise()
    (run,) = runs()
    assert run.info.run_name == "x"
    assert run.info.end_time / 1000 <= time.time()
    assert run.info.start_time / 1000 == pytest.approx(this.started, abs=30)
    assert run.data.metrics == {"loss": 1.0}


def test_a_store_that_fails_is_asked_ever_more_rarely(place, outage, monkeypatch):
    monkeypatch.setattr(tracking, "WAIT", 1000)
    tracking.initialise()
    asked = []
    monkeypatch.setattr(tracking, "_open", lambda: asked.append(1) or 1 / 0)
    run = tracking.Run("x", {}, {})
    for _ in range(5):
        run.flush()
    assert len(asked) == 1
    run.finish()
    assert len(asked) == 2


def runs():
    client = store.client()
    return client.search_runs(store.experiments(client))


KILLED = """
import os, signal
from ladder.tracking import Run
run = Run("x", {}, {"stage": "bench"})
run.log(1, {"loss": 1.0})
run.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_job_that_runs_again_leaves_one_finished_run(place):
    tracking.initialise()
    subprocess.run([sys.executable, "-c", KILLED])
    with job(arguments(place), "bench", "other") as other, job(arguments(place), "bench", "x") as this:
        assert store.client().get_run(other.tracking.run_id).info.status == "RUNNING"
    ended = {run.info.run_id: run.info for run in runs()}
    assert ended.pop(other.tracking.run_id).status == ended.pop(this.tracking.run_id).status == "FINISHED"
    (killed,) = ended.values()
    (point,) = store.client().get_metric_history(killed.run_id, "loss")
    assert (killed.status, killed.end_time) == ("KILLED", point.timestamp)


def test_a_run_that_goes_on_is_one_run(place):
    tracking.initialise()
    subprocess.run([sys.executable, "-c", KILLED])
    (before,) = runs()
    with job(arguments(place), "bench", "x", before.info.run_id) as this:
        (run,) = runs()
        assert (run.info.status, run.data.tags["pid"]) == ("RUNNING", str(os.getpid()))
        this.tracking.log(2, {"loss": 0.5})
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert steps_of(run.info.run_id) == [1, 2]


def test_a_run_of_another_store_cannot_go_on_and_is_made_anew(place):
    tracking.initialise()
    with job(arguments(place), "bench", "x", "0" * 32):
        pass
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_an_experiment_of_that_name_is_made_and_a_deleted_one_restored(place, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    main(["track", "--out", "tracking.json"])
    assert read_json("tracking.json")["experiment"] == "mine"
    client = store.client()
    assert len(store.experiments(client)) == len(store.STAGES)
    client.delete_experiment(client.get_experiment_by_name("mine-bench").experiment_id)
    main(["track", "--out", "tracking.json"])
    assert "'mine-bench' was deleted" in capsys.readouterr().err
    assert client.get_experiment_by_name("mine-bench").lifecycle_stage == "active"


@pytest.mark.parametrize("left", [False, True], ids=["moved", "copied"])
def test_artifacts_stay_with_a_project_that_is_elsewhere_now(place, monkeypatch, left):
    old, new = place / "old", place / "new"
    old.mkdir()
    shutil.copy("mlflow.db", old)
    monkeypatch.chdir(old)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{old}/mlflow.db")  # a process opens an address once
    tracking.initialise()
    with job(arguments(old), "bench", "x") as this:
        this.finish([])
    shutil.copytree(old, new) if left else old.rename(new)
    monkeypatch.chdir(new)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{new}/mlflow.db")
    with job(arguments(new), "bench", "y") as later:
        later.finish([])
    for run_id in (this.tracking.run_id, later.tracking.run_id):
        assert [f.path for f in store.client().list_artifacts(run_id)] == ["record.json"]
        assert store.client().get_run(run_id).info.artifact_uri.startswith(new.as_uri())
    assert old.exists() == left
    assert len(list(new.glob("mlartifacts/*/artifacts/record.json"))) == 2


def test_a_location_of_the_users_choice_stays(place):
    tracking.initialise()
    client = store.client()
    client.create_experiment("ladder2-bench", "file:///data/mine")
    os.environ["MLFLOW_EXPERIMENT_NAME"] = "ladder2"
    try:
        tracking.initialise()
    finally:
        del os.environ["MLFLOW_EXPERIMENT_NAME"]
    assert client.get_experiment_by_name("ladder2-bench").artifact_location == "file:///data/mine"


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
