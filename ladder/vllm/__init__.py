"""A plug-in of vLLM: converted models are served by vLLM's own layers, run by their wiring.

vLLM loads it in each of its processes (entry point ``vllm.general_plugins``). Nothing here imports vLLM before that.
"""

from importlib.util import find_spec

from ladder.errors import UserError
from ladder.model.families import SERVED


def check_installed(use: str) -> None:
    """Refuse a ``use`` of vLLM where it is not installed."""
    if find_spec("vllm") is None:
        raise UserError(f'{use} needs vLLM; pip install "ladder-residual[vllm]"')


def register() -> None:
    """Tell transformers and vLLM of every converted model: configuration, model, and the check of vLLM's settings."""
    from transformers import AutoConfig
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

    from ladder.vllm.configs import CONFIGS
    from ladder.vllm.settings import verify_and_update

    hook = type("Settings", (VerifyAndUpdateConfig,), {"verify_and_update_config": staticmethod(verify_and_update)})
    for config in CONFIGS:
        AutoConfig.register(config.model_type, config, exist_ok=True)
    for name in SERVED:
        ModelRegistry.register_model(name, f"ladder.vllm.model:{name}")
        MODELS_CONFIG_MAP[name] = hook
