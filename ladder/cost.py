"""What one rank holds, keeps and multiplies, counted from a model's shape: weights by part, memory, FLOPs (no torch).

Everything but :func:`part` reads a :class:`Part`: the widths of one rank, and the weights that follow from them.
Weights and caches are exact, activations are estimates. Degrees, batches and lengths may be arrays over points, as the
simulator has them; then so are results.
"""

from collections import Counter
from dataclasses import dataclass
from functools import reduce
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
    """A decoder's part on one rank. queries, keys (as many values), intermediate, expert (one expert), shared (what all
    tokens take of the experts): features of its projections; vocab: rows of embedding and head. kinds: of its layers,
    (positions that one attends to, 0 for all; whether it has experts); one entry where all are alike. signal: the
    wiring adds a norm of the first attention. What is not said here is as in :class:`ladder.model.sizes.Size`.
    Properties count weights, unless they say otherwise."""

    layers: int
    hidden: int
    head_dim: int
    queries: int
    keys: int
    intermediate: int
    vocab: int
    tied: bool
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    signal: bool = False
    gated: bool = True
    layer_norms: int = 2
    norm_weights: int = 1
    qk_norm: int = 0
    kinds: tuple[tuple[int, bool], ...] = ((0, False),)
    experts: int = 0
    active: int = 0
    expert: int = 0
    shared: int = 0
    router: int = 0

    @property
    def attention(self) -> int:
        """Of one layer, without its norm."""
        biases = self.qkv_bias * (self.queries + 2 * self.keys) + self.output_bias * self.hidden
        return 2 * self.hidden * (self.queries + self.keys) + biases + self.qk_norm

    @property
    def matrices(self) -> int:
        """How many an MLP has."""
        return 3 if self.gated else 2

    @property
    def mlp(self) -> int:
        """Of one layer without experts, without its norm."""
        biases = ((self.matrices - 1) * self.intermediate + self.hidden) * self.mlp_bias
        return self.matrices * self.hidden * self.intermediate + biases

    @property
    def one_expert(self) -> int:
        return self.matrices * self.hidden * self.expert

    @property
    def beside_experts(self) -> int:
        """Of one layer with experts: what all tokens take, the router included."""
        return self.hidden * (self.router + self.matrices * self.shared)

    def experts_read(self, tokens):
        """How many experts of a layer at least one of ``tokens`` takes, on average, if each takes any as likely."""
        return self.experts * (1 - (1 - self.active / self.experts) ** tokens)

    @property
    def each(self) -> tuple[tuple[int, bool], ...]:
        """The kind of each layer."""
        return (self.kinds * self.layers)[: self.layers]

    @property
    def routed(self) -> int:
        """Layers with experts."""
        return sum(experts for _, experts in self.each)

    @property
    def active_width(self) -> int:
        """Features that a token goes through in the widest MLP."""
        widths = {True: self.active * self.expert + self.shared, False: self.intermediate}
        return reduce(np.maximum, (widths[experts] for experts in {experts for _, experts in self.kinds}))

    @property
    def norms(self) -> int:
        return self.hidden * self.norm_weights * (self.layer_norms * self.layers + 1 + self.signal)

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
        return self._weights(self.experts)

    @property
    def active_weights(self) -> int:
        """That a token goes through."""
        return self._weights(self.active)

    def _weights(self, experts: int) -> int:
        routed = self.routed * (experts * self.one_expert + self.beside_experts)
        return self.layers * self.attention + (self.layers - self.routed) * self.mlp + routed + self.outside

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
        """Numbers in a KV cache of ``length`` positions, or of as many as a layer attends to."""
        windows = Counter(window for window, _ in self.each)
        return 2 * self.keys * batch * sum(count * spanned(length, window) for window, count in windows.items())


@dataclass(frozen=True)
class Counted(Part):
    """Of another family than Llama: its weights are counted on the model, its activations estimated as a Llama's."""

    counted: int = 0

    @property
    def weights(self) -> int:
        return self.counted


def spanned(length, window: int):
    """Of ``length`` positions, those that a layer attends to."""
    return np.minimum(length, window) if window else length


def part(model, tp=1, split_vocabulary: bool = False, signal: bool = False) -> Part:
    """Of the fullest of ``tp`` ranks; where there are more ranks than KV heads, each holds one. Of every expert each
    rank holds its share.

    model: a :class:`ladder.model.sizes.Size`, a Hugging Face Llama's config, or the Part itself.
    split_vocabulary: embeddings and head are split too. signal: see :class:`Part`.
    """
    if isinstance(model, Part):
        return model
    if hasattr(model, "to_dict"):
        from ladder.model.shapes import of_content

        model = of_content(model.to_dict(), "the model's configuration")

    def share(count):
        return -(-count // tp)

    of, queries, keys = model, share(model.heads) * model.head, share(model.kv_heads) * model.head
    each = (of.windows or (0,) * of.layers, of.routed or (of.experts > 0,) * of.layers)
    kinds = [*zip(*each, strict=False)]  # of a model cut short, as many as are left
    same = (
        "qkv_bias",
        "output_bias",
        "mlp_bias",
        "gated",
        "layer_norms",
        "norm_weights",
        "experts",
        "active",
        "router",
    )
    vocab = share(of.vocab) if split_vocabulary else of.vocab
    return Part(
        *(of.layers, of.hidden, of.head, queries, keys, share(of.intermediate), vocab, of.tied),
        **{key: getattr(of, key) for key in same},
        qk_norm={"": 0, "head": 2 * of.head, "full": queries + keys}[of.qk_norm],
        kinds=tuple(kinds[:1] if len(set(kinds)) == 1 else kinds),
        expert=share(of.expert_intermediate),
        shared=share(of.shared_intermediate),
        signal=signal,
    )


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
    layer = tokens * (4 * part.hidden + np.maximum(attention, (2 * part.matrices - 1) * part.active_width))
    logits = logit_copies * (tokens if all_logits else batch) * part.vocab
    return np.maximum(layer, logits + 2 * tokens * part.hidden)


def training_flops(part: Part, weights: int, sequence: int) -> int:
    """Of one token in a training step: 6 for each of ``weights`` that multiplies, and causal attention over
    ``sequence`` tokens. Forward is a third. What is recomputed in backward does not count."""
    return 3 * (2 * weights + part.layers * attention_flops(part, 1, sequence, causal=True))


def attention_flops(part: Part, tokens, positions, causal: bool = False, window: int = 0):
    """Forward, of one layer: ``tokens`` queries against ``positions``. A causal kernel skips what comes later (half, of
    a prompt of so many positions) and what lies before the window."""
    seen = spanned(positions, window)
    return 4 * tokens * (seen - seen * seen / (2 * positions) if causal else seen) * part.queries


class Training(NamedTuple):
    """Bytes. states: fp32 weights, gradients and AdamW's two moments, exact but for rounding. working: an estimate of
    gathered weights, activations and logits at their peak."""

    states: int
    working: int

    @property
    def total(self) -> int:
        return self.states + self.working


def training(
    part: Part, tokens: int, dtype_bytes: int, *, shard: int, gathered: bool, recompute: bool, logits: int
) -> Training:
    """Of one rank. tokens: of a micro-batch. dtype_bytes: of a number in forward and backward. shard: ranks that share
    the states; gathered: weights come from them when they are needed. logits: those that are there at once."""
    inside = [numbers * dtype_bytes for numbers in part.kept]
    # Kept of each module: its input, and what its norm needs, in fp32 too; unless recomputed, what is inside of it.
    a_layer = 2 * part.hidden * (2 * dtype_bytes + 8)
    kept = part.layers * a_layer + (max(inside) if recompute else part.layers * sum(inside))
    # Gathered: what is outside of attention and MLP with its gradient, and two modules with one's gradient.
    weights = dtype_bytes * (2 * part.outside + 3 * max(part.attention, part.mlp)) if gathered else 0
    return Training(16 * part.weights // shard, weights + tokens * kept + logits * (dtype_bytes + 12))
