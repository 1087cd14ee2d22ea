"""Checkpoints of other families than Llama: converted, loaded, given back, refused."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from changes import configured
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import ladder
from ladder.cli import main
from ladder.errors import UserError
from ladder.files import sha256
from ladder.model import families
from ladder.model.checkpoint import load
from ladder.model.rewire import rewire
from ladder.model.tiny import tiny
from ladder.reading import read_json

pytestmark = pytest.mark.slow

TAKEN = ["qwen3", "mistral", "gemma2", "olmo2", "granite", "qwen3_moe", "phi3"]
IDS = torch.tensor([[5, 9, 2, 33, 7, 21, 40]])


@pytest.fixture(scope="session")
def family(tmp_path_factory, tokenizer):
    """``family(name)``: the directory of a tiny random model in several files."""
    made = {}

    def make(name):
        if name not in made:
            folder, model = tmp_path_factory.mktemp("families") / name, tiny(name)
            model.save_pretrained(folder, max_shard_size=sum(p.nbytes for p in model.parameters()) * 3 // 5)
            assert len(list(folder.glob("*.safetensors"))) > 1
            for file in tokenizer.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            made[name] = folder
        return made[name]

    return make


@pytest.fixture(scope="session")
def converted(family, tmp_path_factory):
    """``converted(name)``: the directory of the same model under ladder@1-2."""
    made = {}

    def make(name):
        if name not in made:
            out = tmp_path_factory.mktemp("converted") / name
            assert main(["convert", str(family(name)), str(out), "--wiring", "ladder@1-2"]) == 0
            made[name] = out
        return made[name]

    return make


@torch.no_grad()
@pytest.mark.parametrize("name", TAKEN)
def test_a_family_there_and_back(name, family, converted, tmp_path):
    source, out = family(name), converted(name)
    config, original = (read_json(folder / "config.json") for folder in (out, source))
    assert (config["model_type"], config["wiring"]) == (f"ladder_{name}", "ladder@1-2")
    assert config["architectures"] == [f"Ladder{one}" for one in original["architectures"]]
    assert config.keys() - {"wiring"} == original.keys()
    for file in source.glob("*.safetensors"):
        assert sha256(out / file.name) == sha256(file)

    expected = AutoModelForCausalLM.from_pretrained(source)
    model, tokenizer = ladder.load(out)
    assert type(model) is type(expected)
    assert tokenizer.chat_template == "{{ messages }}"
    assert not torch.equal(model(IDS).logits, expected(IDS).logits)
    assert torch.equal(model(IDS).logits, rewire(expected, "ladder@1-2")(IDS).logits)

    assert main(["convert", str(out), str(tmp_path / "standard"), "--wiring", "standard"]) == 0
    assert list(read_json(tmp_path / "standard" / "config.json").items()) == list(original.items())
    assert torch.equal(
        load(tmp_path / "standard")[0](IDS).logits, AutoModelForCausalLM.from_pretrained(source)(IDS).logits
    )


def test_nobody_else_takes_it_for_the_original(converted):
    with pytest.raises(ValueError, match="ladder_qwen3"):
        AutoConfig.from_pretrained(converted("qwen3"))


ELSEWHERE = """
import sys
sys.modules["ladder"] = None  # any import of it fails
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

found, ids = {}, torch.tensor(IDS)
for folder in sorted(Path(FOLDER).iterdir()):
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, trust_remote_code=True)
    assert not any(loading.values()), loading
    model.save_pretrained(Path(AGAIN) / folder.name)
    again = AutoModelForCausalLM.from_pretrained(Path(AGAIN) / folder.name, trust_remote_code=True)
    with torch.no_grad():
        found[f"{folder.name} logits"] = model(ids).logits
        found[f"{folder.name} again"] = again(ids).logits
        found[f"{folder.name} tokens"] = model.generate(ids, HOW)
    for trust in ({}, {"trust_remote_code": False}):
        try:
            AutoModelForCausalLM.from_pretrained(folder, **trust)
        except ValueError as error:
            assert "ladder_" in str(error) or "trust_remote_code" in str(error), error
        else:
            raise AssertionError(f"{folder} was loaded without its code")
save_file(found, OUT)
"""
HOW = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
EXPORTED = ["gemma2", "qwen3_moe"]
MORE = {"fal": ["fal"], "spd": ["spd", "--tp", "2"]}


@pytest.fixture(scope="session")
def elsewhere(family, converted, tmp_path_factory):
    """What a process without this package computes from exported directories; ``<family> logits``, ..."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in EXPORTED:
        assert main(["export", str(converted(name)), str(folder / "exported" / name)]) == 0
    for name, more in MORE.items():
        assert main(["convert", str(family("qwen3")), str(folder / name), "--wiring", *more]) == 0
        assert main(["export", str(folder / name), str(folder / "exported" / name)]) == 0
    code = ELSEWHERE.replace("IDS", repr(IDS.tolist())).replace("FOLDER", repr(str(folder / "exported")))
    code = code.replace("AGAIN", repr(str(folder / "again"))).replace("HOW", f"**{HOW!r}")
    code = code.replace("OUT", repr(str(folder / "found.safetensors")))
    env = os.environ | {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_is_the_same_model_without_the_package(name, converted, elsewhere):
    model, _ = load(converted(name))
    assert torch.equal(elsewhere[f"{name} logits"], model(IDS).logits)
    assert torch.equal(elsewhere[f"{name} again"], model(IDS).logits)
    assert torch.equal(elsewhere[f"{name} tokens"], model.generate(IDS, **HOW))


@torch.no_grad()
@pytest.mark.parametrize("name", MORE)
def test_so_is_one_with_a_norm_of_its_own_or_shares(name, family, elsewhere):
    wiring, _, tp = [*MORE[name], None, None][:3]
    model = rewire(AutoModelForCausalLM.from_pretrained(family("qwen3")), wiring, tp and int(tp))
    assert torch.equal(elsewhere[f"{name} logits"], model(IDS).logits)
    assert torch.equal(elsewhere[f"{name} tokens"], model.generate(IDS, **HOW))


def test_a_rewired_model_is_saved_with_its_wiring(family, tmp_path):
    model = rewire(AutoModelForCausalLM.from_pretrained(family("qwen3")), "ladder@1-2")
    model.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "saved")[0](IDS).logits, model(IDS).logits)


@pytest.fixture
def copied(family, tmp_path):
    """``copied(name, **changes)``: a directory to damage, its config.json changed."""

    def copy(name, **changes):
        shutil.copytree(family(name), tmp_path / "copy")
        configured(tmp_path / "copy", **changes)
        return tmp_path / "copy"

    return copy


@pytest.mark.parametrize(
    ("name", "changes", "more", "words"),
    [
        ("qwen3", {"model_type": "qwen33"}, "ladder", "'qwen33'"),
        ("qwen3", {"model_type": 3}, "ladder", "model_type"),
        ("qwen3", {"architectures": ["Qwen3ForSequenceClassification"]}, "ladder", "Qwen3ForSequenceClassification"),
        ("qwen3", {"intermediate_size": 40}, "ladder", "its config.json says (32, 40)"),
        ("qwen3_moe", {"num_attention_heads": 8}, "ladder", "has shape"),
        ("mistral", {"num_hidden_layers": 2}, "ladder", "unexpected tensor 'model.layers.2"),
        ("mistral", {"num_hidden_layers": 4}, "ladder", "tensor 'model.layers.3"),
        ("qwen3", {"num_hidden_layers": 10**6}, "ladder", "num_hidden_layers"),
        ("qwen3", {"hidden_size": "many"}, "ladder", "hidden_size"),
        ("qwen3", {"quantization_config": {"quant_method": "fp8"}}, "ladder", "quantised (fp8)"),
        ("qwen3", {"wiring": "laddr", "model_type": "ladder_qwen3"}, "ladder", "laddr"),
        ("qwen3", {}, "laddr", "laddr"),
        ("qwen3", {}, "ladder@3", "outside the model"),
        ("qwen3", {}, "ladder --tp 2", "drop --tp"),
        ("qwen3", {}, "partial@1", "say which"),
        ("deepseek_v3", {}, "spd --tp 2", "leaves DeepseekV3Attention whole"),
        ("phi3", {}, "partial --tp 2", "gathers what each rank computes"),
        ("gemma2", {}, "partial --tp 2", "norm the sum"),
        ("qwen2_moe", {}, "partial --tp 2", "no sums"),
        ("qwen3", {}, "upper_bound", "timing only"),
        ("gpt2", {}, "fal", "first_attention_norm"),
        ("gemma2", {}, "parallel", "config.json: cannot be rewired"),
        ("opt", {}, "ladder", "OPTDecoderLayer"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence(name, changes, more, words, copied, tmp_path, capsys):
    source, out = copied(name, **changes), tmp_path / "out"
    assert main(["convert", str(source), str(out), "--wiring", *more.split()]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_family_whose_layers_do_more_is_found_out_before_the_copy(copied, tmp_path, capsys, monkeypatch):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

    forward = Qwen3DecoderLayer.forward
    monkeypatch.setattr(Qwen3DecoderLayer, "forward", lambda self, *args, **kwargs: 2 * forward(self, *args, **kwargs))
    monkeypatch.setattr(families, "_proved", families._proved.__wrapped__)
    assert main(["convert", str(copied("qwen3")), str(tmp_path / "out"), "--wiring", "ladder"]) == 1
    assert "do more than their submodules say" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@torch.no_grad()
@pytest.mark.parametrize(("name", "wiring", "tp"), [("qwen3", "fal@2", None), ("qwen3_moe", "partial", 2)])
def test_a_norm_of_its_own_and_shares_there_and_back(name, wiring, tp, family, tmp_path):
    degree = ["--tp", str(tp)] if tp else []
    line = ["convert", str(family(name)), str(tmp_path / "converted"), "--wiring", wiring, *degree]
    assert main(line) == 0
    model, _ = load(tmp_path / "converted")
    expected = rewire(AutoModelForCausalLM.from_pretrained(family(name)), wiring, tp)
    assert torch.equal(model(IDS).logits, expected(IDS).logits)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(load(tmp_path / "saved")[0](IDS).logits, expected(IDS).logits)
    assert main(["convert", str(tmp_path / "converted"), str(tmp_path / "standard"), "--wiring", "standard"]) == 0
    assert not {"wiring", "tensor_parallel_size"} & read_json(tmp_path / "standard" / "config.json").keys()
    original = AutoModelForCausalLM.from_pretrained(family(name))
    assert torch.equal(load(tmp_path / "standard")[0](IDS).logits, original(IDS).logits)


def test_a_damaged_copy_is_refused(converted, tmp_path):
    shutil.copytree(converted("qwen3"), tmp_path / "copy")
    file = next((tmp_path / "copy").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="digest"):
        load(tmp_path / "copy")


def test_half_precision_and_names_without_the_prefix(family, copied, tmp_path):
    """As older checkpoints of GPT-2 are, whose tensors are called as in the model without its head."""
    source, model = copied("gpt2"), tiny("gpt2").to(torch.bfloat16)
    for file in source.glob("*.safetensors*"):
        file.unlink()
    tensors = {name.removeprefix("transformer."): p.clone() for name, p in model.named_parameters()}
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    configured(source, dtype="bfloat16")
    assert main(["convert", str(source), str(tmp_path / "out"), "--wiring", "parallel"]) == 0
    again, _ = load(tmp_path / "out")
    assert again.dtype is torch.bfloat16
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, rewire(model, "parallel")(IDS).logits)


@torch.no_grad()
def test_a_head_of_its_own_stays_apart(copied, tmp_path):
    source, model = copied("qwen3"), tiny("qwen3")
    configured(source, tie_word_embeddings=True)
    assert main(["convert", str(source), str(tmp_path / "out"), "--wiring", "ladder"]) == 0
    again, _ = load(tmp_path / "out")
    assert not again.config.tie_word_embeddings
    assert torch.equal(again(IDS).logits, rewire(model, "ladder")(IDS).logits)
