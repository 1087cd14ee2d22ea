"""`ladder adapt` from a checkpoint and conversations to the adapted model, and that packing leaks nothing."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ladder import cli, files, reading, records
from ladder.data.chat import encode, pack
from ladder.model import LadderConfig, LadderForCausalLM, load, save
from ladder.model.rewire import rewire
from ladder.train.batches import IGNORE, PackedChat, packed_text
from ladder.train.losses import token_losses

SMALL = "--sequence 64 --batch 2 --steps 4 --warmup 1 --evaluate-every 2 --validation-windows 4 --device cpu"


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    """A small random model over the data's tokenizer."""
    out = tmp_path_factory.mktemp("checkpoint") / "model"
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = LadderConfig(vocab_size=300, tie_word_embeddings=True, wiring="ladder@2-3", **shape)
    info = {"model": "toy", "wiring": "ladder@2-3", "variant": "converted", "seed": 3}
    save(LadderForCausalLM(config), data / "tokenizer", out, info)
    return out


def words(checkpoint, data, out, *more) -> list[str]:
    where = [checkpoint, out / "model", "--chat", data / "chat", "--work", out / "work"]
    return ["adapt", *map(str, where), "--record", str(out / "record.json"), *SMALL.split(), *more]


def test_adapt(checkpoint, data, tmp_path):
    assert cli.main(words(checkpoint, data, tmp_path, "--lr", "1e-2", "--seed", "7")) == 0
    record = records.read(tmp_path / "record.json")
    for row in record["rows"]:
        about = {"model": "toy", "wiring": "ladder@2-3", "variant": "adapted", "seed": 7, "stage": "adapt"}
        assert row.items() >= about.items()
    curve = record["curves"]["validation"]
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.05
    model, tokenizer = load(tmp_path / "model")
    assert model.config.wiring == "ladder@2-3"
    assert tokenizer.chat_template == load(checkpoint)[1].chat_template
    before, after = load(checkpoint)[0], model
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert reading.read_json(tmp_path / "model/ladder.json")["variant"] == "adapted"


def test_the_tensor_parallel_degree_stays(data, tmp_path):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LadderConfig(vocab_size=300, tie_word_embeddings=True, wiring="spd", tensor_parallel_size=2, **shape)
    info = {"model": "toy", "wiring": "spd", "tp": 2, "variant": "converted", "seed": 3}
    save(LadderForCausalLM(config), data / "tokenizer", tmp_path / "spd", info)
    assert cli.main(words(tmp_path / "spd", data, tmp_path)) == 0
    assert all(row["tp"] == 2 for row in records.read(tmp_path / "record.json")["rows"])
    assert reading.read_json(tmp_path / "model/ladder.json")["tp"] == 2
    assert load(tmp_path / "model")[0].config.tensor_parallel_size == 2


def conversations() -> list[list[dict]]:
    said = [("one two", "three four five"), ("six", "seven eight"), ("nine ten eleven", "twelve")]
    return [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in said]


@pytest.mark.parametrize("wiring", ["standard", "ladder", "parallel"])
def test_packed_conversations_do_not_see_each_other(checkpoint, wiring):
    model, tokenizer = load(checkpoint)
    rewire(model, wiring)
    samples = [encode(messages, tokenizer) for messages in conversations()]
    (row,) = pack(samples, sum(len(ids) for ids, _ in samples) + 5)
    with torch.no_grad():
        ids, positions = (torch.from_numpy(row[key])[None] for key in ("input_ids", "position_ids"))
        together = model(input_ids=ids, position_ids=positions).logits[0]
        for sample, _ in samples:
            alone = model(input_ids=torch.tensor([sample])).logits[0]
            flat = row["input_ids"].tolist()
            start = next(at for at in range(len(flat)) if flat[at : at + len(sample)] == sample)
            torch.testing.assert_close(together[start : start + len(sample)], alone, rtol=1e-4, atol=1e-5)


def test_loss_is_the_assistants_tokens(checkpoint):
    """The packed loss is the sum over conversations, each alone, of the tokens that the assistant says."""
    model, tokenizer = load(checkpoint)
    samples = [encode(messages, tokenizer) for messages in conversations()]
    data = PackedChat(pack(samples, sum(len(ids) for ids, _ in samples) + 5))
    expected, spoken = 0.0, 0
    with torch.no_grad():
        losses = token_losses(model, data.rows(np.arange(1)), "cpu")
        for ids, labels in samples:
            log_p = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            said = [at for at in range(1, len(ids)) if labels[at] != IGNORE]
            expected -= sum(log_p[at - 1, ids[at]].item() for at in said)
            spoken += len(said)
    assert data.supervised(np.arange(1)) == spoken == int((losses != 0).sum())
    assert losses.sum().item() == pytest.approx(expected, rel=1e-4)
    texts = [tokenizer.decode([i for i, label in zip(*s, strict=True) if label != IGNORE]) for s in samples]
    assert all(m[1]["content"] in t and m[0]["content"] not in t for m, t in zip(conversations(), texts, strict=True))


def without_template(checkpoint, out):
    """The checkpoint, whole and sound, but with a tokenizer that has no chat template."""
    shutil.copytree(checkpoint, out)
    (out / "chat_template.jinja").unlink()
    card = reading.read_json(out / "ladder.json")
    del card["sha256"]["chat_template.jinja"]
    files.write_json(out / "ladder.json", card)
    return out


def test_no_chat_template(checkpoint, data, tmp_path, capsys):
    bare = without_template(checkpoint, tmp_path / "bare")
    assert cli.main(words(bare, data, tmp_path / "out")) == 1
    assert f"{bare}: its tokenizer has no chat template" in capsys.readouterr().err
    assert cli.main(words(bare, data, tmp_path / "out", "--chat-template", "chatml")) == 0


def test_a_head_of_its_own_is_trained_and_saved(checkpoint, data, tmp_path):
    """Though config.json says that it is tied: transformers believes the weights, and so do we."""
    odd = tmp_path / "odd"
    shutil.copytree(checkpoint, odd)
    (odd / "ladder.json").unlink()
    torch.manual_seed(1)
    head = torch.randn(300, 32) / 8
    weights = load_file(odd / "model.safetensors")
    save_file(weights | {"lm_head.weight": head}, odd / "model.safetensors", {"format": "pt"})
    assert reading.read_json(odd / "config.json")["tie_word_embeddings"]
    assert cli.main(words(odd, data, tmp_path, "--lr", "1e-5")) == 0
    assert not reading.read_json(tmp_path / "model/config.json")["tie_word_embeddings"]
    model, _ = load(tmp_path / "model")
    assert (model.lm_head.weight - head).abs().max() < 1e-3
    assert not torch.equal(model.lm_head.weight, head)
    assert (model.model.embed_tokens.weight - weights["model.embed_tokens.weight"]).abs().max() < 1e-3


def test_tokens_that_the_model_has_not_are_refused(checkpoint, data, tmp_path, capsys):
    odd = tmp_path / "odd"
    shutil.copytree(checkpoint, odd)
    (odd / "ladder.json").unlink()
    tokenizer = load(checkpoint)[1]
    tokenizer.add_tokens([*(f"<filler {n}>" for n in range(300 - len(tokenizer))), "user"])
    tokenizer.save_pretrained(odd)
    assert cli.main(words(odd, data, tmp_path)) == 1
    said = capsys.readouterr().err
    assert "train.jsonl:1: its token 'user' is number 300" in said
    assert said.count("\n") == 1


def test_what_a_configuration_leaves_open(checkpoint, data, tmp_path):
    odd = tmp_path / "odd"
    shutil.copytree(checkpoint, odd)
    (odd / "ladder.json").unlink()
    config = reading.read_json(odd / "config.json")
    del config["max_position_embeddings"]
    files.write_json(odd / "config.json", config | {"num_key_value_heads": None})
    assert cli.main(words(odd, data, tmp_path)) == 0


def test_a_checkpoint_without_tokenizer(checkpoint, data, tmp_path, capsys):
    odd = tmp_path / "odd"
    shutil.copytree(checkpoint, odd)
    for file in [odd / "ladder.json", *odd.glob("*token*")]:
        file.unlink()
    assert cli.main(words(odd, data, tmp_path, "--chat-template", "chatml")) == 1
    assert "no tokenizer there" in capsys.readouterr().err


def test_damaged_checkpoint(checkpoint, data, tmp_path, capsys):
    shutil.copytree(checkpoint, tmp_path / "bad")
    file = tmp_path / "bad/model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert cli.main(words(tmp_path / "bad", data, tmp_path / "out")) == 1
    assert "the checkpoint is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is it empty?"),
        ('{"text": "x"}\n', "train.jsonl:1: no messages"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n', "train.jsonl:1: no words of the assistant"),
    ],
)
def test_bad_chat(checkpoint, data, tmp_path, capsys, content, sentence):
    (tmp_path / "chat").mkdir()
    for split in ("train", "validation"):
        (tmp_path / f"chat/{split}.jsonl").write_text(content)
    assert cli.main(words(checkpoint, data, tmp_path, "--chat", str(tmp_path / "chat"))) == 1
    assert sentence in capsys.readouterr().err


def test_no_chat_at_all(checkpoint, data, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert cli.main(words(checkpoint, data, tmp_path, "--chat", str(tmp_path / "none"))) == 1
    assert "train.jsonl: no such file; `ladder chat` makes it" in capsys.readouterr().err


def test_too_long(checkpoint, data, tmp_path, capsys):
    assert cli.main(words(checkpoint, data, tmp_path, "--sequence", "4096")) == 1
    assert "--sequence 4096 is longer than the 2048 positions" in capsys.readouterr().err


THINKS = "{% for m in messages %}{{ m.content if loop.last else m.content | upper }}{% endfor %}"


def convert(checkpoint, data, out):
    """A standard model converted to ladder, as a user has it."""
    model, _ = load(checkpoint)
    rewire(model, "standard")
    save(model, data / "tokenizer", out / "standard", {"model": "toy", "wiring": "standard", "variant": "original"})
    assert cli.main(["convert", str(out / "standard"), str(out / "ladder"), "--wiring", "ladder"]) == 0
    return out / "ladder"


def test_distillation_needs_no_answers(checkpoint, data, tmp_path, capsys):
    source = convert(checkpoint, data, tmp_path)
    (tmp_path / "thinks.jinja").write_text(THINKS)
    more = ["--chat-template", str(tmp_path / "thinks.jinja")]
    talk = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")] * 20
    row = {"messages": [{"role": role, "content": text} for role, text in talk]}
    (tmp_path / "chat").mkdir()
    for split in ("train", "validation"):
        files.write_jsonl(tmp_path / f"chat/{split}.jsonl", [row] * 20)
    chat = ["--chat", str(tmp_path / "chat"), *more]
    assert cli.main(words(source, data, tmp_path, *chat)) == 1
    assert "train.jsonl:1: " in (error := capsys.readouterr().err)
    assert "--method distill" in error
    assert cli.main(words(source, data, tmp_path, *chat, "--method", "distill")) == 0
    assert "losses are those of all tokens" in capsys.readouterr().err


def test_plain_text(checkpoint, data, tmp_path):
    """The shortest command: work folder, teacher and rate follow."""
    source = convert(checkpoint, data, tmp_path)
    line = f"adapt {source} {tmp_path}/model --method distill --text {data}/texts.jsonl {SMALL}"
    assert cli.main([*line.split(), "--record", str(tmp_path / "r.json")]) == 0
    assert {"kl", "loss"} <= records.read(tmp_path / "r.json")["curves"]["validation"][-1].keys()
    assert not list((tmp_path / "model.work").glob("step-*"))
    again = f"adapt {source} {tmp_path}/again --method distill --tokens {data}/tokens {SMALL} --minutes 0.001"
    assert cli.main([*again.split(), "--record", str(tmp_path / "r.json")]) == 0
    assert records.read(tmp_path / "r.json")["settings"]["steps"] >= 1
    assert load(tmp_path / "again")[0].config.wiring == "ladder"


def test_the_text_that_is_held_out(checkpoint, data, tmp_path):
    read, train, held_out = packed_text([data / "texts.jsonl"], "text", checkpoint, 16, 300)
    assert [path.name for path in read] == ["texts.jsonl"]
    rows = [dataset.rows(np.arange(len(dataset))) for dataset in (train, held_out)]
    assert 10 <= len(train) / len(held_out) <= 40
    assert all(np.array_equal(batch.inputs[:, 1:], batch.targets[:, :-1]) for batch in rows)
    assert not {row.tobytes() for row in rows[0].inputs} & {row.tobytes() for row in rows[1].inputs}


def test_text_that_does_not_do(checkpoint, data, tmp_path, capsys):
    (tmp_path / "tokens").mkdir()
    (tmp_path / "short.txt").write_text("a few words")
    for more, said in (
        (["--text", str(tmp_path / "short.txt")], "short.txt: 0 sequences of 64 tokens are too few"),
        (["--tokens", str(tmp_path / "tokens")], "manifest.json"),
    ):
        line = f"adapt {checkpoint} {tmp_path}/model {SMALL}"
        assert cli.main([*line.split(), *more]) == 1
        assert said in capsys.readouterr().err
