"""Odd checkpoints mean what they mean to transformers, whichever path reads them."""

import os
import subprocess
import sys

import pytest
import torch
from changes import configured, no_tokenizer, stored
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ladder.cli import main
from ladder.model.checkpoint import load

pytestmark = pytest.mark.slow

IDS = torch.arange(12).view(2, 6)
NORMS = [f"model.layers.{n}.{kind}_layernorm.weight" for n in range(3) for kind in ("input", "post_attention")]


def head_of_its_own(folder):
    configured(folder, tie_word_embeddings=True)


def head_as_tied(folder):
    configured(folder, tie_word_embeddings=True)
    stored(folder, lm_head__weight=load_file(folder / "model.safetensors")["model.embed_tokens.weight"].clone())


def half_with_full_norms(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: value.bfloat16() if name not in NORMS else value for name, value in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    configured(folder, dtype="bfloat16")


def other_dtype(folder):
    configured(folder, dtype="bfloat16")


def no_dtype(folder):
    stored(folder, **{name: value.half() for name, value in load_file(folder / "model.safetensors").items()})
    configured(folder, dtype=...)


def no_positions(folder):
    configured(folder, max_position_embeddings=...)


def null_key_value_heads(folder):
    configured(folder, num_key_value_heads=None)


ODD = [head_of_its_own, head_as_tied, half_with_full_norms, other_dtype, no_dtype, no_positions, null_key_value_heads]
ODD += [no_tokenizer]

RANK = """
import sys
sys.argv = ["ladder"]
import torch
import torch.distributed as dist
from pathlib import Path
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM
import ladder

torch.set_num_threads(1)
dist.init_process_group("gloo")
mesh, found, ids = init_device_mesh("cpu", (2,)), {}, torch.arange(12).view(2, 6)
with torch.no_grad():
    for folder in sorted(Path(FOLDER).iterdir()):
        found[f"{folder.name} load"] = ladder.load(folder, mesh=mesh)[0](ids).logits
        llama = AutoModelForCausalLM.from_pretrained(folder)
        model = ladder.parallelize(llama, mesh)
        found[f"{folder.name} parallelize"] = model(ids).logits
        found[f"{folder.name} tokens"] = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert llama(ids).logits.shape == ids.shape + (64,)
if dist.get_rank() == 0:
    save_file(found, OUT)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory, make_llama):
    """A folder with one checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("odd")
    for kind in ODD:
        kind(make_llama(folder / kind.__name__, shards=1))
    return folder


@pytest.fixture(scope="module")
def two_ranks(odd, tmp_path_factory):
    """What two processes make of them."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "rank.py").write_text(
        RANK.replace("FOLDER", repr(str(odd))).replace("OUT", repr(str(folder / "found.safetensors")))
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "rank.py"]
    done = subprocess.run(run, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind.__name__ for kind in ODD])
def test_every_path_gives_transformers_logits(odd, two_ranks, tmp_path, kind):
    source = odd / kind
    theirs = AutoModelForCausalLM.from_pretrained(source).eval()
    expected = theirs(IDS).logits
    ours, tokenizer = load(source)
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours(IDS).logits, expected)
    assert (tokenizer is None) == (kind == "no_tokenizer")
    error = 1e-5 if ours.dtype == torch.float32 else 0.02
    for path in ("load", "parallelize"):
        assert two_ranks[f"{kind} {path}"].dtype == theirs.dtype
        assert (two_ranks[f"{kind} {path}"] - expected).abs().max() < error
    if theirs.dtype == torch.float32:
        tokens = theirs.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert torch.equal(two_ranks[f"{kind} tokens"], tokens)
    if kind == "no_tokenizer":
        return
    for command in (["convert", "--wiring", "ladder", "--wiring", "standard"], ["export"]):
        out = tmp_path / command[0]
        assert main([*command, str(source), str(out)]) == 0
        again = AutoModelForCausalLM.from_pretrained(out)
        assert again.dtype == theirs.dtype
        assert torch.equal(again(IDS).logits, expected)
