"""Checkpoints and their conversion: bit-identical weights, and refusal before anything is written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ladder.cli import main
from ladder.errors import UserError
from ladder.files import read_json, write_json
from ladder.model.checkpoint import load, save, verify
from ladder.model.convert import check, convert
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.sizes import size

SHAPE = size("tiny").config(num_hidden_layers=3, vocab_size=64, tie_word_embeddings=False)
IDS = torch.arange(12)[None]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from tokenizers import Tokenizer, models

    folder = tmp_path_factory.mktemp("tokenizer")
    vocab = {chr(33 + i): i for i in range(64)}
    core = Tokenizer(models.WordLevel(vocab, unk_token="!"))
    PreTrainedTokenizerFast(tokenizer_object=core, chat_template="{{ messages }}").save_pretrained(folder)
    return folder


@pytest.fixture
def source(tmp_path, tokenizer):
    """A foreign Llama directory, in two shards with an index."""
    torch.manual_seed(0)
    folder = tmp_path / "llama"
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder, max_shard_size="300KB")
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert (folder / "model.safetensors.index.json").exists()
    return folder


def tensors(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def test_weights_are_bit_identical_and_the_function_is_ladders(source, tmp_path):
    out = tmp_path / "out"
    convert(source, out, "ladder@1-2", check(source, "ladder@1-2"))
    before, after = tensors(source), tensors(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    model, tokenizer = load(out)
    assert model.config.wiring == "ladder@1-2"
    assert tokenizer.chat_template == "{{ messages }}"
    reference = LadderForCausalLM(LadderConfig(**SHAPE, wiring="ladder@1-2")).eval()
    reference.load_state_dict(before)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, reference(IDS).logits)
        assert torch.equal(AutoModelForCausalLM.from_pretrained(out)(IDS).logits, reference(IDS).logits)


def test_back_to_standard_is_a_plain_llama(source, tmp_path):
    convert(source, tmp_path / "ladder", "ladder", check(source, "ladder"))
    convert(tmp_path / "ladder", tmp_path / "standard", "standard", check(tmp_path / "ladder", "standard"))
    config = read_json(tmp_path / "standard" / "config.json")
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert "wiring" not in config
    with torch.no_grad():
        original = LlamaForCausalLM.from_pretrained(source)(IDS).logits
        assert torch.equal(LlamaForCausalLM.from_pretrained(tmp_path / "standard")(IDS).logits, original)


def test_save_and_load(tmp_path, tokenizer):
    torch.manual_seed(0)
    model = LadderForCausalLM(LadderConfig(**SHAPE, wiring="ladder")).eval()
    info = {"model": "tiny", "wiring": "ladder", "variant": "pretrained", "seed": 3}
    save(model, tokenizer, tmp_path / "m", info)
    again, _ = load(tmp_path / "m")
    card = verify(tmp_path / "m")
    assert {key: card[key] for key in info} == info
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


def damage_truncate(folder):
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-10])
    return file.name


def damage_shape(folder):
    file = folder / "model-00001-of-00002.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    weights[name] = weights[name][:, :-1].contiguous() if weights[name].ndim > 1 else weights[name][:-1].contiguous()
    save_file(weights, file)
    return name


def damage_extra(folder):
    file = next(folder.glob("*.safetensors"))
    save_file(load_file(file) | {"model.layers.0.extra": torch.ones(1)}, file)
    return "unexpected tensor 'model.layers.0.extra'"


def damage_missing(folder):
    file = folder / "model-00002-of-00002.safetensors"
    file.unlink()
    return "this weight file is missing"


def damage_type(folder):
    write_json(folder / "config.json", read_json(folder / "config.json") | {"model_type": "gpt2"})
    return "model_type 'gpt2' cannot be rewired"


@pytest.mark.parametrize("damage", [damage_truncate, damage_shape, damage_extra, damage_missing, damage_type])
def test_a_source_that_is_not_whole_is_refused_before_anything_is_written(source, tmp_path, capsys, damage):
    if len(list(source.glob("*.safetensors"))) != 2:  # the damages name shards
        shards = sorted(source.glob("*.safetensors"))
        merged = {}
        for shard in shards[1:]:
            merged |= load_file(shard)
            shard.unlink()
        first = shards[0].rename(source / "model-00001-of-00002.safetensors")
        save_file(merged, source / "model-00002-of-00002.safetensors")
        index = dict.fromkeys(load_file(first), first.name)
        index |= dict.fromkeys(merged, "model-00002-of-00002.safetensors")
        write_json(source / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    words = damage(source)
    out = tmp_path / "out"
    assert main(["convert", str(source), str(out), "--wiring", "ladder", "--record", str(tmp_path / "r.json")]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("wiring", "words"),
    [("laddr", "unknown wiring"), ("ladder@3", "outside the model"), ("upper_bound", "for timing only")],
)
def test_a_wiring_that_cannot_be_is_refused(source, wiring, words):
    with pytest.raises(UserError, match=words):
        check(source, wiring)


def test_no_such_source(tmp_path, capsys):
    assert main(["convert", "./nowhere", str(tmp_path / "o"), "--wiring", "ladder", "--record", "r.json"]) == 1
    assert "./nowhere: no such checkpoint directory" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(tmp_path, tokenizer):
    model = LadderForCausalLM(LadderConfig(**SHAPE))
    info = {"model": "tiny", "wiring": "standard", "variant": "pretrained", "seed": 0}
    save(model, tokenizer, tmp_path / "m", info)
    file = tmp_path / "m" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: the checkpoint is damaged"):
        load(tmp_path / "m")
    file.unlink()
    with pytest.raises(UserError, match="is missing"):
        load(tmp_path / "m")


def test_no_pickle(source, tmp_path):
    """A checkpoint whose weights are pickled is refused, not loaded."""
    for file in source.glob("*.safetensors*"):
        file.unlink()
    torch.save({}, source / "pytorch_model.bin")
    with pytest.raises(UserError, match="only safetensors checkpoints are read"):
        check(source, "ladder")


def test_the_card_is_json(source, tmp_path):
    convert(source, tmp_path / "out", "parallel", check(source, "parallel"))
    card = json.loads((tmp_path / "out" / "ladder.json").read_text())
    assert (card["wiring"], card["variant"], card["source"]["variant"]) == ("parallel", "converted", "original")
