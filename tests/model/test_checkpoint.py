"""Checkpoints: saved, loaded, verified, and read by slices."""

import pytest
import torch

from ladder.errors import UserError
from ladder.files import write_json
from ladder.model.checkpoint import Checkpoint, load, reader, save, verify
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.slicing import part
from ladder.model.weights import tensors
from ladder.parallel.shard import shard
from ladder.reading import read_json

IDS = torch.arange(12)[None]


def saved(folder, tokenizer, shape, wiring="standard", tp=None):
    torch.manual_seed(0)
    model = LadderForCausalLM(LadderConfig(**shape, wiring=wiring, tensor_parallel_size=tp)).eval()
    save(model, tokenizer, folder, {"model": "tiny", "wiring": wiring, "tp": tp, "variant": "pretrained", "seed": 3})
    return model


@torch.no_grad()
@pytest.mark.parametrize(("wiring", "tp"), [("standard", None), ("ladder", None), ("fal", None), ("spd", 2)])
def test_save_and_load(tmp_path, tokenizer, shape, wiring, tp):
    model = saved(tmp_path / "m", tokenizer, shape, wiring, tp)
    again, own = load(tmp_path / "m")
    card, config = verify(tmp_path / "m"), read_json(tmp_path / "m" / "config.json")
    assert (card["model"], card["wiring"], card["tp"], card["seed"]) == ("tiny", wiring, tp, 3)
    assert config.get("tensor_parallel_size") == tp
    assert own.chat_template == "{{ messages }}"
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_a_damaged_checkpoint_is_refused(tmp_path, tokenizer, shape):
    saved(tmp_path / "m", tokenizer, shape)
    file = tmp_path / "m" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: the checkpoint is damaged"):
        load(tmp_path / "m")
    file.unlink()
    with pytest.raises(UserError, match="is missing"):
        load(tmp_path / "m")


def test_a_degree_that_does_not_fit_is_refused_in_one_sentence(tmp_path, tokenizer, shape):
    saved(tmp_path / "m", tokenizer, shape, "spd", 2)
    (tmp_path / "m" / "ladder.json").unlink()
    config = tmp_path / "m" / "config.json"
    write_json(config, read_json(config) | {"tensor_parallel_size": 3})
    with pytest.raises(UserError, match=r"config\.json: tensor-parallel degree 3 does not divide") as error:
        load(tmp_path / "m")
    assert "\n" not in str(error.value)


class Counting:
    """``slices`` that counts the elements read."""

    def __init__(self, weight):
        self.weight, self.elements = weight, {}

    def __call__(self, name, parameter):
        self.reading, self.stored = name, self.weight(name, parameter)
        self.shape = parameter.shape
        return self

    def __getitem__(self, index):
        value = self.stored[index]
        self.elements[self.reading] = value.numel()
        return value


@pytest.mark.parametrize(("wiring", "changes"), [("ladder", {}), ("fal", {"tie_word_embeddings": True})])
def test_a_rank_reads_its_slices_only(tmp_path, tokenizer, shape, wiring, changes):
    whole = dict(saved(tmp_path / "m", tokenizer, shape | changes, wiring).named_parameters())
    config = LadderConfig(**shape | changes, wiring=wiring)
    read = Counting(reader(Checkpoint.open(tmp_path / "m"), torch.bfloat16))
    with torch.device("meta"):
        model = LadderForCausalLM(config)
    shard(model, 1, 4, read, copy=False)
    for name, parameter in model.named_parameters():
        expected = part(whole[name], name, 1, 4, config)
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, expected.bfloat16())
        split = name.endswith("proj.weight")
        assert read.elements[name] == whole[name].numel() // (4 if split else 1)


def test_slices_check_names_and_shapes(tmp_path, tokenizer, shape):
    saved(tmp_path / "m", tokenizer, shape)
    weight = reader(Checkpoint.open(tmp_path / "m"), None)
    assert weight("model.norm.weight").shape == (shape["hidden_size"],)
    config = tmp_path / "m" / "config.json"
    write_json(config, read_json(config) | {"intermediate_size": 128})
    with pytest.raises(UserError, match="has shape"):
        reader(Checkpoint.open(tmp_path / "m"), None)


def test_tensors_are_found_by_their_headers(tmp_path, tokenizer, shape):
    model = saved(tmp_path / "m", tokenizer, shape, "fal")
    found = tensors(tmp_path / "m")
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tuple(value.shape) for name, value in model.state_dict().items()
    }
