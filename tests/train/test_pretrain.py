"""`ladder pretrain` from tokens to model and record, killed and resumed, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from ladder import cli, reading, records
from ladder.model import load
from ladder.parallel import group
from ladder.tracking import Run
from ladder.train import run
from ladder.wiring import table

SMALL = "--size tiny --sequence 16 --batch 2 --warmup 2 --validation-windows 4 --device cpu"


def words(data, out, more: str = "") -> list[str]:
    where = ["--tokens", data / "tokens", "--tokenizer", data / "tokenizer"]
    where += ["--work", out / "work", "--out", out / "model", "--record", out / "record.json"]
    return ["pretrain", *SMALL.split(), *map(str, where), *more.split()]


def numbers(out) -> dict:
    """What must not depend on interruptions: losses, and the digest of the weights."""
    record = records.read(out / "record.json")
    losses = {r["metric"]: r["value"] for r in record["rows"] if r["unit"] == "nats"}
    curve = [point["loss"] for point in record["curves"]["training"]]
    weights = reading.read_json(out / "model/ladder.json")["sha256"]["model.safetensors"]
    return {"losses": losses, "curve": curve, "validation": record["curves"]["validation"], "weights": weights}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    assert cli.main(words(data, out, "--wiring ladder --steps 4 --evaluate-every 2")) == 0
    return out


def test_record(trained):
    record = records.read(trained / "record.json")
    rows = {row["metric"]: row for row in record["rows"]}
    expected = {"validation_loss", "training_loss", "tokens_per_second", "parameters", "peak_memory"}
    assert set(rows) == expected | {"loader_tokens_per_second"}
    about = {"stage": "pretrain", "run": "tiny-ladder-s0", "model": "tiny", "wiring": "ladder", "variant": "pretrained"}
    for row in rows.values():
        assert row.items() >= (about | {"seed": 0, "origin": "measured"}).items()
    assert rows["validation_loss"]["n"] == 4
    assert rows["validation_loss"]["stderr"] > 0
    assert rows["validation_loss"]["value"] == record["curves"]["validation"][-1]["loss"]
    assert [point["step"] for point in record["curves"]["validation"]] == [0, 2, 4]
    assert set(record["curves"]["training"][0]) == {"step", "tokens", "loss", "grad_norm", "lr", "tokens_per_second"}
    assert record["settings"]["lr"] == 3e-3
    assert 0.1 < rows["peak_memory"]["value"] < 64


def test_model(trained):
    model, tokenizer = load(trained / "model")
    assert model.dtype == torch.float32
    assert model.config.wiring == "ladder"
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)
    card = reading.read_json(trained / "model/ladder.json")
    assert (card["model"], card["wiring"], card["variant"], card["seed"]) == ("tiny", "ladder", "pretrained", 0)
    parameters = next(r for r in records.read(trained / "record.json")["rows"] if r["metric"] == "parameters")
    assert sum(p.numel() for p in model.parameters()) == parameters["value"]


def test_work_is_left_empty(trained):
    assert {path.name for path in (trained / "work").iterdir()} == {".ladder", ".lock"}


@pytest.mark.parametrize("wiring", ["standard", "spd --tp 2", "fal"])
def test_wirings_share_initial_weights_and_data(data, trained, tmp_path, monkeypatch, wiring):
    """The first loss of another wiring differs only by the wiring."""
    from ladder.model.modeling import LadderConfig

    with monkeypatch.context() as patch:
        patch.setattr(LadderConfig, "rows", lambda self: table("ladder", self.num_hidden_layers))
        assert cli.main(words(data, tmp_path, f"--wiring {wiring} --steps 2")) == 0
    assert numbers(tmp_path)["curve"][0] == pytest.approx(numbers(trained)["curve"][0], abs=1e-5)


def test_a_wiring_of_two_ranks(data, tmp_path):
    """Record, card and configuration know the tensor-parallel degree that the weights belong to."""
    assert cli.main(words(data, tmp_path, "--wiring desync-2x --tp 2 --steps 2")) == 0
    assert all(row["tp"] == 2 for row in records.read(tmp_path / "record.json")["rows"])
    card = reading.read_json(tmp_path / "model/ladder.json")
    assert (card["wiring"], card["tp"]) == ("desync-2x", 2)
    assert load(tmp_path / "model")[0].config.tensor_parallel_size == 2


@pytest.mark.slow
def test_kill_9_and_again(data, tmp_path):
    more = "--wiring ladder --steps 60 --checkpoint-every 5"
    assert cli.main(words(data, tmp_path / "whole", more)) == 0
    work = tmp_path / "killed/work"
    command = [sys.executable, "-m", "ladder", *words(data, tmp_path / "killed", more)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        give_up = time.monotonic() + 60
        while not list(work.glob("step-*")) and time.monotonic() < give_up:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert list(work.glob("step-*"))
    assert not (tmp_path / "killed/record.json").exists()
    assert cli.main(words(data, tmp_path / "killed", more)) == 0
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_ended_by_the_watchdog_its_run_is_a_failed_one(data, tmp_path, monkeypatch):
    watch, statuses = SimpleNamespace(), []

    def ended(*_):
        watch.at_end()
        raise SystemExit

    alone = nullcontext(group.Group(0, 1, torch.device("cpu"), watch=watch))
    monkeypatch.setattr(group, "join", lambda *_, **__: alone)
    monkeypatch.setattr(run, "distribute", ended)
    monkeypatch.setattr(Run, "finish", lambda _, status="FINISHED": statuses.append(status))
    with pytest.raises(SystemExit):
        cli.main(words(data, tmp_path, "--wiring ladder --steps 4"))
    assert statuses == ["FAILED"] * 2  # at the end, and as the job itself


def test_killed_before_the_record_was_written(data, trained, tmp_path, monkeypatch):
    """The model is there, the record is not: the rerun trains nothing and reports the same."""
    from ladder.job import Job

    more = "--wiring ladder --steps 4 --evaluate-every 2"

    def finish(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Job, "finish", finish)
        assert cli.main(words(data, tmp_path, more)) == 130
    assert (tmp_path / "model/ladder.json").exists()
    assert cli.main(words(data, tmp_path, more)) == 0
    assert numbers(tmp_path) == numbers(trained)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--size huge", "unknown size 'huge'; known: "),
        ("--wiring lader", "unknown wiring 'lader'; known: "),
        ("--wiring ladder@4-12", "layer 12 in '4-12' is outside the model"),
        ("--wiring upper_bound", "wiring 'upper_bound' is for timing only: no model computes it"),
        ("--wiring spd", "wiring 'spd' lets a rank read its own un-reduced share"),
        ("--tp 2", "wiring 'ladder' is the same function at every tensor-parallel degree; drop --tp"),
        ("--wiring spd --tp 3", "tensor-parallel degree 3 does not divide the model's num_attention_heads (4)"),
        ("--sequence 513", "--sequence 513 is longer than the 512 positions of tiny"),
        ("--batch 5 --micro-batch 2", "--batch 5 is not a multiple of 2"),
        ("--batch 100000", "sequences are fewer than one batch of 100000"),
        ("--shard 2", "--shard 2 does not divide the 1 rank"),
        ("--tokens nowhere", "nowhere/manifest.json: no such file"),
        ("--tokenizer nowhere", "nowhere: no tokenizer there"),
    ],
)
def test_refusals(data, tmp_path, capsys, more, sentence):
    assert cli.main(words(data, tmp_path, f"--wiring ladder {more}")) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(data, tmp_path, capsys):
    assert cli.main(words(data, tmp_path, "--wiring ladder --device cuda")) == 1
    assert "--device cuda: torch finds no GPU on this machine" in capsys.readouterr().err


def test_another_tokenizer(data, tmp_path, capsys):
    shutil.copytree(data / "tokenizer", tmp_path / "other")
    content = json.loads((tmp_path / "other/tokenizer.json").read_text())
    (tmp_path / "other/tokenizer.json").write_text(json.dumps(content))
    assert cli.main(words(data, tmp_path, f"--wiring ladder --tokenizer {tmp_path}/other")) == 1
    assert "made with another tokenizer" in capsys.readouterr().err


def test_truncated_tokens(data, tmp_path, capsys):
    shutil.copytree(data / "tokens", tmp_path / "tokens")
    shard = tmp_path / "tokens/train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    assert cli.main(words(data, tmp_path, f"--wiring ladder --tokens {tmp_path}/tokens")) == 1
    assert f"{shard}: truncated or changed" in capsys.readouterr().err


def test_no_disk(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    assert cli.main(words(data, tmp_path, "--wiring ladder")) == 1
    assert "free some space or put the output elsewhere" in capsys.readouterr().err
