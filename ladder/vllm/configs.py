"""The configurations of converted models, for transformers and so for vLLM: the family's own under another model type.

``wiring`` and ``tensor_parallel_size`` are read from config.json as they are; ladder.vllm.settings checks them.
"""

from transformers import MistralConfig, Qwen2Config, Qwen3Config, Qwen3MoeConfig

from ladder.model.modeling import LadderConfig


class LadderMistralConfig(MistralConfig):
    model_type = "ladder_mistral"


class LadderQwen2Config(Qwen2Config):
    model_type = "ladder_qwen2"


class LadderQwen3Config(Qwen3Config):
    model_type = "ladder_qwen3"


class LadderQwen3MoeConfig(Qwen3MoeConfig):
    model_type = "ladder_qwen3_moe"


CONFIGS = (LadderConfig, LadderMistralConfig, LadderQwen2Config, LadderQwen3Config, LadderQwen3MoeConfig)
