"""What a converted model can be served with: checked before vLLM starts anything, and set so that sums run beside work.

Refused is what was not tested, and what would compute another function.
"""

from typing import TYPE_CHECKING

from ladder.errors import UserError
from ladder.residual import Table
from ladder.vllm.communicator import OPERATORS, overlapped
from ladder.wiring import Wiring

if TYPE_CHECKING:
    from vllm.config import VllmConfig

# vLLM's own list, which ours replaces (CompilationConfig.set_splitting_ops_for_v1).
CACHE_UPDATES = ("vllm::unified_kv_cache_update", "vllm::unified_mla_kv_cache_update")
PADDING = 64  # vLLM pads the vocabulary to a multiple of it, and then splits it


def verify_and_update(vllm_config: "VllmConfig") -> None:
    """vLLM's hook for a model's demands of its configuration. Raises UserError for what it cannot be served with."""
    wiring, table = wiring_of(vllm_config.model_config.hf_config)
    check_degree(vllm_config, wiring, table)
    check_untested(vllm_config)
    # Part of the key of vLLM's compile cache.
    vllm_config.additional_config = {**vllm_config.additional_config, "ladder": f"{wiring} {wiring.tp}"}
    compile_in_pieces(vllm_config, any(overlapped(table)))


def wiring_of(config) -> tuple[Wiring, Table]:
    """Of a converted model's configuration. Raises UserError."""
    wiring = Wiring.parse(config.wiring, getattr(config, "tensor_parallel_size", None))
    return wiring, wiring.of_model(config.num_hidden_layers).table(config.num_hidden_layers)


def check_degree(vllm_config: "VllmConfig", wiring: Wiring, table: Table) -> None:
    """Refuse a tensor-parallel degree at which the model is another function, or cannot be split."""
    config, size = vllm_config.model_config.hf_config, vllm_config.parallel_config.tensor_parallel_size
    if wiring.tied and size != wiring.tp:
        raise UserError(
            f"wiring '{wiring}' of {vllm_config.model_config.model} belongs to tensor-parallel degree {wiring.tp}, and "
            f"is another function at {size}; serve it with --tensor-parallel-size {wiring.tp}"
        )
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % size or (kv_heads % size and size % kv_heads):
        raise UserError(
            f"--tensor-parallel-size {size} does not split {vllm_config.model_config.model}, which has {heads} heads "
            f"and {kv_heads} KV heads; choose another"
        )
    padded = -(-config.vocab_size // PADDING) * PADDING
    if padded % size:
        raise UserError(
            f"--tensor-parallel-size {size} does not split {vllm_config.model_config.model}, whose {config.vocab_size} "
            f"tokens vLLM pads to {padded}; choose another"
        )
    if table.ends_apart and padded != config.vocab_size:
        raise UserError(
            f"wiring '{wiring}' splits the vocabulary over the ranks, and vLLM pads its {config.vocab_size} tokens to "
            f"{padded} first, which would split it elsewhere; pad the model's vocabulary to that"
        )


def check_untested(vllm_config: "VllmConfig") -> None:
    """Refuse what converted models have not been tested with."""
    parallel = vllm_config.parallel_config
    asked = {
        "--pipeline-parallel-size": parallel.pipeline_parallel_size > 1,
        "--enable-expert-parallel": parallel.enable_expert_parallel,
        "--enable-dbo": parallel.use_ubatching,
        "--data-parallel-size": parallel.data_parallel_size > 1,
        "--decode-context-parallel-size": parallel.decode_context_parallel_size > 1,
        "--prefill-context-parallel-size": parallel.prefill_context_parallel_size > 1,
        "--enable-lora": vllm_config.lora_config is not None,
        "--speculative-config": vllm_config.speculative_config is not None,
        "--quantization": vllm_config.model_config.quantization is not None,
        "--runner": vllm_config.model_config.runner_type != "generate",
    }
    if refused := [name for name, used in asked.items() if used]:
        raise UserError(
            f"{refused[0]} is not yet for converted models ({vllm_config.model_config.model}); leave it out, or serve "
            "the original (`ladder convert --wiring standard`)"
        )


def compile_in_pieces(vllm_config: "VllmConfig", split: bool) -> None:
    """Have the model compiled so that its modules run in their order: in vLLM's pieces, or not at all.

    split: launch and wait run between pieces, on one rank too; what is compiled whole was seen to give wrong tokens
    there as well, where a module's output is not read by the next module.
    """
    from vllm.config import CompilationConfig
    from vllm.platforms import current_platform

    compilation = vllm_config.compilation_config
    if current_platform.is_cpu() and compilation.mode is None:
        vllm_config.model_config.enforce_eager = True  # vLLM compiles for the CPU whole, without pieces
    if compilation.use_inductor_graph_partition:
        raise UserError(
            "compilation_config.use_inductor_graph_partition lets Inductor move sums over ranks, which gives wrong "
            "tokens; leave it out"
        )
    if split:
        if compilation.splitting_ops is None:
            compilation.splitting_ops = [*CompilationConfig._attention_ops, *CACHE_UPDATES]
        compilation.splitting_ops += [name for name in OPERATORS if name not in compilation.splitting_ops]
        compilation.pass_config.fuse_allreduce_rms = False  # there is nothing between the two


def check_compiled(vllm_config: "VllmConfig") -> None:
    """Refuse a model that vLLM, when all is settled, would compile whole."""
    from vllm.config import CompilationMode

    mode = vllm_config.compilation_config.mode
    if mode not in (CompilationMode.NONE, CompilationMode.VLLM_COMPILE):
        raise UserError(
            f"compilation_config.mode {mode} compiles a converted model whole, where Inductor moves its modules (wrong "
            "tokens); pass --enforce-eager"
        )
