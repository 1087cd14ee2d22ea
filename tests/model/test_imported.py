"""Checkpoints in other formats become the same model."""

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from ladder.cli import main
from ladder.model.checkpoint import load
from ladder.model.imported import PACKAGED

IDS = torch.tensor([[5, 9, 2, 33, 7]])
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
NAMES |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
NAMES |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def as_gguf(source, file, architecture="llama"):
    """The Llama of a directory as llama.cpp has it: other names, rotary halves of queries and keys interleaved."""
    model = LlamaForCausalLM.from_pretrained(source)
    config, writer = model.config, gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = [*(chr(33 + i) for i in range(config.vocab_size - 1)), '!"']
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(['! "'])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    outside = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    outside |= {"lm_head.weight": "output.weight"}
    for name, value in model.state_dict().items():
        value = value.numpy()
        if name.startswith("model.layers."):
            _, _, layer, *rest = name.split(".")
            module, kind = ".".join(rest[:-1]), rest[-1]
            name = f"blk.{layer}.{NAMES[module]}.{kind}"
            if "attn_q" in name or "attn_k" in name:
                heads = config.num_attention_heads if "attn_q" in name else config.num_key_value_heads
                value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        else:
            name = outside[name]
        writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def convert(source, out, wiring="ladder@1-2"):
    return main(["convert", str(source), str(out), "--wiring", wiring, "--record", str(out.with_suffix(".json"))])


def logits(folder):
    with torch.no_grad():
        return load(folder)[0](IDS).logits


def test_a_gguf_file_is_the_model_it_was_made_of(llama, tmp_path):
    file = as_gguf(llama(), tmp_path / "it.gguf")
    assert convert(file, tmp_path / "out") == convert(tmp_path / "llama", tmp_path / "expected") == 0
    assert torch.equal(logits(tmp_path / "out"), logits(tmp_path / "expected"))
    assert load(tmp_path / "out")[1].decode([5, 9]) == "&*"
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "folder").mkdir()
    file.rename(tmp_path / "folder" / "it.gguf")
    assert convert(tmp_path / "folder", tmp_path / "plain", "standard") == 0
    assert torch.equal(logits(tmp_path / "plain"), LlamaForCausalLM.from_pretrained(tmp_path / "llama")(IDS).logits)


def test_pickled_weights_are_read_without_running_anything(llama, tmp_path):
    source = llama(shards=1)
    weights = load_file(source / "model.safetensors")
    torch.save(weights, source / "pytorch_model.bin")
    assert convert(source, tmp_path / "expected") == 0
    (source / "model.safetensors").unlink()
    assert convert(source, tmp_path / "out") == 0
    assert torch.equal(logits(tmp_path / "out"), logits(tmp_path / "expected"))


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def evil(source):
    torch.save({"model.norm.weight": Evil()}, source / "pytorch_model.bin")
    return source


def torn(source):
    file = as_gguf(source, source.parent / "it.gguf")
    file.write_bytes(file.read_bytes()[:2000])
    return file


def other(source):
    return as_gguf(source, source.parent / "it.gguf", "mamba9")


def two(source):
    for name in ("a", "b"):
        (source / f"{name}.gguf").write_bytes(b"GGUF")
    return source


@pytest.mark.parametrize("damage", [evil, torn, other, two])
def test_what_cannot_be_read_is_one_sentence(llama, tmp_path, monkeypatch, capsys, damage):
    monkeypatch.chdir(tmp_path)
    source = damage(llama(shards=1))
    if source.is_dir():
        (source / "model.safetensors").unlink()
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert convert(source, tmp_path / "out") == 1
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("ladder convert:")] == said[-1:]
    assert "Traceback" not in "\n".join(said)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_stands_for_the_file_of_an_installed_package(llama, tmp_path, monkeypatch, capsys):
    file = as_gguf(llama(), tmp_path / "it.gguf")
    monkeypatch.setitem(PACKAGED, "smollm2", ("gguf", "1.0", str(file)))  # relative to where that is installed
    assert convert("smollm2", tmp_path / "out") == convert(file, tmp_path / "expected") == 0
    assert torch.equal(logits(tmp_path / "out"), logits(tmp_path / "expected"))
    monkeypatch.setitem(PACKAGED, "smollm2", ("no-such-package", "1.0", "it.gguf"))
    assert convert("smollm2", tmp_path / "none") == 1
    said = capsys.readouterr().err
    assert "no-such-package==1.0" in said.splitlines()[-1]
    assert "Traceback" not in said
