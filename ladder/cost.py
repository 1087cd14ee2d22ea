"""What one rank holds, keeps and multiplies, counted from a model's shape: weights by part, memory, FLOPs (no torch).

Everything but :func:`part` reads a :class:`Part`: the widths of one rank, and the weights that follow from them.
Another family than Llama needs a ``Part`` of its own and nothing else here. Weights and caches are exact, activations
are estimates. Degrees, batches and lengths may be arrays over points, as the simulator has them; then so are results.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

GIB = 2**30
RESERVED = 0.6e9  # bytes that the allocator and the libraries' workspaces hold beside what is counted here
CONTEXT = 1.0e9  # bytes of a device that no allocator gets: CUDA's context and the communicator's buffers
# Hidden states that live at once in prefill beside those of sums under way: the stream, what is read of it, its norm,
# partial outputs, and what is being added up.
STREAMS = 8


@dataclass(frozen=True)
class Part:
    """A Llama's part on one rank. queries, keys (as many values), intermediate: features of its projections; vocab:
    rows of embedding and head. signal: the wiring adds a norm of the first attention. Properties count weights, unless
    they say otherwise."""

    layers: int
    hidden: int
    head_dim: int
    queries: int
    keys: int
    intermediate: int
    vocab: int
    tied: bool
    attention_bias: bool = False
    mlp_bias: bool = False
    signal: bool = False

    @property
    def attention(self) -> int:
        """Of one layer, without its norm."""
        biases = self.queries + 2 * self.keys + self.hidden if self.attention_bias else 0
        return 2 * self.hidden * (self.queries + self.keys) + biases

    @property
    def mlp(self) -> int:
        """Of one layer, without its norm."""
        return 3 * self.hidden * self.intermediate + (2 * self.intermediate + self.hidden if self.mlp_bias else 0)

    @property
    def norms(self) -> int:
        return self.hidden * (2 * self.layers + 1 + self.signal)

    @property
    def head(self) -> int:
        return self.vocab * self.hidden

    @property
    def looked_up(self) -> int:
        """Of an embedding that is not also the head: it multiplies nothing."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def outside(self) -> int:
        """Of what is neither attention nor MLP."""
        return self.norms + self.head + self.looked_up

    @property
    def weights(self) -> int:
        return self.layers * (self.attention + self.mlp) + self.outside

    @property
    def largest(self) -> int:
        """Of the largest matrix."""
        return self.hidden * max(self.vocab, self.queries, self.intermediate)

    @property
    def kept(self) -> tuple[int, int]:
        """Numbers a token that eager code keeps inside of attention (queries and keys before and after rotation,
        values, output) and of MLP (gate, its activation, up, product)."""
        return 3 * self.queries + 4 * self.keys, 4 * self.intermediate

    def kv(self, batch, length):
        """Numbers in a KV cache of ``length`` positions."""
        return 2 * self.layers * self.keys * batch * length


@dataclass(frozen=True)
class Counted(Part):
    """Of another family than Llama: its weights are counted on the model, its activations estimated as a Llama's."""

    counted: int = 0

    @property
    def weights(self) -> int:
        return self.counted


def part(model, tp=1, split_vocabulary: bool = False, signal: bool = False) -> Part:
    """Of the fullest of ``tp`` ranks; where there are more ranks than KV heads, each holds one.

    model: a :class:`ladder.model.sizes.Size`, a Hugging Face Llama's config, or the Part itself.
    split_vocabulary: embeddings and head are split too. signal: see :class:`Part`.
    """
    if isinstance(model, Part):
        return model
    of = model if hasattr(model, "hidden_size") else SimpleNamespace(**model.config())
    head = getattr(of, "head_dim", None) or of.hidden_size // of.num_attention_heads
    queries, keys = (-(-count // tp) * head for count in (of.num_attention_heads, of.num_key_value_heads))
    width, vocab = (-(-count // tp) for count in (of.intermediate_size, of.vocab_size))
    vocab = vocab if split_vocabulary else of.vocab_size
    biases = {key: getattr(of, key, False) for key in ("attention_bias", "mlp_bias")}
    shape = (of.num_hidden_layers, of.hidden_size, head, queries, keys, width, vocab, of.tie_word_embeddings)
    return Part(*shape, **biases, signal=signal)


def counted(config, weights: int) -> Counted:
    """Of a model of another family with so many ``weights``, on one rank. config: Hugging Face's."""
    of = config.get_text_config(decoder=True)
    heads = getattr(of, "num_attention_heads", 1)
    head = getattr(of, "head_dim", None) or of.hidden_size // heads
    keys = getattr(of, "num_key_value_heads", None) or heads
    width = getattr(of, "intermediate_size", None) or 4 * of.hidden_size
    widths = (of.num_hidden_layers, of.hidden_size, head, heads * head, keys * head, width, of.vocab_size)
    return Counted(*widths, bool(getattr(config, "tie_word_embeddings", False)), counted=weights)


def eager_prefill(part: Part, batch: int, prompt: int, dtype_bytes: int, in_flight: int) -> int:
    """Bytes of activations at the peak of an eager prefill, an estimate.

    Per token STREAMS + ``in_flight`` hidden states (of sums under way), and the larger of the norm (two in fp32) and
    the widest module. Then the logits of the last position. Attention itself is a fused kernel, without a matrix of
    scores.
    """
    states = (STREAMS + in_flight) * part.hidden * dtype_bytes
    token = states + max(2 * 4 * part.hidden, max(part.kept) * dtype_bytes)
    return batch * prompt * token + batch * part.vocab * dtype_bytes


def compiled_prefill(part: Part, batch, prompt, *, scores: bool, all_logits: bool, logit_copies: int):
    """Numbers at the peak of a compiled prefill, an estimate: the larger of a layer's activations, with the matrix of
    ``scores`` if there is one, and the copies of the logits of all positions or the last, beside the stream."""
    tokens = batch * prompt
    attention = 6 * part.queries + (2 * prompt * part.queries / part.head_dim if scores else 0)
    layer = tokens * (4 * part.hidden + np.maximum(attention, 5 * part.intermediate))
    logits = logit_copies * (tokens if all_logits else batch) * part.vocab
    return np.maximum(layer, logits + 2 * tokens * part.hidden)


def training_flops(part: Part, weights: int, sequence: int) -> int:
    """Of one token in a training step: 6 for each of ``weights`` that multiplies, and causal attention over
    ``sequence`` tokens. Forward is a third. What is recomputed in backward does not count."""
    return 3 * (2 * weights + part.layers * attention_flops(part, 1, sequence, causal=True))


def attention_flops(part: Part, tokens, positions, causal: bool = False):
    """Forward, of one layer: ``tokens`` queries against ``positions``, of which a causal kernel skips half."""
    return (2 if causal else 4) * tokens * positions * part.queries


class Training(NamedTuple):
    """Bytes. states: fp32 weights, gradients and AdamW's two moments, exact but for rounding. working: an estimate of
    gathered weights, activations and logits at their peak."""

    states: int
    working: int

    @property
    def total(self) -> int:
        return self.states + self.working


def training(
    part: Part,
    tokens: int,
    dtype_bytes: int,
    *,
    shard: int,
    gathered: bool,
    recompute: bool,
    logits: int,
    trained: float = 1.0,
) -> Training:
    """Of one rank. tokens: of a micro-batch. dtype_bytes: of a number in forward and backward. shard: ranks that share
    the states; gathered: weights come from them when they are needed. logits: those that are there at once. trained:
    the share of the weights that is not frozen."""
    inside = [numbers * dtype_bytes for numbers in part.kept]
    # Kept of each module: its input, and what its norm needs, in fp32 too; unless recomputed, what is inside of it.
    a_layer = 2 * part.hidden * (2 * dtype_bytes + 8)
    kept = part.layers * a_layer + (max(inside) if recompute else part.layers * sum(inside))
    # Gathered: what is outside of attention and MLP with its gradient, and two modules with one's gradient.
    weights = dtype_bytes * (2 * part.outside + 3 * max(part.attention, part.mlp)) if gathered else 0
    states = int((4 + 12 * trained) * part.weights)
    return Training(states // shard, weights + tokens * kept + logits * (dtype_bytes + 12))
