"""What a converted model is refused with, in a sentence, before vLLM starts anything."""

from types import SimpleNamespace

import pytest

from ladder.errors import UserError
from ladder.vllm import settings

PARALLEL = ("pipeline_parallel_size", "data_parallel_size", "decode_context_parallel_size")
PARALLEL += ("prefill_context_parallel_size",)


def asked(wiring="ladder", degree=None, tp=1, *, vocab=128, parallel=(), model=(), **more):
    """A configuration of vLLM's, as far as it is looked at."""
    shape = {"num_hidden_layers": 4, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": vocab}
    config = SimpleNamespace(**shape, wiring=wiring, tensor_parallel_size=degree)
    ranks = dict.fromkeys(PARALLEL, 1) | {"tensor_parallel_size": tp, "enable_expert_parallel": False}
    ranks |= {"use_ubatching": False} | dict(parallel)
    of_model = {"hf_config": config, "model": "DIR", "quantization": None, "runner_type": "generate"} | dict(model)
    others = {"lora_config": None, "speculative_config": None, "additional_config": {"a": 1}} | more
    return SimpleNamespace(model_config=SimpleNamespace(**of_model), parallel_config=SimpleNamespace(**ranks), **others)


@pytest.mark.parametrize(
    ("words", "asking"),
    [
        (("spd", "2", "tensor-parallel-size 3"), asked("spd", 3, 2)),
        (("9 heads", "3 KV heads"), asked(tp=2)),
        (("128 tokens",), asked(tp=3)),
        (("190", "192"), asked("dtp-1", 3, 3, vocab=190)),
        (("nonsense",), asked("nonsense")),
        (("--pipeline-parallel-size",), asked(parallel={"pipeline_parallel_size": 2})),
        (("--enable-expert-parallel",), asked(parallel={"enable_expert_parallel": True})),
        (("--enable-lora",), asked(lora_config={})),
        (("--speculative-config",), asked(speculative_config={})),
        (("--quantization",), asked(model={"quantization": "fp8"})),
        (("--runner",), asked(model={"runner_type": "pooling"})),
    ],
)
def test_refused(words, asking):
    with pytest.raises(UserError) as refused:
        settings.verify_and_update(asking)
    assert all(word in str(refused.value) for word in words)


def test_the_wiring_is_part_of_the_compile_cache(monkeypatch):
    monkeypatch.setattr(settings, "compile_in_pieces", lambda *_: None)  # asks vLLM
    keys = set()
    for wiring, degree, tp in (("ladder", None, 1), ("spd", 1, 1), ("parallel", None, 3)):
        config = asked(wiring, degree, tp, vocab=192)
        settings.verify_and_update(config)
        keys.add(str(config.additional_config))
    assert len(keys) == 3
