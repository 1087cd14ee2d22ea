"""`ladder sensitivity`: its losses are those of converted models, its windows are the text, and what it refuses."""

import argparse
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from ladder import records
from ladder.cli import main
from ladder.data.tokenizer import chat_template, load, train
from ladder.data.tokens import pack
from ladder.evaluate.sensitivity import ScanPoint, free_layers, losses, scan, text_windows
from ladder.files import write_json, write_jsonl
from ladder.model.modeling import LadderConfig, LadderForCausalLM

WORDS = ("residual", "stream", "module", "waits", "for", "its", "sum", "while", "another", "computes", "then", "reads")
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
SHAPE |= {"vocab_size": 300, "max_position_embeddings": 64, "initializer_range": 0.2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with text, the tokens made of it, and the checkpoint llama/."""
    folder = tmp_path_factory.mktemp("sensitivity")
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, 40)) for _ in range(8)]
    train(texts, 300, folder / "tokenizer", chat_template("chatml"))
    write_jsonl(folder / "corpus/test.jsonl", ({"id": str(n), "text": text} for n, text in enumerate(texts)))
    write_json(folder / "corpus/manifest.json", {})
    tokenizer, eos = load(folder / "tokenizer")
    about = {"source": "toy", "licence": "none"}
    pack(folder / "corpus", ["test"], folder / "tokenizer", tokenizer, eos, folder / "tokens", about)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder / "llama")
    for path in (folder / "tokenizer").iterdir():
        (folder / "llama" / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def sensitivity(place, tmp_path, capsys, monkeypatch):
    """Run the command on the checkpoint; (exit code, stdout, stderr), and the record if there is one."""
    monkeypatch.setenv("LADDER_TRACKING", "off")

    def call(more, source=f"--text {place}/corpus/test.jsonl", checkpoint=place / "llama"):
        words = f"sensitivity {checkpoint} {source} --windows 4 --sequence 16 --batch 3 {more}"
        code = main([*words.split(), "--record", str(tmp_path / "r.json")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_every_point_is_the_converted_model(place):
    windows = np.random.default_rng(1).integers(0, 300, (3, 17))
    model = LadderForCausalLM.from_pretrained(place / "llama").eval()
    inputs, targets = torch.from_numpy(windows[:, :-1]), torch.from_numpy(windows[:, 1:])
    points = list(scan(model, {"ladder": None, "spd": 2}, windows, batch=2))
    assert [(p.converted, p.layers) for p in points] == 2 * [(0, ""), (1, "2"), (2, "1-2"), (3, "0-2")]
    for point in points:
        config = LadderConfig(**SHAPE, wiring=point.spelled, tensor_parallel_size=point.tp if point.layers else None)
        other = LadderForCausalLM.from_pretrained(place / "llama", config=config).eval()
        with torch.no_grad():
            expected = F.cross_entropy(other(inputs).logits.transpose(1, 2), targets, reduction="none").mean(1)
        assert point.loss == pytest.approx(expected.numpy(), abs=1e-5)
        assert point.change == pytest.approx(point.loss - points[0].loss)
    assert all(abs(point.change).max() > 1e-3 for point in points if point.converted)
    assert losses(model, windows, 8) == pytest.approx(points[-1].loss)  # rewired in place


def test_each_layer_on_its_own(place):
    model = LadderForCausalLM.from_pretrained(place / "llama").eval()
    points = list(scan(model, {"ladder": None}, np.ones((2, 5), int), batch=2, each=True))
    assert [point.spelled for point in points] == ["standard", "ladder@2", "ladder@1", "ladder@0"]


def point(*change):
    change = np.array(change)
    return ScanPoint("ladder", None, 1, "1", 3 + change, change)


def test_free_is_within_a_hundredth_or_two_standard_errors():
    assert point(0.008, 0.010).free
    assert not point(0.019, 0.021).free
    noisy = point(0.0, 0.04)  # 0.02 with a standard error of 0.02
    assert noisy.stderr == pytest.approx(0.02)
    assert noisy.free
    assert point(-1.0, -1.0).free
    zero, good, bad = point(0.0, 0.0), point(0.001, 0.001), point(0.5, 0.5)
    assert free_layers([zero, bad]) == 0
    assert free_layers([zero, good, good, bad, good]) == 2  # a change that goes away again was one all the same
    assert free_layers([zero, good]) == 1


def test_windows_are_spread_over_the_text(place, tmp_path):
    tokenizer, eos = load(place / "llama")
    text = " ".join(WORDS) * 4
    (tmp_path / "mine.txt").write_text(text)
    args = argparse.Namespace(text=tmp_path / "mine.txt", text_field="text", windows=3, sequence=4)
    stream = [*tokenizer.encode(text).ids, eos]
    found = (len(stream) - 1) // 4
    windows = text_windows(args, place / "llama")
    assert windows.tolist() == [stream[4 * n : 4 * n + 5] for n in (0, found // 3, 2 * found // 3)]
    # A tokenizer that begins every text with a token, as Llama's does: so does every window.
    content = json.loads((place / "llama/tokenizer.json").read_text())
    begin = {"type_id": 0, "id": "<|im_start|>"}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": begin}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    write_json(tmp_path / "tokenizer.json", content)
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "<|endoftext|>"})
    begun = text_windows(args, tmp_path)
    assert (begun[:, 0] == 1).all()
    assert (begun[:, 1:] == windows[:, 1:]).all()


def test_record_and_table(sensitivity, tmp_path):
    code, out, err = sensitivity("--wiring ladder spd --tp 2 --model tiny")
    assert code == 0
    assert "8/8 spd, layers 0-2: loss change" in err
    assert "ladder: the last" in out
    assert "spd (T = 2): the last" in out
    rows = records.read(tmp_path / "r.json")["rows"]
    about = {"stage": "sensitivity", "model": "tiny", "variant": "converted", "origin": "measured"}
    assert all(row.items() >= about.items() for row in rows)
    assert {(row["wiring"], row.get("tp")) for row in rows} == {("ladder", None), ("spd", 2)}
    changes = [row for row in rows if row["metric"] == "loss_change"]
    assert [row["converted"] for row in changes] == 2 * [0, 1, 2, 3]
    assert [row.get("layers") for row in changes] == 2 * [None, "2", "1-2", "0-2"]
    assert changes[0]["value"] == changes[0]["stderr"] == 0
    assert all(row["unit"] == "nats" and row["n"] == 4 for row in changes)
    assert sum(row["metric"] == "perplexity" for row in rows) == 8
    assert sum(row["metric"] == "free_layers" for row in rows) == 2


def test_shards_of_the_same_tokenizer(sensitivity, place, tmp_path):
    code, out, _ = sensitivity("--wiring ladder --each", f"--tokens {place}/tokens")
    assert code == 0
    assert "free to convert" not in out
    assert [r["layers"] for r in records.read(tmp_path / "r.json")["rows"] if r.get("layers")] == list("221100")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--wiring lader", "unknown wiring 'lader'; known: "),
        ("--wiring ladder@1-2", "wiring 'ladder@1-2' names layers, but the scan chooses them; give 'ladder'"),
        ("--wiring standard", "wiring 'standard' is what the scan starts from"),
        ("--wiring upper_bound", "wiring 'upper_bound' is for timing only"),
        ("--wiring ladder spd", "say which (--tp"),
        ("--wiring ladder --tp 2", "wiring 'ladder' is the same function at every tensor-parallel degree; drop --tp"),
        ("--wiring spd --tp 3", "tensor-parallel degree 3 does not divide the model's num_attention_heads (2)"),
        ("--wiring ladder --windows 1", "--windows 1 must be at least 2"),
        ("--wiring ladder --sequence 65", "--sequence 65 is longer than the 64 positions of "),
        ("--wiring ladder --windows 1000", "windows of 16 tokens, fewer than --windows 1000; give more"),
        ("--wiring ladder --text-field body", "no text in column 'body'"),
    ],
)
def test_refusals(sensitivity, tmp_path, more, sentence):
    code, _, said = sensitivity(more)
    assert code == 1
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "r.json").exists()


def test_what_does_not_belong_together_is_refused(sensitivity, place, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in (place / "llama").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    code, _, said = sensitivity("--wiring ladder", f"--tokens {place}/tokens", other)
    assert code == 1
    assert f"{place}/tokens: made with another tokenizer than {other} has; give --text in its place" in said
    config = json.loads((other / "config.json").read_text())
    write_json(other / "config.json", config | {"model_type": "ladder", "wiring": "ladder@1-2"})
    code, _, said = sensitivity("--wiring ladder", checkpoint=other)
    assert code == 1
    assert "its wiring is 'ladder@1-2'; the scan starts from a standard model" in said
