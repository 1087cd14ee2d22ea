"""What cannot be a checkpoint is refused in one sentence, and no code that comes with one runs."""

import json
import os
import subprocess
import sys

import pytest
import torch
from changes import configured, no_tokenizer, stored

from ladder.cli import main
from ladder.errors import UserError
from ladder.files import write_json
from ladder.model.checkpoint import load
from ladder.model.opened import Checkpoint
from ladder.model.shapes import of_config
from ladder.reading import read_json


def replaced(name, text):
    def change(folder):
        (folder / name).write_text(text)

    change.__name__ = f"{name} {text[:20]}"
    return change


def changed(**changes):
    def change(folder):
        configured(folder, **changes)

    change.__name__ = str(changes)[:60]
    return change


def leaving_link(folder):
    file = folder / "model.safetensors"
    file.rename(folder.parent / "elsewhere.safetensors")
    file.symlink_to(folder.parent / "elsewhere.safetensors")


def leaving_license(folder):
    (folder / "LICENSE").symlink_to("/etc/hostname")


def integers(folder):
    stored(folder, model__norm__weight=torch.ones(96, dtype=torch.int32))


def huge_tokenizer(folder):
    with (folder / "tokenizer.json").open("ab") as file:
        file.truncate(1 << 30)  # a hole: nothing is written


def sentencepiece_only(folder):
    no_tokenizer(folder)
    (folder / "tokenizer.model").write_bytes(b"x")


REFUSED = [
    (changed(num_attention_heads=0), "num_attention_heads"),
    (changed(num_attention_heads=8.5), "num_attention_heads is 8.5"),
    (changed(num_attention_heads=7, head_dim=24), "num_attention_heads 7"),
    (changed(num_key_value_heads=0), "num_key_value_heads is 0"),
    (changed(num_key_value_heads=3), "num_key_value_heads 3"),
    (changed(head_dim=7), "head_dim is 7"),
    (changed(hidden_size=True), "hidden_size is true"),
    (changed(pad_token_id=64), "pad_token_id is 64"),
    (changed(eos_token_id=[2, 99]), "eos_token_id is 99"),
    (changed(bos_token_id="one"), "bos_token_id"),
    (changed(hidden_act="swash"), "swash"),
    (changed(rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}), "spiral"),
    (changed(rope_parameters=..., rope_scaling={"type": "spiral", "factor": 2.0}), "spiral"),
    (changed(rope_parameters=7), "rope_parameters is 7"),
    (changed(num_hidden_layers=100000), "num_hidden_layers is 100000"),
    (changed(num_hidden_layers=9999), "num_hidden_layers is 9999"),
    (changed(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    (changed(vocab_size=10**12), "vocab_size"),
    (changed(quantization_config="awq"), "awq"),
    (changed(wiring=5), "wiring is 5"),
    (changed(wiring="lader"), "lader"),
    (changed(wiring="spd", tensor_parallel_size=3, model_type="ladder"), "degree 3"),
    (changed(wiring="spd", model_type="ladder"), "config.json: wiring 'spd'"),
    (changed(tensor_parallel_size="two"), "tensor_parallel_size"),
    (changed(dtype="int8"), "dtype is 'int8'"),
    (changed(tie_word_embeddings="yes"), "tie_word_embeddings"),
    (changed(mlp_bias=None), "mlp_bias is null"),
    (changed(num_labels=10**12), "num_labels"),
    (changed(architectures="LlamaForCausalLM"), "architectures"),
    (changed(max_position_embeddings=0), "max_position_embeddings is 0"),
    (changed(rms_norm_eps="small"), "rms_norm_eps"),
    (replaced("config.json", "[]"), "config.json: holds a list"),
    (replaced("config.json", '{"hidden_size": Infinity}'), "Infinity"),
    (replaced("config.json", "[" * 100000), "nested too deeply"),
    (replaced("config.json", '{"hidden_size": 1, "hidden_size": 2}'), "'hidden_size' stands there twice"),
    (replaced("ladder.json", "[]"), "ladder.json"),
    (replaced("ladder.json", '{"model": 5}'), "model is 5"),
    (replaced("ladder.json", '{"sha256": {"../x": "0"}}'), "../x"),
    (replaced("ladder.json", '{"sha256": ["x"]}'), "sha256"),
    (replaced("ladder.json", '{"sha256": "x"}'), "sha256"),
    (replaced("ladder.json", '{"wiring": "ladder"}'), "wiring is 'ladder'"),
    (replaced("generation_config.json", "3"), "generation_config.json"),
    (replaced("tokenizer.json", ""), "tokenizer.json"),
    (replaced("tokenizer.json", '{"model": {"type": "WordLe'), "tokenizer.json"),
    (replaced("tokenizer.json", "[]"), "tokenizer.json"),
    (replaced("tokenizer.json", '{"model": {"type": "Quantum"}}'), "tokenizer.json"),
    (replaced("tokenizer_config.json", "[]"), "tokenizer_config.json"),
    (replaced("special_tokens_map.json", "7"), "special_tokens_map.json"),
    (leaving_link, "leads out of the directory"),
    (leaving_license, "leads out of the directory"),
    (integers, "I32"),
    (huge_tokenizer, "tokenizer.json: has 1,073,741,824 bytes"),
    (sentencepiece_only, "tokenizer.model"),
    (no_tokenizer, "tokenizer.json"),
]


@pytest.mark.parametrize(("damage", "words"), REFUSED, ids=lambda value: getattr(value, "__name__", None))
def test_what_cannot_be_is_one_sentence(llama, tmp_path, capsys, damage, words):
    source = llama(shards=1)
    damage(source)
    assert main(["convert", str(source), str(tmp_path / "out"), "--wiring", "ladder"]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert str(source) in error
    assert error.count("\n") == 1
    assert len(error) < 600
    assert not (tmp_path / "out").exists()
    if damage is not no_tokenizer:  # for that, see above
        with pytest.raises(UserError) as again:
            load(source)
        assert "\n" not in str(again.value)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 5}}', '{"weight_map": {"a": ".."}}']
)
def test_an_index_that_is_none(llama, text):
    source = llama()
    (source / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=r"index\.json"):
        load(source)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
        ({"num_attention_heads": 8.5}, "num_attention_heads is 8.5"),
        ({"num_attention_heads": 7}, "num_attention_heads 7"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
def test_a_configuration_alone(llama, changes, words):
    file = llama() / "config.json"
    configured(file.parent, **changes)
    with pytest.raises(UserError, match=words) as error:
        of_config(file)
    assert str(file) in str(error.value)


def test_a_hub_s_cache_links_to_its_blobs(llama, tmp_path):
    source, hub = llama(shards=1), tmp_path / "models--a--b"
    (hub / "snapshots" / "commit").mkdir(parents=True)
    (hub / "blobs").mkdir()
    for file in source.iterdir():
        (hub / "blobs" / file.name).write_bytes(file.read_bytes())
        (hub / "snapshots" / "commit" / file.name).symlink_to(f"../../blobs/{file.name}")
    Checkpoint.open(hub / "snapshots" / "commit")


def test_an_end_of_sequence_in_the_special_tokens_alone(llama):
    from ladder.data.tokenizer import load as core

    source = llama()
    config = read_json(source / "tokenizer_config.json")
    write_json(source / "tokenizer_config.json", {k: v for k, v in config.items() if k != "eos_token"})
    write_json(source / "special_tokens_map.json", {"eos_token": "#"})
    assert core(source)[1] == Checkpoint.open(source).needed_tokenizer(eos=True).eos_token_id == 2


@pytest.mark.parametrize(
    ("template", "words"),
    [(None, "no chat template"), ([{"name": "tool_use", "template": "x"}], "none is called 'default'")],
)
def test_a_chat_template_that_is_needed(llama, template, words):
    source = llama()
    (source / "chat_template.jinja").unlink(missing_ok=True)
    config = read_json(source / "tokenizer_config.json")
    config.pop("chat_template", None)
    write_json(source / "tokenizer_config.json", config | ({"chat_template": template} if template else {}))
    with pytest.raises(UserError, match=words):
        Checkpoint.open(source).needed_tokenizer(template=True)
    source.joinpath("chat_template.jinja").write_text("{{ messages }}")
    Checkpoint.open(source).needed_tokenizer(template=True)


CODE = "open(__import__('os').environ['RAN'], 'w')\n"


@pytest.mark.parametrize("command", ["tokenizer", "convert", "export"])
def test_code_of_a_checkpoint_never_runs_and_is_not_carried(llama, tmp_path, monkeypatch, command):
    source, out = llama(), tmp_path / "out"
    monkeypatch.setenv("LADDER_TRACKING", "off")
    code = {"AutoTokenizer": ["evil.Evil", None], "AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    config = read_json(source / "tokenizer_config.json")
    eos = {"eos_token": "#", "auto_map": code}
    write_json(source / "tokenizer_config.json", config | eos)
    configured(source, auto_map=code)
    (source / "evil.py").write_text(CODE)
    words = [command, str(source), str(out)] + ["--wiring", "ladder"] * (command == "convert")
    if command == "tokenizer":
        words = [command, "--from", str(source), "--out", str(out), "--record", str(tmp_path / "r.json")]
    answers = subprocess.run(
        [sys.executable, "-m", "ladder", *words],
        input="y\n" * 9,
        capture_output=True,
        text=True,
        env=os.environ | {"RAN": str(tmp_path / "ran"), "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert answers.returncode == 0, answers.stderr
    assert not (tmp_path / "ran").exists()
    assert "y/N" not in answers.stdout + answers.stderr
    assert not (out / "evil.py").exists()
    assert not [file for file in out.glob("*.json") if "evil" in file.read_text()]
    if command != "tokenizer":
        load(out)  # its digests are those of what was written


def test_a_tokenizer_that_needs_code_is_refused(llama, tmp_path, capsys):
    source = llama()
    config = read_json(source / "tokenizer_config.json")
    code = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (source / "tokenizer_config.json").write_text(json.dumps(config | code))
    (source / "evil.py").write_text("1 / 0")
    assert (
        main(["tokenizer", "--from", str(source), "--out", str(tmp_path / "o"), "--record", str(tmp_path / "r")]) == 1
    )
    error = capsys.readouterr().err
    assert "--from" in error
    assert error.count("\n") == 1
