"""`ladder bench train`: a record of each wiring's steps; what it refuses; the loss beside it."""

import math

import pytest
import torch

from ladder import cli, records
from ladder.bench import train
from ladder.cost import part, training_flops
from ladder.errors import UserError
from ladder.model import LadderConfig, LadderForCausalLM
from ladder.model.sizes import size
from ladder.train import layout
from ladder.train.speed import peak

WORDS = (
    "bench train --size tiny --layers 2 --sequence 16 --micro-batch 2 --steps 3 --device cpu --wirings standard ladder"
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_record(tmp_path, capsys, precision):
    assert cli.main([*WORDS.split(), "--precision", precision, "--record", str(tmp_path / "r.json")]) == 0
    record = records.read(tmp_path / "r.json")
    rows = {(row.get("wiring"), row["metric"]): row for row in record["rows"]}
    assert set(rows) == {
        *((wiring, f"train_{what}") for wiring in ("standard", "ladder") for what in ("seconds", "tokens_per_second")),
        *((wiring, "train_loss") for wiring in ("standard", "ladder")),
        ("ladder", "train_speedup"),
        (None, "peak_memory"),
    }
    about = {"model": "tiny", "timed_layers": 2, "batch": 2, "dtype": precision, "compute": "eager", "n": 3}
    assert rows["ladder", "train_seconds"].items() >= about.items()
    seconds, speed = (rows["ladder", f"train_{what}"]["value"] for what in ("seconds", "tokens_per_second"))
    assert speed == pytest.approx(32 / seconds)
    assert rows["ladder", "train_loss"]["value"] == pytest.approx(math.log(2048), rel=0.05)
    assert record["settings"]["wirings"] == ["standard", "ladder"]
    assert "tokens/s" in capsys.readouterr().err


def test_what_is_compiled_computes_the_same(tmp_path, capsys, monkeypatch):
    def broken(model):
        with torch.no_grad():
            model.model.norm.weight.mul_(2)

    monkeypatch.setattr(layout, "compile_modules", broken)
    assert cli.main([*WORDS.split(), "--precision", "fp32", "--compile", "--record", str(tmp_path / "r.json")]) == 1
    assert "standard: the first step's loss is " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    train.compare({"ladder": 1.0}, {"ladder": 1.005}, "bf16")
    with pytest.raises(UserError, match="compiled and"):
        train.compare({"ladder": 1.0}, {"ladder": math.nan}, "bf16")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--wirings spd", "wiring 'spd' has parameters or ranks of its own"),
        ("--wirings fal", "wiring 'fal' has parameters or ranks of its own"),
        ("--wirings upper_bound", "wiring 'upper_bound' is for timing only"),
        ("--sequence 513", "--sequence 513 is longer than the 512 positions of tiny"),
        ("--layers 0", "--layers 0 must be at least 1"),
        ("--steps 0", "--steps 0 must be at least 1"),
        ("--size huge", "unknown size 'huge'"),
    ],
)
def test_refusals(tmp_path, capsys, more, sentence):
    assert cli.main([*WORDS.split(), *more.split(), "--record", str(tmp_path / "r.json")]) == 1
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_flops_of_a_token():
    """6 for each weight of a matrix product, forward and backward, and causal attention at half of its square."""
    shape = size("tiny")
    config = LadderConfig(**shape.config())
    weights = shape.parameters
    attention = 3 * 2 * 2 * shape.layers * shape.hidden * 128 / 2
    assert (
        training_flops(part(config), weights, 128)
        == training_flops(part(shape), weights, 128)
        == 6 * weights + attention
    )
    apart = LadderConfig(**shape.config(tie_word_embeddings=False))
    more = sum(p.numel() for p in LadderForCausalLM(apart).parameters())
    assert part(apart).weights == more
    assert more - part(apart).looked_up == weights  # a look-up multiplies nothing


def test_the_share_of_the_peak(monkeypatch):
    rows = train.summary({"ladder": [0.5] * 4}, tokens=1000, work=1e9, peak=4e12)
    assert {row["metric"]: row["value"] for row in rows}["train_mfu"] == 0.5
    assert peak(torch.device("cpu"), "bf16") is None
    gpu = torch.device("cuda", 0)
    for name, found in (("NVIDIA H200", 989.4e12), ("NVIDIA H200 NVL", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak(gpu, "bf16") == found
    assert peak(gpu, "fp32") is None
