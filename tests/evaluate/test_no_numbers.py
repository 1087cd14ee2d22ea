"""Results that would be no numbers, and checkpoints that cannot be asked: refused by name, the others kept."""

import contextlib
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ladder import records
from ladder.cli import main
from ladder.data.tasks import CLOZE, PERPLEXITY, write
from ladder.data.tokenizer import chat_template, train
from ladder.evaluate import harness
from ladder.files import write_json
from ladder.reading import read_json


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """tasks/ with a text without spaces, and two questions; checkpoints whole/ and nan/ (in fp16)."""
    folder = tmp_path_factory.mktemp("no-numbers")
    train(["spaces are rare in here"] * 5, 300, folder / "tokenizer", chat_template("chatml"))
    write(folder / "tasks", PERPLEXITY, "perplexity.jsonl", [{"id": "page", "page": "文" * 100}])
    asked = [{"id": str(n), "context": "in", "choices": ["here", "are"], "answer": n % 2} for n in range(2)]
    write(folder / "tasks", CLOZE, "cloze.jsonl", asked)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, max_position_embeddings=512, **shape)).save_pretrained(
        folder / "whole"
    )
    for path in (folder / "tokenizer").iterdir():
        shutil.copy(path, folder / "whole")
    changed(folder, "nan", lambda name, value: (value * 60000 if name == "model.norm.weight" else value).half())
    return folder


def changed(place, name, change, **config):
    """A copy of whole/ with ``change(name, tensor)`` for each weight."""
    shutil.copytree(place / "whole", place / name)
    file = place / name / "model.safetensors"
    save_file({key: change(key, value) for key, value in load_file(file).items()}, file, {"format": "pt"})
    write_json(place / name / "config.json", read_json(place / name / "config.json") | {"dtype": "float16"} | config)
    if name == "nan":
        tensors = load_file(file)
        tensors["lm_head.weight"].fill_(torch.inf)
        save_file(tensors, file, {"format": "pt"})


@pytest.fixture
def evaluate(place, tmp_path, capfd):
    def call(*checkpoints, tasks=("heldout_perplexity", "cloze"), more=()):
        named = [word for task in tasks for word in ("--task", task)]
        folders = [str(place / name) for name in checkpoints]
        code = main(
            ["evaluate", "--tasks", str(place / "tasks"), *named, "--out", str(tmp_path / "out"), *more, *folders]
        )
        return code, capfd.readouterr().err

    return call


def test_a_perplexity_beyond_a_float_leaves_the_other_metrics(evaluate, tmp_path):
    code, said = evaluate("whole")
    assert code == 0
    assert "word_perplexity is left out" in said
    record = records.read(tmp_path / "out" / "whole.json")
    metrics = [row["metric"] for row in record["rows"]]
    assert metrics == ["byte_perplexity", "bits_per_byte", "acc", "acc_norm"]
    assert list(record["omitted"]) == ["heldout_perplexity word_perplexity"]
    assert record["samples"]["heldout_perplexity"][0].keys() == {"doc", "byte_perplexity", "bits_per_byte"}
    assert "its record is up to date" in evaluate("whole")[1]


def test_a_model_without_numbers_is_refused_by_name_and_the_others_evaluated(evaluate, tmp_path):
    code, said = evaluate("nan", "whole")
    assert code == 1
    last = said.splitlines()[-1]
    assert "nan heldout_perplexity" in last
    assert "nan cloze" in last
    assert not (tmp_path / "out" / "nan.json").exists()
    assert records.read(tmp_path / "out" / "whole.json")["rows"]


def test_a_crash_keeps_the_tasks_before_it_and_is_not_taken_for_complete(evaluate, tmp_path, monkeypatch):
    run, calls = harness.run, []

    def crashing(*args, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(*args, **more)

    monkeypatch.setattr(harness, "run", crashing)
    with contextlib.suppress(KeyboardInterrupt):
        evaluate("whole")
    record = records.read(tmp_path / "out" / "whole.json")
    assert {row["task"] for row in record["rows"]} == {"heldout_perplexity"}
    assert record["unfinished"] == ["cloze"]
    code, said = evaluate("whole")
    assert (code, "up to date" in said) == (0, False)
    record = records.read(tmp_path / "out" / "whole.json")
    assert {row["task"] for row in record["rows"]} == {"heldout_perplexity", "cloze"}
    assert "unfinished" not in record


def test_one_task_refused_and_the_other_kept(evaluate, tmp_path, monkeypatch):
    values = harness.values_of
    monkeypatch.setattr(
        harness,
        "values_of",
        lambda *args: (row | ({"value": np.nan} if row["task"] == "cloze" else {}) for row in values(*args)),
    )
    code, said = evaluate("whole", tasks=("cloze", "heldout_perplexity"))
    assert code == 1
    assert "whole cloze: none of its metrics is a number" in said
    record = records.read(tmp_path / "out" / "whole.json")
    assert {row["task"] for row in record["rows"]} == {"heldout_perplexity"}
    assert record["unfinished"] == ["cloze"]
    assert "inputs" not in record


def no_tokenizer(folder):
    for file in [*folder.glob("*token*"), folder / "chat_template.jinja"]:
        file.unlink()
    return "no tokenizer there"


def no_end(folder):
    config = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {k: v for k, v in config.items() if not k.endswith("os_token")})
    return "no eos_token"


def no_template(folder):
    (folder / "chat_template.jinja").unlink()
    return "no chat template"


def small_vocabulary(folder):
    file = folder / "model.safetensors"
    tensors = {k: v[:200].clone() if v.shape[0] == 300 else v for k, v in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    write_json(folder / "config.json", read_json(folder / "config.json") | {"vocab_size": 200})
    return "vocab_size"


@pytest.mark.parametrize("damage", [no_tokenizer, no_end, no_template, small_vocabulary])
def test_what_lacks_is_said_before_anything_is_loaded(place, evaluate, tmp_path, monkeypatch, damage):
    folder = tmp_path / "odd"
    shutil.copytree(place / "whole", folder)
    words = damage(folder)
    monkeypatch.setattr("ladder.model.checkpoint.load", None)
    code, said = evaluate(folder, more=["--chat"])
    assert code == 1
    assert words in said
    assert str(folder) in said
    assert said.count("\n") == 1


def test_a_token_that_the_model_has_not(place, evaluate, tmp_path):
    """Of an added token, which some tokenizers have and never use."""
    folder = tmp_path / "added"
    shutil.copytree(place / "whole", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([*(f"<filler {n}>" for n in range(300 - len(tokenizer))), "n h"])
    tokenizer.save_pretrained(folder)
    code, said = evaluate(folder, tasks=["cloze"])
    assert code == 1
    assert "added cloze: its token 'n h' is number 300" in said
    assert evaluate(folder, tasks=["heldout_perplexity"])[0] == 0


@pytest.fixture
def sensitivity(tmp_path, capsys):
    def call(folder):
        (tmp_path / "text.txt").write_text("spaces are rare in here " * 40)
        more = ["--text", str(tmp_path / "text.txt"), "--wiring", "ladder", "--windows", "2", "--sequence", "8"]
        code = main(["sensitivity", str(folder), *more, "--record", str(tmp_path / "r.json")])
        return code, capsys.readouterr().err

    return call


def test_sensitivity_of_a_model_without_numbers(place, sensitivity, tmp_path):
    code, said = sensitivity(place / "nan")
    assert code == 1
    assert "no finite numbers" in said
    assert str(place / "nan") in said
    assert said.count("\n") == 1
    assert not (tmp_path / "r.json").exists()


def test_sensitivity_of_a_loss_whose_perplexity_is_beyond_a_float(place, sensitivity, tmp_path):
    changed(place, "loud", lambda name, value: value * (3e4 if name == "lm_head.weight" else 1), dtype="float32")
    assert sensitivity(place / "loud")[0] == 0
    metrics = {row["metric"] for row in records.read(tmp_path / "r.json")["rows"]}
    assert {"loss_change", "free_layers"} < metrics
    assert "perplexity" not in metrics
