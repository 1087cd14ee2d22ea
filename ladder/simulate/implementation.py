"""What the simulated code does: two implementations of one model differ in kernels, attention, head and sampling."""

from dataclasses import dataclass, replace

from ladder.errors import unknown_name


@dataclass(frozen=True)
class Implementation:
    """Counts are of one rank and one forward pass.

    attention_kernels, mlp_kernels, head_kernels: kernels that each launches, norm and addition included.
    expands_kv: K and V are read once for each query head, instead of once for each of their own heads.
    whole_cache: decode attention reads all positions that the cache has room for, instead of those filled so far.
    score_passes: times that prefill writes or reads the matrix of scores; 0: a fused kernel never writes it, and skips
    the half that the causal mask hides.
    all_logits: prefill computes logits of all positions, instead of the last. logit_copies: copies of them in memory.
    sharded_head: embeddings and head are split over the ranks.
    step_us: microseconds of a decode step beside the model: sampling, and the host between two steps.
    steps_less: decode steps fewer than new tokens (1: prefill gives the first of them). dtype_bytes: of a number.
    prefill_tokens: that prefill takes at once, which only its memory depends on; None: those of all sequences.
    weight_bytes: of a weight of the layers, if it is another; head, embedding, cache and messages stay as they are, and
    so does the peak of the matrix products.
    """

    words: str
    attention_kernels: int
    mlp_kernels: int
    head_kernels: int
    expands_kv: bool
    whole_cache: bool
    score_passes: int
    all_logits: bool
    logit_copies: int
    sharded_head: bool
    step_us: float
    steps_less: int = 1
    dtype_bytes: int = 2
    prefill_tokens: int | None = None
    weight_bytes: float | None = None

    @property
    def layer_bytes(self) -> float:
        """Of a weight of the layers."""
        return self.weight_bytes or self.dtype_bytes


IMPLEMENTATIONS = {
    # Decode is compiled and runs in CUDA graphs, attention is written out so that it can be compiled, and prefill is
    # compiled without graphs. step_us is assumed: fifteen small kernels that sample from 128,256 logits, one replay.
    "published": Implementation(
        "the paper's benchmark (gpt-fast): torch.compile, written-out attention, head on every rank",
        attention_kernels=9,
        mlp_kernels=6,
        head_kernels=3,
        expands_kv=True,
        whole_cache=True,
        score_passes=8,
        all_logits=True,
        logit_copies=2,
        sharded_head=False,
        step_us=200.0,
    ),
    "ladder": Implementation(
        "this project's `ladder bench`: compiled pieces, grouped heads, head on every rank",
        attention_kernels=7,
        mlp_kernels=4,
        head_kernels=2,
        expands_kv=False,
        whole_cache=True,
        score_passes=0,
        all_logits=False,
        logit_copies=1,
        sharded_head=False,
        step_us=20.0,
        steps_less=0,
    ),
    "serving": Implementation(
        "a serving engine: fused attention over filled positions, sharded head",
        attention_kernels=6,
        mlp_kernels=4,
        head_kernels=2,
        expands_kv=False,
        whole_cache=False,
        score_passes=0,
        all_logits=False,
        logit_copies=2,
        sharded_head=True,
        step_us=200.0,
    ),
}
IMPLEMENTATIONS["ladder-fp32"] = replace(
    IMPLEMENTATIONS["ladder"], words="`ladder bench` on a CPU, in fp32", dtype_bytes=4, step_us=50.0
)
# Weights alone are quantised. int4: 128 weights share a 16-bit scale and a 4-bit zero, as in AWQ and GPTQ.
WEIGHTS = {"bf16": 2.0, "fp8": 1.0, "int4": 0.5 + 2.5 / 128}
CHUNK = 8192  # tokens that engines prefill at once, of one prompt or of several
IMPLEMENTATIONS |= {
    f"serving-{name}": replace(
        IMPLEMENTATIONS["serving"],
        words=f"a serving engine with chunked prefill, {name} weights in the layers",
        prefill_tokens=CHUNK,
        weight_bytes=size,
    )
    for name, size in WEIGHTS.items()
}


def implementation(name: str) -> Implementation:
    """The row called ``name``. Raises UserError with the known names."""
    if name not in IMPLEMENTATIONS:
        raise unknown_name("implementation", name, IMPLEMENTATIONS)
    return IMPLEMENTATIONS[name]
