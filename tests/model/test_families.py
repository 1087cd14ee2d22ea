"""Checkpoints of other families than Llama: converted, loaded, given back, refused."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import ladder
from ladder.cli import main
from ladder.files import sha256
from ladder.model.checkpoint import load
from ladder.model.rewire import rewire
from ladder.model.tiny import tiny
from ladder.reading import read_json

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
