"""Tiny models under every wiring, and what transformers computes of them."""

import os
import shutil

import pytest

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in the test's process; ranks beside it are its children
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0|1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",  # threads would not survive a fork
    "VLLM_LOGGING_LEVEL": "WARNING",
}

import torch
from served import PROMPTS, Answer

from ladder.model.checkpoint import load, save
from ladder.model.modeling import LadderConfig, LadderForCausalLM

SHAPE = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 192}
SHAPE |= {"num_hidden_layers": 4, "vocab_size": 128, "max_position_embeddings": 256, "dtype": "float32"}


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """``model(wiring, tp=None)``: the directory of a tiny Llama under that wiring, the weights always the same."""
    made = {}

    def make(wiring: str, tp: int | None = None):
        if (wiring, tp) not in made:
            torch.manual_seed(0)
            tiny = LadderForCausalLM(LadderConfig(**SHAPE, wiring=wiring, tensor_parallel_size=tp)).eval()
            scatter(tiny)
            folder = made[wiring, tp] = tmp_path_factory.mktemp("models") / f"{wiring}-{tp}"
            info = {"model": "tiny", "wiring": wiring, "tp": tp, "variant": "adapted", "seed": 0}
            save(tiny, tokenizer(tmp_path_factory), folder, info)
        return made[wiring, tp]

    return make


def scatter(model) -> None:
    """Values that make the tokens differ."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.0)
        else:
            torch.nn.init.normal_(parameter, 0, 0.1)


def tokenizer(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(128)}, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    how = {"eos_token": "w127", "chat_template": "{{ messages }}"}
    PreTrainedTokenizerFast(tokenizer_object=core, **how).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def expected():
    """``expected(folder)``: transformers' greedy answers to the prompts, by this package's own model."""

    @torch.no_grad()
    def answers(folder, prompts=PROMPTS, new: int = 16) -> list[Answer]:
        reference, _ = load(folder, dtype="float32")
        how = {
            "do_sample": False,
            "max_new_tokens": new,
            "min_new_tokens": new,
            "pad_token_id": 0,
            "eos_token_id": None,
        }
        results = []
        for prompt in prompts:
            ids = reference.generate(torch.tensor([prompt]), **how)
            scores = reference(ids).logits[0, :-1].log_softmax(-1)
            logprobs = scores.gather(1, ids[0, 1:, None]).flatten()
            results.append(Answer(ids[0, len(prompt) :].tolist(), logprobs.tolist()))
        return results

    return answers


@pytest.fixture
def forked(monkeypatch):
    """Ranks are forked from this process, which has imported everything; vLLM for the CPU would start them anew."""
    from vllm.platforms.cpu import CpuPlatform

    checked = CpuPlatform.check_and_update_config

    def then_fork(config):
        checked(config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", staticmethod(then_fork))


@pytest.fixture
def pieces(forked, monkeypatch, tmp_path):
    """Compile as vLLM does on a GPU, in pieces, where it would compile the whole graph for the CPU; the cache's folder,
    in which vLLM writes down the graph that it runs."""
    from vllm.compilation.passes.utility.fix_functionalization import FixFunctionalizationPass
    from vllm.config import CompilationMode
    from vllm.platforms.cpu import CpuPlatform

    checked = CpuPlatform.check_and_update_config

    def in_pieces(config):
        compilation = config.compilation_config
        mode, backend = compilation.mode, compilation.backend
        checked(config)
        compilation.mode, compilation.backend = mode, backend
        assert mode == CompilationMode.VLLM_COMPILE

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", staticmethod(in_pieces))
    monkeypatch.setattr(FixFunctionalizationPass, "__call__", lambda self, graph: None)  # it names operators of CUDA
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def plain(tmp_path_factory):
    """``plain(family, folder, ...)``: a tiny model of a family as transformers writes it."""

    def make(family: str, folder, **changes):
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE | changes)).float()
        scatter(model)
        model.save_pretrained(folder)
        return shutil.copytree(tokenizer(tmp_path_factory), folder, dirs_exist_ok=True)

    return make
