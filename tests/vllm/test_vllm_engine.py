"""What an engine does to requests changes no token; families besides Llama; what is refused when an engine starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from served import CLOSE, PIECES, PROMPTS, answers, engine

pytest.importorskip("vllm.version", reason="needs vLLM: make test-vllm")
pytestmark = pytest.mark.usefixtures("forked")


def test_chunks_cached_prefixes_and_preemption(model, expected):
    """Prompts longer than a step, of which three begin alike, in a cache that does not hold all of them to the end."""
    from vllm import SamplingParams

    folder = model("ladder")
    start = [n % 127 + 1 for n in range(64)]
    prompts = [[*start, k] for k in (1, 2, 3)] + [PROMPTS[0], PROMPTS[3]]
    cramped = {"max_num_batched_tokens": 32, "max_num_seqs": 8, "block_size": 32, "num_gpu_blocks_override": 8}
    with engine(folder, tp=2, enforce_eager=True, disable_log_stats=False, **cramped) as llm:
        results = answers(llm, prompts, new=40, scored=False)
        again = llm.generate([{"prompt_token_ids": [*start, 9]}], SamplingParams(max_tokens=1), use_tqdm=False)
        counts = {metric.name: getattr(metric, "value", None) for metric in llm.get_metrics()}
    for result, wanted in zip(results, expected(folder, prompts, new=40), strict=True):
        assert result.differs(wanted._replace(logprobs=wanted.logprobs[-40:])) <= CLOSE
    assert again[0].num_cached_tokens > 0
    assert counts["vllm:num_preemptions"] > 0


FAMILIES = {
    "mistral": {"sliding_window": None, "head_dim": 32},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
}


@pytest.mark.parametrize("tp", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, tp, tmp_path, plain, expected):
    from ladder.cli import main

    folder = plain(family, tmp_path / "plain", **FAMILIES[family])
    assert main(["convert", str(folder), str(tmp_path / "ladder"), "--wiring", "ladder"]) == 0
    with engine(tmp_path / "ladder", tp=tp, enforce_eager=True) as llm:
        differences = [a.differs(b) for a, b in zip(answers(llm), expected(tmp_path / "ladder"), strict=True)]
    assert max(differences) <= CLOSE


@pytest.mark.parametrize(
    ("word", "wiring", "tp", "how"),
    [
        ("spd", "spd", 1, {}),
        ("--pipeline-parallel-size", "ladder", 1, {"pipeline_parallel_size": 2}),
        ("--enable-lora", "ladder", 1, {"enable_lora": True}),
        ("--quantization", "ladder", 1, {"quantization": "fp8"}),
        ("use_inductor_graph_partition", "ladder", 2, {"compilation_config": {"use_inductor_graph_partition": True}}),
        (
            "--speculative-config",
            "ladder",
            1,
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}},
        ),
    ],
)
def test_refused(word, wiring, tp, how, model):
    with pytest.raises(ValueError, match=word), engine(model(wiring, {"spd": 2}.get(wiring)), tp=tp, **how):
        pass


@pytest.mark.slow
def test_nine_heads_on_three_ranks(plain, expected, tmp_path, monkeypatch):
    """SmolLM2-135M's: 9 heads, 3 KV heads."""
    from ladder.cli import main

    heads = {"hidden_size": 288, "num_attention_heads": 9, "num_key_value_heads": 3}
    heads |= {"vocab_size": 192, "tie_word_embeddings": True}
    folder = plain("llama", tmp_path / "plain", **heads)
    assert main(["convert", str(folder), str(tmp_path / "ladder"), "--wiring", "ladder@1-3"]) == 0
    with pytest.raises(ValueError, match="9 heads"), engine(tmp_path / "ladder", tp=2):
        pass
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1|1")
    with engine(tmp_path / "ladder", tp=3) as llm:
        differences = [a.differs(b) for a, b in zip(answers(llm), expected(tmp_path / "ladder"), strict=True)]
    assert max(differences) <= CLOSE


@pytest.mark.parametrize("wiring", ["ladder", "parallel"])
def test_compiled_whole_is_refused(wiring, model):
    """As vLLM compiles for a CPU: it gave other tokens, also on one rank."""
    with pytest.raises(ValueError, match="--enforce-eager"), engine(model(wiring), compilation_config={"mode": 3}):
        pass


@pytest.mark.parametrize("wiring", ["ladder", "parallel"])
def test_pieces_on_one_rank(wiring, model, expected, pieces):
    with engine(model(wiring), compilation_config=PIECES) as llm:
        differences = [a.differs(b) for a, b in zip(answers(llm), expected(model(wiring)), strict=True)]
    assert max(differences) <= CLOSE


def test_export_runs_by_the_plugin(model, expected, tmp_path):
    from ladder.cli import main

    assert main(["export", str(model("parallel")), str(tmp_path / "exported")]) == 0
    with engine(tmp_path / "exported", enforce_eager=True) as llm:
        kind = llm.apply_model(lambda model: type(model).__module__)
        differences = [a.differs(b) for a, b in zip(answers(llm), expected(model("parallel")), strict=True)]
    assert kind == ["ladder.vllm.model"]
    assert max(differences) <= CLOSE


ALONE = """
from served import answers, engine

with engine({folder!r}, model_impl="transformers", trust_remote_code=True, enforce_eager=True) as llm:
    print([answer.tokens for answer in answers(llm)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("wiring", ["spd", "parallel"])
def test_export_without_the_plugin(wiring, model, expected, tmp_path):
    """In vLLM's Transformers backend: own shares are refused, anything else is right (and sums at once)."""
    from ladder.cli import main

    folder, exported = model(wiring, {"spd": 2}.get(wiring)), tmp_path / "exported"
    assert main(["export", str(folder), str(exported)]) == 0
    environment = os.environ | {"VLLM_PLUGINS": "none", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", ALONE.format(folder=str(exported))]
    run = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    if wiring == "spd":
        assert run.returncode == 1
        assert "does not compute each rank's share" in run.stderr
    else:
        assert str([answer.tokens for answer in expected(folder)]) in run.stdout
