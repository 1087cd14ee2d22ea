"""Names and files of the simulator: what is impossible is refused before anything is made of it."""

import json
import re

import pytest

from ladder import records
from ladder.cli import main
from ladder.errors import UserError
from ladder.model.shapes import of_config
from ladder.model.sizes import size
from ladder.simulate.calibration import DEFAULT, load
from ladder.wiring import table


@pytest.mark.parametrize("text", ["0-99999999999", "9" * 5000, "0,7-" + "1" * 30, "٣", "1-٣", "8", "3-1"])
def test_layers_that_are_refused(text):
    with pytest.raises(UserError) as error:
        table(f"ladder@{text}", 8)
    assert len(str(error.value)) < 250


def test_a_table_knows_neighbours():
    rows = table("desync-nx@1-2,4", 6, 2)
    assert [row.lag for row in rows] == [0, 0, 0, 1, 2, 3, 0, 0, 0, 1, 0, 0]
    # A module that is ahead of a standard layer's outputs reads its rank's share of them.
    assert [row.own for row in table("dtp-2@2", 4, 2)] == [0, 0, 1, 1, 1, 1, 0, 0]
    assert len(table("dtp-3@0,2-8998", 9000, 8)) == 18_000


@pytest.mark.parametrize("name", ["ladder-99999999999", "desync-" + "9" * 5000 + "x", "ladder-٣", "dtp-03"])
def test_numbers_of_a_family_are_bounded(name):
    with pytest.raises(UserError, match="unknown wiring"):
        table(name, 8, 2)


@pytest.mark.parametrize("name", ["llama-3-8b-99999999l", "llama-3-8b-٣l", "llama-3-8b-0l", "llama-3-8b-1001l"])
def test_sizes_are_bounded(name):
    with pytest.raises(UserError):
        size(name)


CONFIG = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 8, "intermediate_size": 96}
CONFIG |= {"vocab_size": 100, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"num_key_value_heads": 0},
        {"num_key_value_heads": 3},
        {"num_attention_heads": 8.5},
        {"num_attention_heads": True},
        {"hidden_size": 65},
        {"num_hidden_layers": 10**9},
        {"vocab_size": "100"},
        {"intermediate_size": None},
        {"head_dim": 0},
        {"model_type": "mamba2"},
        {"kv_lora_rank": 512},
        {"num_local_experts": 8},
        {"layer_types": ["full_attention"]},
        {"layer_types": ["linear_attention"] * 4},
        {"tie_word_embeddings": "no"},
    ],
    ids=str,
)
def test_configs_that_cannot_be_counted(tmp_path, change):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | {"num_key_value_heads": None}))
    assert of_config(path).kv_heads == 8
    path.write_text(json.dumps(CONFIG | change))
    with pytest.raises(UserError, match=re.escape(str(path))):
        of_config(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tp", "3"], "tp = 3"),
        (["--tp", "1000000"], "tp = 1000000"),
        (["--tp", "128"], "tp = 128 does not divide the 64 attention heads"),
        (["--link", "1e999us+370GB/s"], "1e999us"),
        (["--link", "1.2.3us+370GB/s"], "1.2.3us"),
        (["--link", "1us+1e400GB/s"], "1e400"),
        (["--link", "1us+1GB/sx0"], "x0"),
        (["--link", "1us+1GB/sx999999999"], "x999999999"),
        (["--link", "٣us+1GB/s"], "unknown link"),
        (["--batch", "99999999999"], "batch = 99999999999"),
        (["--wirings", "ladder@0-99999999999"], "99999999999"),
    ],
)
def test_simulations_that_are_impossible(words, said, capsys):
    assert main(["simulate", *words]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_degrees_above_the_kv_heads_are_possible(capsys):
    assert main(["simulate", "--tp", "16", "--wirings", "standard"]) == 0


def changed(path: str, value):
    def change(content: dict) -> None:
        *parents, key = path.split("/")
        for parent in parents:
            content = content[int(parent) if isinstance(content, list) else parent]
        if value is None:
            del content[int(key) if isinstance(content, list) else key]
        else:
            content[int(key) if isinstance(content, list) else key] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("parameters/matmul", None),
        ("parameters/matmul", -0.5),
        ("parameters/matmul", float("nan")),
        ("parameters/matmul", "0.5"),
        ("parameters/nvlink.switch", None),
        ("parameters/surplus", 1.0),
        ("parameters/nvlink.latency_us.٣", 1.0),
        ("covariance/3", None),
        ("covariance/3/2", None),
        ("covariance/3/3", -1.0),
        ("covariance/3/2", 7.0),
        ("fitted/0", "surplus"),
        ("fitted/1", ["x"]),
        ("hardware", "h300"),
        ("residual/speedup", None),
        ("quantile", -1),
    ],
)
def test_calibrations_that_are_refused(tmp_path, path, value):
    content = json.loads(DEFAULT.read_text())
    changed(path, value)(content)
    file = tmp_path / "c.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(str(file))):
        load(file)


RECORD = {
    "schema": 1,
    "provenance": {"mlflow_run_id": None, "commit": "abc"},
    "rows": [{"metric": "loss", "value": 1.5, "unit": "nats", "origin": "measured", "seed": 0}],
    "curves": {"training": [{"step": 1, "loss": 2.0}]},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rows", None),
        ("provenance", None),
        ("schema", None),
        ("rows/0/seed", "zero"),
        ("rows/0/value", None),
        ("rows/0/value", "1.5"),
        ("rows/0/value", True),
        ("rows/0/tp", 2.0),
        ("rows/0/unit", 3),
        ("rows/0/colour", "blue"),
        ("rows/0", "x"),
        ("provenance/mlflow_run_id", 3),
        ("curves/training/0", 3),
        ("curves/training/0/loss", "low"),
    ],
)
def test_records_that_are_refused(tmp_path, path, value):
    content = json.loads(json.dumps(RECORD))
    file = tmp_path / "deep" / "record.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    assert records.read(file)["rows"] == RECORD["rows"]
    changed(path, value)(content)
    file.write_text(json.dumps(content))
    for read in (records.read, lambda _: records.read_all([tmp_path])):  # one of a directory is not passed over
        with pytest.raises(UserError, match=re.escape(str(file))):
            read(file)


def test_what_is_no_record_is_named(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps(RECORD))
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    (tmp_path / "list.json").write_text("[]")
    assert [record["path"] for record in records.read_all([tmp_path])] == ["a.json"]
    assert "list.json, tokenizer.json" in capsys.readouterr().err
