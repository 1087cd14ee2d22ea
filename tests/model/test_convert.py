"""Conversion: bit-identical weights, whole or not at all."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import ladder
from ladder import progress
from ladder.cli import main
from ladder.files import sha256, write_json
from ladder.model import copying
from ladder.model.checkpoint import card, load, save, verify
from ladder.model.convert import check, convert
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.weights import INDEX, SIGNAL, SIGNAL_FILE
from ladder.reading import read_json

IDS = torch.arange(12)[None]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
KINDS = [
    {},
    {"shards": 1, "tie_word_embeddings": True, "dtype": torch.bfloat16},
    {"dtype": torch.float16, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
    {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
]


def rewire(source, out, wiring, tp=None):
    convert(source, out, wiring, check(source, wiring, tp), tp)
    return out


def weights(folder):
    """Every tensor in the order and the files that a reader finds them by."""
    index = folder / INDEX
    names = set(read_json(index)["weight_map"].values()) if index.exists() else ["model.safetensors"]
    assert {file.name for file in folder.glob("*.safetensors")} == set(names)
    found = {name: load_file(folder / name) for name in names}
    if index.exists():
        assert read_json(index)["weight_map"] == {key: name for name, file in found.items() for key in file}
        size = sum(value.nbytes for file in found.values() for value in file.values())
        assert read_json(index)["metadata"]["total_size"] == size
    return {key: value for file in found.values() for key, value in file.items()}


def identical(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_any_llama_there_and_back(llama, tmp_path, kind):
    source = llama(**kind)
    rewire(source, tmp_path / "ladder", "ladder@1-2")
    assert identical(weights(tmp_path / "ladder"), weights(source))
    original = LlamaForCausalLM.from_pretrained(source, dtype="auto").eval()
    model, tokenizer = load(tmp_path / "ladder")
    assert (model.config.wiring, model.dtype) == ("ladder@1-2", original.dtype)
    assert tokenizer.chat_template == "{{ messages }}"
    reference = LadderForCausalLM(LadderConfig.from_dict(original.config.to_dict() | {"wiring": "ladder@1-2"})).eval()
    reference.load_state_dict(original.state_dict())
    assert torch.equal(load(tmp_path / "ladder", "float32")[0](IDS).logits, reference(IDS).logits)

    back = rewire(tmp_path / "ladder", tmp_path / "standard", "standard")
    config = read_json(back / "config.json")
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert "wiring" not in config
    for file in source.glob("*.safetensors"):
        assert sha256(back / file.name) == sha256(file)
    plain = AutoModelForCausalLM.from_pretrained(back, dtype="auto")
    assert type(plain) is LlamaForCausalLM
    assert torch.equal(plain(IDS).logits, original(IDS).logits)


@torch.no_grad()
def test_a_configuration_from_before_transformers_5(llama, tmp_path):
    """theta and scaling apart, torch_dtype; rotary frequencies and the tied head among the weights."""
    source = llama(shards=1, tie_word_embeddings=True)
    config = read_json(source / "config.json")
    del config["rope_parameters"], config["head_dim"]
    write_json(source / "config.json", config | {"rope_theta": 5e5, "rope_scaling": LLAMA3, "torch_dtype": "float32"})
    file = source / "model.safetensors"
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(12) for i in range(3)}
    stored = load_file(file)
    save_file(stored | old | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    model, _ = load(rewire(source, tmp_path / "out", "parallel-2norm"))
    ladder.rewire(model, "standard")
    expected = LlamaForCausalLM.from_pretrained(source).eval()(IDS).logits
    assert (model(IDS).logits - expected).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("layers", "wiring"), [([2, 1], "ladder@1-2"), ([], "standard")])
def test_a_configuration_of_the_authors_own_code(llama, tmp_path, layers, wiring):
    source = llama()
    expected = ladder.rewire(LlamaForCausalLM.from_pretrained(source).eval(), wiring)(IDS).logits
    write_json(
        source / "config.json",
        read_json(source / "config.json") | {"model_type": "llamaLadder", "ladder_layers": layers},
    )
    assert torch.equal(load(source)[0](IDS).logits, expected)
    out = rewire(source, tmp_path / "out", "ladder")
    assert "ladder_layers" not in read_json(out / "config.json")
    assert card(source)["wiring"] == wiring


@torch.no_grad()
@pytest.mark.parametrize(("wiring", "tp"), [("spd", 2), ("dtp-1", 4), ("desync-2x@1-2", 2)])
def test_a_wiring_that_belongs_to_a_degree(llama, tmp_path, wiring, tp):
    out = rewire(llama(), tmp_path / "out", wiring, tp)
    assert read_json(out / "config.json")["tensor_parallel_size"] == card(out)["tp"] == tp
    model, _ = load(out)
    reference = LadderForCausalLM.from_pretrained(llama("again"), config=model.config).eval()
    assert torch.equal(model(IDS).logits, reference(IDS).logits)
    back = rewire(out, tmp_path / "back", "ladder")
    assert "tensor_parallel_size" not in read_json(back / "config.json")
    assert "tp" not in card(back)
    assert card(back)["source"] == {"path": str(out), "wiring": wiring, "tp": tp, "variant": "converted"}


@torch.no_grad()
@pytest.mark.parametrize(("shards", "wiring", "limit"), [(1, "fal", "parallel-2norm@1-2"), (2, "fal+", "standard")])
def test_a_first_attention_that_is_new_changes_nothing_yet(llama, tmp_path, shards, wiring, limit):
    source = llama(shards=shards, dtype=torch.bfloat16)
    out = rewire(source, tmp_path / "out", wiring)
    found = weights(out)
    assert torch.equal(found.pop(SIGNAL), torch.zeros(96, dtype=torch.bfloat16))
    assert identical(found, weights(source))
    assert verify(out)["sha256"][SIGNAL_FILE] == sha256(out / SIGNAL_FILE)
    expected, _ = load(rewire(source, tmp_path / "limit", limit), "float32")
    assert torch.allclose(load(out, "float32")[0](IDS).logits, expected(IDS).logits, atol=1e-5)

    back = rewire(out, tmp_path / "back", "ladder")
    assert identical(weights(back), weights(source))
    assert {file.name for file in back.iterdir()} == {file.name for file in source.iterdir()} | {"ladder.json"}


@pytest.mark.parametrize("chunk", [1000, 4 << 20])
def test_a_trained_first_attention_is_kept_or_taken_out_of_its_file(tmp_path, tokenizer, shape, monkeypatch, chunk):
    monkeypatch.setattr(copying, "CHUNK", chunk)
    model = LadderForCausalLM(LadderConfig(**shape, wiring="fal"))
    torch.nn.init.normal_(model.model.first_attention_norm.weight)
    save(model, tokenizer, tmp_path / "fal", {"model": "tiny", "wiring": "fal", "variant": "pretrained", "seed": 0})
    assert identical(weights(rewire(tmp_path / "fal", tmp_path / "fal+", "fal+")), weights(tmp_path / "fal"))
    without = weights(rewire(tmp_path / "fal", tmp_path / "ladder", "ladder"))
    assert without.keys() == weights(tmp_path / "fal").keys() - {SIGNAL}
    assert identical(without, {name: value for name, value in weights(tmp_path / "fal").items() if name in without})
    verify(tmp_path / "ladder")
    load(tmp_path / "ladder")


def test_what_is_carried(llama, tmp_path):
    """What the model needs, and its terms of use; nothing that could be run."""
    source = llama()
    for name in ("tokenizer.model", "special_tokens_map.json", "added_tokens.json", "LICENSE.txt", "merges.txt"):
        (source / name).write_text("{}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}")
    left = {"pytorch_model.bin", "training_args.pt", "modeling_evil.py", "README.md", "optimizer.pt"}
    for name in left:
        (source / name).write_text("x")
    before = {file.relative_to(source) for file in source.rglob("*") if file.is_file()}
    out = rewire(source, tmp_path / "out", "ladder")
    after = {file.relative_to(out) for file in out.rglob("*") if file.is_file()}
    assert {str(name) for name in before - after} == left
    assert {str(name) for name in after - before} == {"ladder.json"}
    assert "additional_chat_templates/tool.jinja" in verify(out)["sha256"]


KILLED = """
import os, signal, sys
sys.argv = ["ladder"]
from ladder.cli import main
from ladder.model import copying

copying.CHUNK = 1 << 14
copied = 0

def kill(self, count):
    global copied
    copied += count
    if copied > self._progress.total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

copying.Copier._advance = kill
main(["convert", SOURCE, OUT, "--wiring", "ladder", "--record", OUT + ".json"])
"""


def test_killed_while_copying_leaves_nothing_under_the_name(llama, tmp_path):
    source, out = llama(), tmp_path / "out"
    code = KILLED.replace("SOURCE", repr(str(source))).replace("OUT", repr(str(out)))
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"LADDER_TRACKING": "off"})
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert list(tmp_path.glob(".out.*.ladder-part"))  # it was at it
    load(rewire(source, out, "ladder"))
    assert not list(tmp_path.glob(".out.*"))  # nor, after another try, beside it


def test_the_command(llama, tmp_path, capsys, monkeypatch):
    """Twice over the same name; a long copy says how far it is."""
    monkeypatch.setattr(progress, "SECONDS", 0)
    out, record = tmp_path / "out", tmp_path / "r.json"
    words = ["convert", str(llama()), str(out), "--wiring", "spd@1-2", "--tp", "2", "--model", "tiny"]
    for _ in range(2):
        assert main([*words, "--record", str(record)]) == 0
    assert "MB/s, 0 s left" in capsys.readouterr().err
    rows = {row["metric"]: row for row in read_json(record)["rows"]}
    assert rows["layers_converted"]["value"] == 2
    assert rows["bytes"]["value"] == sum(file.stat().st_size for file in out.glob("*.safetensors"))
    assert all((row["wiring"], row["tp"], row["model"]) == ("spd@1-2", 2, "tiny") for row in rows.values())
    found = card(out)
    assert (found["model"], found["wiring"], found["variant"]) == ("tiny", "spd@1-2", "converted")
    assert found["source"] == {"path": words[1], "wiring": "standard", "variant": "original"}


def test_a_long_copy_has_a_bar_on_a_terminal(llama, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    rewire(llama(), tmp_path / "out", "ladder")
    assert "100%" in capsys.readouterr().err
