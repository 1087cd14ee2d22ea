"""Decoders of other families than Llama are evaluated, scanned and adapted."""

import numpy as np
import pytest
import torch

from ladder import cli, records
from ladder.data.tasks import CLOZE, write
from ladder.model.checkpoint import load
from ladder.model.rewire import rewire
from ladder.model.tiny import tiny
from ladder.train.batches import Batch
from ladder.train.losses import measure, token_losses

USED = ["gemma2", "qwen3_moe"]
SMALL = "--sequence 48 --batch 2 --steps 2 --warmup 1 --evaluate-every 1 --validation-windows 4 --device cpu --seed 0"


@pytest.fixture(scope="module", params=USED)
def family(request, data, tmp_path_factory):
    """(the original's directory, that of ladder@1-2) of a small random model over the data's tokenizer."""
    folder = tmp_path_factory.mktemp("family")
    tiny(request.param, vocab_size=300).save_pretrained(folder / "original")
    for file in (data / "tokenizer").iterdir():
        (folder / "original" / file.name).write_bytes(file.read_bytes())
    assert cli.main(f"convert {folder}/original {folder}/converted --wiring ladder@1-2".split()) == 0
    return folder / "original", folder / "converted"


def test_evaluate(family, tmp_path):
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["aei", "okl", "mnr"], 6)) for _ in range(6)]
    asked = [{"id": f"{n}", "context": text, "choices": ["aei", "okl"], "answer": 0} for n, text in enumerate(words)]
    write(tmp_path / "tasks", CLOZE, "cloze.jsonl", asked)
    line = f"evaluate --tasks {tmp_path}/tasks --task cloze --out {tmp_path}/out --device cpu --batch 2 --max-length 48"
    assert cli.main([*line.split(), *map(str, family)]) == 0
    for folder in family:
        assert {row["metric"] for row in records.read(tmp_path / "out" / f"{folder.name}.json")["rows"]} >= {"acc"}


def test_sensitivity(family, data, tmp_path):
    line = f"sensitivity {family[0]} --tokens {data}/tokens --wiring ladder ladder-2 --windows 3 --sequence 32"
    assert cli.main(f"{line} --device cpu --record {tmp_path}/r.json".split()) == 0
    losses = records.read(tmp_path / "r.json")["losses"]["loss_change"]
    assert losses["ladder@1-2"] != losses["standard"]
    assert len(losses) == 7
    text = f"sensitivity {family[1]} --tokens {data}/tokens --wiring ladder --record {tmp_path}/no.json"
    assert cli.main(text.split()) == 1


@pytest.mark.parametrize("method", ["sft", "distill", "progressive", "lora", "anneal"])
def test_adapt(family, data, tmp_path, method):
    original, converted = family
    line = f"adapt {converted} {tmp_path}/model --chat {data}/chat --work {tmp_path}/work {SMALL} --lr 1e-2"
    teacher = f"--teacher {original}" if method == "distill" else ""
    assert cli.main(f"{line} --record {tmp_path}/r.json --method {method} {teacher}".split()) == 0
    curve = records.read(tmp_path / "r.json")["curves"]["validation"]
    assert curve[-1]["loss"] != curve[0]["loss"]
    before, after = load(converted)[0], load(tmp_path / "model")[0]
    assert type(before) is type(after)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert not torch.equal(before(ids).logits, after(ids).logits)
    assert before.state_dict().keys() == after.state_dict().keys()


@pytest.mark.parametrize(("more", "words"), [("--compile", "compile"), ("--tp-ranks 2", "ranks")])
def test_what_other_families_cannot_yet(family, data, tmp_path, capsys, more, words):
    line = f"adapt {family[1]} {tmp_path}/model --chat {data}/chat --work {tmp_path}/work {SMALL}"
    assert cli.main(f"{line} --record {tmp_path}/r.json {more}".split()) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_family_whose_packed_conversations_see_each_other_is_not_adapted(data, tmp_path, capsys):
    tiny("afmoe", vocab_size=300).save_pretrained(tmp_path / "original")
    for file in (data / "tokenizer").iterdir():
        (tmp_path / "original" / file.name).write_bytes(file.read_bytes())
    line = f"adapt {tmp_path}/original {tmp_path}/model --chat {data}/chat --work {tmp_path}/work {SMALL}"
    assert cli.main(f"{line} --record {tmp_path}/r.json".split()) == 1
    error = capsys.readouterr().err
    assert "see each other" in error
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["gemma2", "granite", "qwen3", "phi3", "gpt2", "llama4_text"])
def test_losses_and_gradients_are_those_of_the_family_s_own_loss(name):
    model, again = (rewire(tiny(name), "ladder") for _ in range(2))
    ids = np.random.default_rng(0).integers(0, 64, (2, 9))
    batch = Batch(ids[:, :-1], ids[:, 1:], None)
    values = token_losses(model, batch, "cpu")
    logits = model(input_ids=torch.from_numpy(batch.inputs)).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten())
    torch.testing.assert_close(values.mean(), expected)
    expected.backward()
    total, _ = measure(again, batch, "cpu", {"loss": 1 / 16}, most=3 * 64)  # in pieces
    total.backward()
    gradients = dict(model.named_parameters())
    for key, parameter in again.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key].grad, msg=key)
