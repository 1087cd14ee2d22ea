"""Run vLLM in the test's process, as `vllm serve` would, and give what it answered."""

import contextlib
import gc
from typing import NamedTuple

PROMPTS = [[(7 * n + 3 * k) % 127 + 1 for n in range(length)] for k, length in enumerate((5, 40, 1, 23))]
CLOSE = 1e-5  # between log-probabilities
PIECES = {"mode": 3, "compile_sizes": []}  # vLLM's compile pipeline on a GPU, which it does not take for a CPU itself


class Answer(NamedTuple):
    tokens: list[int]  # the new ones
    logprobs: list[float]  # of all tokens but the first

    def differs(self, other: "Answer") -> float:
        """The largest difference of log-probabilities; infinite where tokens differ."""
        if self.tokens != other.tokens or len(self.logprobs) != len(other.logprobs):
            return float("inf")
        return max(abs(a - b) for a, b in zip(self.logprobs, other.logprobs, strict=True))


@contextlib.contextmanager
def engine(folder, tp: int = 1, **how):
    """vLLM's engine of a checkpoint on ``tp`` ranks."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    settings = {
        "dtype": "float32",
        "max_model_len": 128,
        "max_num_batched_tokens": 256,
        "seed": 0,
        "disable_log_stats": True,
    } | how
    llm = LLM(str(folder), tensor_parallel_size=tp, **settings)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()
        gc.collect()


def answers(llm, prompts=PROMPTS, new: int = 16, scored: bool = True) -> list[Answer]:
    """Greedy answers with log-probabilities. scored: of the prompt's tokens too, for which vLLM passes its cache by."""
    from vllm import SamplingParams

    how = SamplingParams(
        temperature=0, max_tokens=new, ignore_eos=True, logprobs=0, prompt_logprobs=0 if scored else None
    )
    results = []
    for given in llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], how, use_tqdm=False):
        output = given.outputs[0]
        ids = [*given.prompt_token_ids[1:], *output.token_ids] if scored else output.token_ids
        steps = [*given.prompt_logprobs[1:], *output.logprobs] if scored else output.logprobs
        logprobs = [step[token].logprob for step, token in zip(steps, ids, strict=True)]
        results.append(Answer(list(output.token_ids), logprobs))
    return results
