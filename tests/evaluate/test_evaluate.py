import json
import math
import re

import numpy as np
import pytest

from ladder import records
from ladder.cli import main
from ladder.data.tasks import CLOZE, write
from ladder.evaluate import harness
from ladder.evaluate.run import read_shots
from ladder.files import write_json


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch):
    monkeypatch.setenv("LADDER_TRACKING", "off")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def evaluate(place, tmp_path, capfd):
    """Run `ladder evaluate` on both tasks; (exit code, what was written to stderr)."""

    def call(*words, checkpoints=("one", "two"), tasks=("heldout_perplexity", "cloze")):
        named = [word for task in tasks for word in ("--task", task)]
        folders = [place / name for name in checkpoints]
        code = main([str(w) for w in ["evaluate", *named, "--tasks", place / "tasks", *words, *folders]])
        return code, capfd.readouterr().err

    return call


@pytest.fixture(scope="module")
def made(place, tmp_path_factory):
    """The records of both checkpoints."""
    out = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LADDER_TRACKING", "off")
        tasks = ["--tasks", place / "tasks", "--task", "heldout_perplexity", "--task", "cloze"]
        words = ["evaluate", *tasks, "--max-length", 128, "--out", out, place / "one", place / "two"]
        assert main([str(word) for word in words]) == 0
    return out


def test_records_are_tidy_and_hold_every_sample(made):
    record = records.read(made / "two.json")
    assert [(row["task"], row["metric"], row["unit"], row["n"]) for row in record["rows"]] == [
        ("heldout_perplexity", "word_perplexity", "1/word", 6),
        ("heldout_perplexity", "byte_perplexity", "1/byte", 6),
        ("heldout_perplexity", "bits_per_byte", "bits/byte", 6),
        ("cloze", "acc", "fraction", 8),
        ("cloze", "acc_norm", "fraction", 8),
    ]
    for row in record["rows"]:
        assert (row["stage"], row["run"], row["model"], row["wiring"]) == ("evaluate", "two", "toy", "standard")
        assert (row["variant"], row["seed"], row["origin"]) == ("pretrained", 1, "measured")
        assert row["low"] < row["value"] < row["high"] or row["stderr"] == 0
    samples = record["samples"]
    assert [sample["doc"] for sample in samples["cloze"]] == [f"question{n}" for n in range(8)]
    assert np.mean([sample["acc"] for sample in samples["cloze"]]) == record["rows"][3]["value"]
    pairs = np.array([sample["bits_per_byte"] for sample in samples["heldout_perplexity"]])
    bits = -pairs[:, 0].sum() / pairs[:, 1].sum() / math.log(2)
    assert bits == pytest.approx(record["rows"][2]["value"])


def test_perplexity_is_the_model_s_own(place, made):
    """Against a direct computation: the document's tokens after the end-of-text token, in one window."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(place / "one").eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "one")
    found = {s["doc"]: s["word_perplexity"] for s in records.read(made / "one.json")["samples"]["heldout_perplexity"]}
    for line in (place / "tasks" / "perplexity.jsonl").read_text().splitlines():
        page = json.loads(line)
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(page["page"])["input_ids"]]])
        assert ids.shape[1] <= 128
        with torch.no_grad():
            logp = model(ids).logits[0, :-1].log_softmax(-1)
        likelihood = logp.gather(-1, ids[0, 1:, None]).sum().item()
        assert found[page["id"]] == pytest.approx([likelihood, 30], abs=1e-3)


def test_a_second_checkpoint_is_not_disturbed_by_the_first(evaluate, made, tmp_path):
    assert evaluate("--max-length", 128, "--out", tmp_path, checkpoints=["two"])[0] == 0
    again, before = (records.read(folder / "two.json") for folder in (tmp_path, made))
    assert again["samples"] == before["samples"]
    assert again["rows"] == before["rows"]
    assert again["inputs"] == before["inputs"]


def test_only_what_changed_is_evaluated_again(evaluate, place, made):
    before = (made / "one.json").read_bytes()
    code, said = evaluate("--max-length", 128, "--out", made)
    assert (code, said) == (0, "one: its record is up to date\ntwo: its record is up to date\n")
    card = place / "two" / "ladder.json"
    kept = card.read_text()
    try:
        card.write_text(kept.replace('"pretrained"', '"adapted"'))
        code, said = evaluate("--max-length", 128, "--out", made)
    finally:
        card.write_text(kept)
    assert code == 0
    assert "one: its record is up to date" in said
    assert "two cloze: acc " in said
    assert {row["variant"] for row in records.read(made / "two.json")["rows"]} == {"adapted"}
    assert (made / "one.json").read_bytes() == before
    (made / "one.json").write_text("{torn")
    assert "one cloze: acc" in evaluate("--max-length", 128, "--out", made, checkpoints=["one"])[1]
    assert records.read(made / "one.json")["samples"] == json.loads(before)["samples"]


def test_other_settings_are_another_evaluation(evaluate, tmp_path):
    words = ["--out", tmp_path, "--max-length", 128]
    code, said = evaluate(*words, "--limit", 2, "--names", "n", checkpoints=["one"], tasks=["cloze"])
    assert code == 0
    assert re.search(r"^n cloze: acc [\d.]+, acc_norm [\d.]+ \([\d.]+ s\)$", said, re.M)
    assert records.read(tmp_path / "n.json")["rows"][0]["n"] == 2
    code, said = evaluate(*words, "--limit", 3, "--names", "n", checkpoints=["one"], tasks=["cloze"])
    assert "n cloze: acc" in said
    assert records.read(tmp_path / "n.json")["rows"][0]["n"] == 3
    assert "dtype" not in records.read(tmp_path / "n.json")["rows"][0]
    code, said = evaluate(*words, "--dtype", "bf16", "--names", "n", checkpoints=["one"], tasks=["cloze"])
    assert "n cloze: acc" in said
    assert records.read(tmp_path / "n.json")["rows"][0]["dtype"] == "bf16"


def test_shots_are_put_before_the_question(place, tmp_path, monkeypatch):
    seen = []
    wrapped = harness.run

    def run(lm, loaded, **more):
        results = wrapped(lm, loaded, **more)
        seen.extend(sample["arguments"][0][0] for logged in results["samples"].values() for sample in logged)
        return results

    monkeypatch.setattr(harness, "run", run)
    words = ["--tasks", place / "tasks", "--task", "cloze", "--fewshot", "cloze=2", "--out", tmp_path, place / "one"]
    assert main([str(word) for word in ["evaluate", *words]]) == 0
    assert all(prompt.count("\n\n") == 2 for prompt in seen)
    assert records.read(tmp_path / "one.json")["settings"]["shots"] == {"cloze": 2}


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        ([], {"tasks": ["cloz"]}, "unknown task 'cloz'; near it: cloze"),
        (["--fewshot", "cloze"], {}, "--fewshot 'cloze': write TASK=N"),
        (["--fewshot", "piqa=2"], {}, "'piqa' is none of the tasks"),
        (["--names", "a"], {}, "2 checkpoints need as many different --names"),
        ([], {"checkpoints": ["one", "one"]}, "2 checkpoints need as many different --names"),
        (["--limit", "0"], {}, "--limit 0 evaluates nothing"),
        ([], {"checkpoints": ["none"]}, "none: no such checkpoint directory"),
    ],
)
def test_bad_input_is_one_sentence(evaluate, tmp_path, monkeypatch, words, changes, message):
    from lm_eval.tasks import TaskManager

    class Quick(TaskManager):
        """Without lm-eval's own thousands of tasks, which take seconds to find."""

        def __init__(self, include_path, include_defaults=True):
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Quick)
    code, said = evaluate(*words, "--out", tmp_path / "out", **changes)
    assert code == 1
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("out/*.json"))


def test_a_folder_without_tasks_and_missing_data_are_named(place, tmp_path, capfd):
    words = ["evaluate", "--task", "cloze", "--out", tmp_path / "out", place / "one", "--tasks"]
    (tmp_path / "empty").mkdir()
    assert main([str(word) for word in [*words, tmp_path / "empty"]]) == 1
    assert "no task files there; make them with `ladder tasks" in capfd.readouterr().err
    write(tmp_path / "tasks", CLOZE, "cloze.jsonl", [])
    (tmp_path / "tasks" / "cloze.jsonl").unlink()
    assert main([str(word) for word in [*words, tmp_path / "tasks"]]) == 1
    assert "task 'cloze': it or its data cannot be loaded" in capfd.readouterr().err


def test_a_damaged_checkpoint_stops_before_any_work(place, evaluate, tmp_path):
    import shutil

    from ladder.files import sha256

    copy = tmp_path / "damaged"
    shutil.copytree(place / "one", copy)
    weights = copy / "model.safetensors"
    write_json(copy / "ladder.json", {"model": "toy", "wiring": "standard", "sha256": {weights.name: sha256(weights)}})
    weights.write_bytes(weights.read_bytes()[:-1])
    code, said = evaluate("--out", tmp_path / "out", checkpoints=["one", copy])
    assert (code, "model.safetensors" in said, said.count("\n")) == (1, True, 1)
    assert not list((tmp_path / "out").glob("*.json"))


def test_shots_are_read():
    assert read_shots(["gsm8k=8", "mmlu=5"], ["mmlu", "gsm8k"]) == {"gsm8k": 8, "mmlu": 5}


def test_filters_and_odd_values_of_stock_tasks():
    """The forms that lm-eval's own tasks give: filters, booleans, values that are no numbers, groups."""
    doc = {"question": "?"}

    def logged(n, filter_, **values):
        return {"doc": doc, "doc_id": n, "filter": filter_, "metrics": list(values), **values}

    samples = [
        logged(1, "strict-match", exact_match=True),
        logged(0, "strict-match", exact_match=False),
        logged(0, "flexible-extract", exact_match=1.0),
        logged(1, "flexible-extract", exact_match=1.0),
    ]
    results = {
        "samples": {"gsm8k": samples, "f": [logged(0, "none", f1=(1, 0), acc=np.float64(1))]},
        "results": {
            "gsm8k": {
                "alias": "gsm8k",
                "exact_match,strict-match": 0.5,
                "exact_match_stderr,strict-match": 0.5,
                "exact_match,flexible-extract": 1.0,
                "exact_match_stderr,flexible-extract": "N/A",
            },
            "group": {"alias": "group", "acc,none": 0.25, "acc_stderr,none": 0.01, "sample_len": 40},
        },
    }
    found = harness.samples_of(results)
    assert found["gsm8k"] == [
        {"doc": 0, "exact_match,strict-match": 0.0, "exact_match,flexible-extract": 1.0},
        {"doc": 1, "exact_match,strict-match": 1.0, "exact_match,flexible-extract": 1.0},
    ]
    assert found["f"] == [{"doc": 0, "acc": 1.0}]
    rows = list(harness.values_of(results, found))
    assert [(row["metric"], row["value"], row.get("stderr"), row["n"]) for row in rows] == [
        ("exact_match,strict-match", 0.5, 0.5, 2),
        ("exact_match,flexible-extract", 1.0, None, 2),
        ("acc", 0.25, 0.01, 40),
    ]
