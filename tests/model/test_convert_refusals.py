"""What conversion refuses, in one sentence and before anything is written."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from ladder.cli import main
from ladder.errors import UserError
from ladder.files import write_json
from ladder.model.convert import check, convert
from ladder.model.weights import INDEX
from ladder.reading import read_json


def shard_of(folder, number):
    return folder / f"model-0000{number}-of-00002.safetensors"


def change(file, **changes):
    """Replace tensors of a file; None takes one out."""
    found = load_file(file) | {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in found.items() if value is not None}, file)


def damage_truncated(folder):
    shard_of(folder, 2).write_bytes(shard_of(folder, 2).read_bytes()[:-10])
    return "model-00002-of-00002.safetensors: not a whole safetensors file"


def damage_shape(folder):
    change(shard_of(folder, 2), model__norm__weight=torch.ones(95))
    return "'model.norm.weight' has shape (95,), its config.json says (96,)"


def damage_unexpected(folder):
    change(shard_of(folder, 2), model__layers__0__extra=torch.ones(1))
    return "unexpected tensor 'model.layers.0.extra'"


def damage_tensor(folder):
    change(shard_of(folder, 2), model__norm__weight=None)
    return "tensor 'model.norm.weight' is missing"


def damage_twice(folder):
    change(shard_of(folder, 1), model__norm__weight=torch.ones(96))
    return "is in two files, model-00001-of-00002.safetensors and model-00002-of-00002.safetensors"


def damage_shard(folder):
    shard_of(folder, 2).unlink()
    return "model-00002-of-00002.safetensors: this weight file is missing"


def damage_index(folder):
    write_json(folder / INDEX, {"weight_map": {"model.norm.weight": "../model.safetensors"}})
    return "no weight_map from tensors to files beside it"


def damage_pickled(folder):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({}, folder / "pytorch_model.bin")  # a model of random weights, if nobody looked
    return "missing_keys"


def damaged_config(**changes):
    def damage(folder):
        write_json(folder / "config.json", read_json(folder / "config.json") | changes)
        return str(*changes.values()).strip("[']")

    return damage


DAMAGES = [
    damage_truncated,
    damage_shape,
    damage_unexpected,
    damage_tensor,
    damage_twice,
    damage_shard,
    damage_index,
    damage_pickled,
    damaged_config(model_type="gpt2"),
    damaged_config(architectures=["LlamaForSequenceClassification"]),
    damaged_config(hidden_size="many"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_source_that_is_not_whole_is_refused_before_anything_is_written(llama, tmp_path, capsys, damage):
    source, out = llama(), tmp_path / "out"
    words = damage(source)
    before = sorted(tmp_path.iterdir())
    assert main(["convert", str(source), str(out), "--wiring", "ladder", "--record", str(tmp_path / "r.json")]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_quantised_source_is_refused(llama):
    source = llama()
    damaged_config(quantization_config={"quant_method": "gptq"})(source)
    with pytest.raises(UserError, match=r"quantised \(gptq\)"):
        check(source, "ladder")


@pytest.mark.parametrize(
    ("wiring", "tp", "words"),
    [
        ("laddr", None, "unknown wiring"),
        ("ladder@3", None, "outside the model"),
        ("upper_bound", None, "for timing only"),
        ("spd", None, "say which"),
        ("ladder", 2, "drop --tp"),
        ("spd", 3, "3 does not divide the model's num_attention_heads"),
        ("spd", 4, r"4 does not divide the model's num_key_value_heads \(2\)"),
    ],
)
def test_a_wiring_that_cannot_be_is_refused(llama, wiring, tp, words):
    with pytest.raises(UserError, match=words):
        check(llama(num_key_value_heads=2), wiring, tp)


def test_streams_that_end_apart_need_a_vocabulary_that_divides(llama):
    source = llama(vocab_size=66)
    check(source, "desync-2x", 4)
    with pytest.raises(UserError, match="4 does not divide the model's vocab_size"):
        check(source, "dtp-1", 4)


def test_a_damaged_source_is_refused_by_its_digest(llama, tmp_path):
    """Its weights are read once, while they are copied; the copy gets no name."""
    original, source = llama(), tmp_path / "source"
    convert(original, source, "ladder", check(original, "ladder"))
    file = shard_of(source, 2)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    info = check(source, "standard")
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: the checkpoint is damaged"):
        convert(source, tmp_path / "out", "standard", info)
    assert not list(tmp_path.glob("*out*"))
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: the checkpoint is damaged"):
        check(source, "standard")


@pytest.mark.parametrize("place", ["llama", "llama/inside", ".", "file", "full"])
def test_nothing_but_a_checkpoint_is_replaced(llama, tmp_path, capsys, place):
    source, out = llama(), tmp_path / place
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["convert", str(source), str(out), "--wiring", "ladder", "--record", str(tmp_path / "r.json")]) == 1
    assert str(out) in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_no_such_source(tmp_path, capsys):
    assert main(["convert", "./nowhere", str(tmp_path / "o"), "--wiring", "ladder", "--record", "r.json"]) == 1
    assert "./nowhere: no such checkpoint directory" in capsys.readouterr().err
