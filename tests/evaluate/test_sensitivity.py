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
from ladder.evaluate.frontier import ScanPoint, passes, scan
from ladder.evaluate.sensitivity import free_layers, text_windows
from ladder.files import write_json, write_jsonl
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.rewire import rewire
from ladder.wiring import Wiring

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


def literal(model, windows):
    with torch.no_grad():
        logits = model(torch.from_numpy(windows[:, :-1])).logits
    return F.cross_entropy(logits.transpose(1, 2), torch.from_numpy(windows[:, 1:]), reduction="none").mean(1).numpy()


@pytest.mark.parametrize(
    "wiring",
    [
        Wiring("ladder"),
        Wiring("ladder-2"),
        Wiring("parallel"),
        Wiring("fal"),
        *(Wiring(name, tp=2) for name in ("spd", "partial", "dtp-1", "desync-2x", "desync-nx")),
    ],
    ids=str,
)
def test_every_point_is_the_converted_model(place, wiring):
    """Though no point runs the layers that it has in common with an earlier one."""
    choice, heldout = np.random.default_rng(1).integers(0, 300, (2, 3, 17))
    done = []
    model = LadderForCausalLM.from_pretrained(place / "llama").eval()
    points = list(scan(model, wiring, choice, heldout, 2, done.append))
    kinds = [(point.metric, len(point.layers)) for point in points]
    alone, last, chosen = "loss_change_alone", "loss_change", "loss_change_chosen"
    assert kinds == [(last, 0), *3 * [(alone, 1)], *((kind, n) for kind in (last, chosen) for n in (1, 2, 3))]
    assert [point.layers for point in points[4:7]] == [(2,), (1, 2), (0, 1, 2)]
    steps = points[7:]
    assert [sorted(step.added for step in steps[:n]) for n in (1, 2, 3)] == [list(step.layers) for step in steps]
    assert sum(done) == passes(3)
    for point in points:
        tied = {"tensor_parallel_size": wiring.tp} if point.layers else {}
        config = LadderConfig(**SHAPE, wiring=point.spelled, **tied)
        other = LadderForCausalLM.from_pretrained(place / "llama", config=config).eval()
        if wiring.name == "fal" and other.model.first_attention_norm is not None:
            torch.nn.init.zeros_(other.model.first_attention_norm.weight)  # as conversion does
        windows = choice if point.metric == alone else heldout
        assert point.loss == pytest.approx(literal(other, windows), abs=1e-5)
    assert all(point.change == pytest.approx(point.loss - points[0].loss) for point in steps)


@pytest.fixture(scope="module")
def model(place):
    return LlamaForCausalLM.from_pretrained(place / "llama").eval()


@pytest.mark.parametrize("name", ["ladder", "parallel-2norm"])
def test_another_class_than_ours(model, name):
    """A model of transformers whose layers are rewired: the family's own loop runs over them."""
    choice, heldout = np.random.default_rng(2).integers(0, 300, (2, 2, 9))
    points = list(scan(model, Wiring(name), choice, heldout, 2))
    for point in points:
        rewire(model, point.spelled)
        windows = choice if point.metric == "loss_change_alone" else heldout
        assert point.loss == pytest.approx(literal(model, windows), abs=1e-5)


def test_what_is_common_is_not_run_again(model):
    ran = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, layer in enumerate(model.model.layers)
    ]
    choice, heldout = np.random.default_rng(2).integers(0, 300, (2, 2, 9))
    points = scan(model, Wiring("ladder"), choice, heldout, 2)
    next(points)
    ran.clear()
    for first in (0, 1, 2):  # each alone, after the original
        next(points)
        assert ran == list(range(first, 3))
        ran.clear()
    for hook in hooks:
        hook.remove()


def test_the_choice_is_the_cheapest_of_all(place):
    """On its own windows, each step of it, where every layer that is left is tried."""
    choice = np.random.default_rng(3).integers(0, 300, (4, 17))
    model = LadderForCausalLM.from_pretrained(place / "llama").eval()
    steps = list(scan(model, Wiring("ladder"), choice, choice, 4))[-3:]
    before = ()
    for step in steps:
        losses = {}
        for layer in set(range(3)) - set(before):
            model.model.set_wiring(str(Wiring("ladder", tuple(sorted({*before, layer})))))
            losses[layer] = literal(model, choice).mean()
        assert min(losses, key=losses.get) == step.added
        before = step.layers


def point(*change):
    change = np.array(change)
    return ScanPoint("loss_change", Wiring("ladder", (1,)), 3 + change, change)


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
    args = argparse.Namespace(text=tmp_path / "mine.txt", text_field="text", windows=2, sequence=4)
    stream = [*tokenizer.encode(text).ids, eos]
    found = (len(stream) - 1) // 4
    windows = text_windows(args, place / "llama")
    assert windows.tolist() == [stream[4 * n : 4 * n + 5] for n in (0, found // 4, found // 2, 3 * found // 4)]
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
    code, out, _ = sensitivity("--wiring ladder spd --tp 2 --model tiny --layers 2 --dtype fp32")
    assert code == 0
    assert "spd (T = 2)" in out
    record = records.read(tmp_path / "r.json")
    rows = record["rows"]
    about = {"stage": "sensitivity", "model": "tiny", "variant": "converted", "origin": "measured", "dtype": "fp32"}
    assert all(row.items() >= about.items() for row in rows)
    assert {(row["wiring"], row.get("tp")) for row in rows} == {("ladder", None), ("spd", 2)}
    by = {metric: [row for row in rows if row["metric"] == metric] for metric in {row["metric"] for row in rows}}
    changes = by["loss_change"]
    assert [row["converted"] for row in changes] == 2 * [0, 1, 2, 3]
    assert [row.get("layers") for row in changes] == 2 * [None, "2", "1-2", "0-2"]
    assert changes[0]["value"] == changes[0]["stderr"] == 0
    assert [row["layers"] for row in by["loss_change_alone"]] == 2 * ["0", "1", "2"]
    chosen = by["loss_change_chosen"]
    assert [row["converted"] for row in chosen] == 2 * [1, 2, 3]
    assert [row["layers"] for row in chosen[::3]] == [str(row["added"]) for row in chosen[::3]]
    assert chosen[2]["value"] == pytest.approx(changes[3]["value"])  # all of them
    assert all(row["unit"] == "nats" and row["n"] == 4 for row in [*changes, *chosen, *by["loss_change_alone"]])
    assert [row["layers"] for row in by["recommended_layers"]] == [chosen[1]["layers"], chosen[4]["layers"]]
    assert [row["value"] for row in by["recommended_layers"]] == [2, 2]
    assert len(by["perplexity"]) == 8
    assert len(by["free_layers"]) == 2
    assert {metric: len(losses) for metric, losses in record["losses"].items()} == {
        "loss_change": 1 + 2 * 3,
        "loss_change_alone": 2 * 3,
        "loss_change_chosen": 2 * 3,
    }


def test_a_budget(sensitivity, tmp_path):
    assert sensitivity("--budget 1000 --dtype fp32")[0] == 0
    rows = records.read(tmp_path / "r.json")["rows"]
    assert [row["value"] for row in rows if row["metric"] == "recommended_layers"] == [3]
    code, _, said = sensitivity("--budget -9")  # the scan is kept: another budget may be asked of it
    assert code == 1
    assert "--budget" in said.splitlines()[-1]
    assert not any(row["metric"] == "recommended_layers" for row in records.read(tmp_path / "r.json")["rows"])


def test_shards_of_the_same_tokenizer(sensitivity, place):
    assert sensitivity("", f"--tokens {place}/tokens")[0] == 0


@pytest.fixture(scope="module")
def scanned(place):
    """The record of a scan of two wirings."""
    line = f"sensitivity {place}/llama --text {place}/corpus/test.jsonl --windows 4 --sequence 16 --wiring ladder spd"
    assert main(f"{line} --tp 2 --layers 1 --record {place}/scan.json".split()) == 0
    return place / "scan.json"


def test_convert_takes_a_choice(scanned, place, tmp_path):
    rows = records.read(scanned)["rows"]
    for number, (wiring, asked, layers) in enumerate(
        [("ladder", "", 1), ("ladder", "--layers 2", 2), ("ladder", "--budget 1000", 3), ("spd", "--layers 2", 2)]
    ):
        out = tmp_path / f"{number}"
        line = f"convert {place}/llama {out} --layers-from {scanned} --wiring {wiring} {asked}"
        assert main(line.split()) == 0
        config = json.loads((out / "config.json").read_text())
        steps = [row for row in rows if row["metric"] == "loss_change_chosen" and row["wiring"] == wiring]
        assert config["wiring"] == f"{wiring}@{steps[layers - 1]['layers']}"
        assert config.get("tensor_parallel_size") == (2 if wiring == "spd" else None)


def changed_shape(folder):
    LlamaForCausalLM(LlamaConfig(**SHAPE | {"num_hidden_layers": 2})).save_pretrained(folder)


def changed_width(folder):
    LlamaForCausalLM(LlamaConfig(**SHAPE | {"intermediate_size": 48})).save_pretrained(folder)


@pytest.mark.parametrize(
    ("more", "words", "change"),
    [
        ("--layers-from {scan}", "ladder, spd", None),
        ("--layers-from {scan} --wiring parallel", "parallel", None),
        ("--layers-from {scan} --wiring ladder --layers 4", "--layers 4", None),
        ("--layers-from {scan} --wiring ladder --layers 0", "--layers 0", None),
        ("--layers-from {scan} --wiring ladder --budget -9", "--budget -9", None),
        ("--layers-from {scan} --wiring spd --tp 2", "--tp", None),
        ("--layers-from {scan} --wiring ladder", "layers is 3", changed_shape),
        ("--layers-from {scan} --wiring ladder", "config_digest", changed_width),
        ("--layers-from {other} --wiring ladder", "not a record of `ladder sensitivity`", None),
        ("--wiring ladder --layers 2", "--layers-from", None),
        ("", "--wiring", None),
    ],
)
def test_choices_that_convert_refuses(scanned, place, tmp_path, capsys, more, words, change):
    source = place / "llama"
    if change:
        change(source := tmp_path / "changed")
    write_json(tmp_path / "other.json", {"schema": 1, "provenance": {"mlflow_run_id": None}, "rows": []})
    capsys.readouterr()
    line = f"convert {source} {tmp_path}/out {more.format(scan=scanned, other=tmp_path / 'other.json')}"
    assert main(line.split()) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


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
        ("--wiring ladder --windows 1000", "windows of 16 tokens, fewer than twice --windows 1000; give more"),
        ("--layers 4", "--layers 4"),
        ("--layers 0", "--layers 0 must be at least 1"),
        ("--budget nan", "--budget: 'nan'"),
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
