"""Exported checkpoints give the same logits and tokens where this package cannot be imported."""

import ast
import copy
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ladder.cli import main
from ladder.files import sha256
from ladder.model.checkpoint import load, save, verify
from ladder.model.export import MODULE, modelling_file
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.reading import read_json

WIRINGS = {"standard": None, "ladder@1-2": None, "parallel": None, "fal": None, "spd": 2, "dtp-1": 2, "desync-4x@1": 2}
IDS = torch.arange(12).view(2, 6)
HOW = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
ELSEWHERE = """
import sys
sys.modules["ladder"] = None  # any import of it fails
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

found, ids = {}, torch.arange(12).view(2, 6)
for folder in sorted(Path(FOLDER).iterdir()):
    trust = {"trust_remote_code": True} if folder.name != "standard" else {}
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **trust)
    assert not any(loading.values()), loading
    with torch.no_grad():
        found[f"{folder.name} logits"] = model(ids).logits
        found[f"{folder.name} inner"] = AutoModel.from_pretrained(folder, **trust)(ids).last_hidden_state
        found[f"{folder.name} tokens"] = model.generate(ids, HOW)
    assert AutoTokenizer.from_pretrained(folder, **trust).chat_template == "{{ messages }}"
    model.save_pretrained(Path(AGAIN) / folder.name)
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(Path(AGAIN) / folder.name, **trust)
        found[f"{folder.name} again"] = again(ids).logits
save_file(found, OUT)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer, shape):
    """{wiring: (checkpoint, model)}"""
    made = {}
    for wiring, tp in WIRINGS.items():
        torch.manual_seed(0)
        model = LadderForCausalLM(LadderConfig(**shape, wiring=wiring, tensor_parallel_size=tp)).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.0)
        folder = tmp_path_factory.mktemp("models") / wiring
        save(model, tokenizer, folder, {"model": "tiny", "wiring": wiring, "tp": tp, "variant": "adapted", "seed": 0})
        made[wiring] = folder, model
    return made


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for wiring, (checkpoint, _) in models.items():
        assert main(["export", str(checkpoint), str(folder / wiring)]) == 0
    return folder


@pytest.fixture(scope="module")
def elsewhere(exported, tmp_path_factory):
    """What a process without this package computes from the exported directories."""
    folder = tmp_path_factory.mktemp("elsewhere")
    code = ELSEWHERE.replace("FOLDER", repr(str(exported))).replace("AGAIN", repr(str(folder / "again")))
    code = code.replace("OUT", repr(str(folder / "found.safetensors"))).replace("HOW", f"**{HOW!r}")
    env = os.environ | {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.slow
def test_the_same_model_without_the_package(models, elsewhere, wiring):
    _, model = models[wiring]
    assert (elsewhere[f"{wiring} logits"] - model(IDS).logits).abs().max() < 1e-5
    assert (elsewhere[f"{wiring} again"] - model(IDS).logits).abs().max() < 1e-5
    assert (elsewhere[f"{wiring} inner"] - model.model(IDS).last_hidden_state).abs().max() < 1e-5
    assert torch.equal(elsewhere[f"{wiring} tokens"], model.generate(IDS, **HOW))


@pytest.mark.parametrize("wiring", WIRINGS)
def test_what_an_export_holds(models, exported, wiring):
    folder, (checkpoint, model) = exported / wiring, models[wiring]
    card = verify(folder)
    assert (card["wiring"], card["tp"], card["variant"]) == (wiring, WIRINGS[wiring], "adapted")
    assert sha256(folder / "model.safetensors") == sha256(checkpoint / "model.safetensors")
    config, text = read_json(folder / "config.json"), (folder / "README.md").read_text()
    assert f"`{wiring}`" in text
    assert ("trust_remote_code=True" in text) == (wiring != "standard") == (folder / f"{MODULE}.py").exists()
    if wiring == "standard":
        assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
        assert "auto_map" not in config
    else:
        assert len(config["wiring_rows"]) == 2 * model.config.num_hidden_layers
        assert config["auto_map"]["AutoModelForCausalLM"] == f"{MODULE}.LadderForCausalLM"


@torch.no_grad()
def test_an_export_is_a_checkpoint_of_this_package_too(models, exported, tmp_path):
    _, model = models["spd"]
    for again in (load(exported / "spd")[0], AutoModelForCausalLM.from_pretrained(exported / "spd")):
        assert type(again) is LadderForCausalLM
        assert torch.equal(again(IDS).logits, model(IDS).logits)
    out = tmp_path / "standard"
    assert main(["convert", str(exported / "spd"), str(out), "--wiring", "standard"]) == 0
    assert not {"auto_map", "wiring_rows", "wiring", "tensor_parallel_size"} & read_json(out / "config.json").keys()


SPLIT = """
import os, sys
sys.modules["ladder"] = None
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

found, ids = {}, torch.arange(12).view(2, 6)
for name in ("ladder@1-2", "spd", "dtp-1", "desync-4x@1"):
    how = {"distributed_config": DistributedConfig(tp_size=2), "trust_remote_code": True}
    model = AutoModelForCausalLM.from_pretrained(Path(FOLDER) / name, **how)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            try:
                found[f"{name} {grad}"] = model(ids).logits.detach()
            except RuntimeError as error:
                assert "tensor_parallel_size in config.json" in str(error)
                found[f"{name} {grad}"] = torch.zeros(0)
if os.environ["RANK"] == "0":
    save_file(found, OUT)
"""


@pytest.fixture(scope="module")
def split(exported, tmp_path_factory):
    """What transformers' own tensor parallelism over two processes makes of the exports; nothing if they refuse."""
    folder = tmp_path_factory.mktemp("split")
    code = SPLIT.replace("FOLDER", repr(str(exported))).replace("OUT", repr(str(folder / "found.safetensors")))
    (folder / "rank.py").write_text(code)
    env = os.environ | {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "rank.py"]
    done = subprocess.run(run, env=env, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("wiring", ["ladder@1-2", "spd", "dtp-1", "desync-4x@1"])
def test_another_engine_s_tensor_parallelism_gives_the_same_function_or_none(models, split, wiring):
    for grad in (False, True):
        found = split[f"{wiring} {grad}"]
        if WIRINGS[wiring] is None:
            assert (found - models[wiring][1](IDS).logits).abs().max() < 1e-5
        else:
            assert found.numel() == 0


@pytest.mark.parametrize("wiring", [wiring for wiring, tp in WIRINGS.items() if tp])
def test_layers_of_another_engine_are_refused_in_a_tied_wiring(models, wiring):
    model = copy.deepcopy(models[wiring][1])
    for layer in model.model.layers:
        layer.self_attn.o_proj = torch.nn.Linear(96, 96, bias=False)
        layer.mlp.down_proj = torch.nn.Linear(256, 96, bias=False)
    with pytest.raises(RuntimeError, match=r"tensor_parallel_size in config\.json"):
        model(IDS)


def test_the_modelling_file_holds_what_is_needed_and_no_more():
    text = modelling_file("ladder@1-2", None)
    assert "ladder@1-2" in ast.get_docstring(ast.parse(text))
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,I"]
    done = subprocess.run([*ruff, "--stdin-filename", "m.py", "-"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for name in ("PATTERNS", "set_wiring", "parse_layers", "import ladder", "from ladder", "AutoConfig"):
        assert name not in text


def test_a_damaged_checkpoint_is_not_exported(models, tmp_path, capsys, tokenizer):
    checkpoint, model = models["parallel"]
    damaged = tmp_path / "damaged"
    save(model, tokenizer, damaged, {"model": "tiny", "wiring": "parallel", "variant": "adapted", "seed": 0})
    content = bytearray((damaged / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(content)
    assert main(["export", str(damaged), str(tmp_path / "out")]) == 1
    assert "the checkpoint is damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["export", str(checkpoint), str(checkpoint)]) == 1
    assert "is the input" in capsys.readouterr().err
