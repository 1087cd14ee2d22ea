"""What modules and all-reduces cost, and what a rank must hold, from shapes alone.

A module takes the longer of reading its weights and multiplying, plus a fixed time for each kernel; attention adds the
cache (decode) or the scores (prefill), and in prefill the elementwise operations add what they read and write.
Everything may be an array with one element a point in its last axis; parameters may have further axes before it.
Where heads or widths do not divide by the ranks, the fullest rank counts.
"""

from typing import NamedTuple

import numpy as np

from ladder.model.sizes import Size
from ladder.simulate.implementation import Implementation

GIB = 2**30
SMALL, LARGE = 64 * 1024, 256 * 1024  # bytes of a message between which interference goes from small to large
RESERVED = 0.6e9  # bytes that the allocator and the libraries' workspaces hold beside what is counted here
CONTEXT = 1.0e9  # bytes of a device that no allocator gets: CUDA's context and the communicator's buffers


class Rank(NamedTuple):
    """Widths of the fullest rank, arrays over points: query and KV features, MLP features, vocabulary."""

    queries: np.ndarray
    keys: np.ndarray
    intermediate: np.ndarray
    vocab: np.ndarray


class Work(NamedTuple):
    """Seconds of an attention module, an MLP module, and all that is there once a pass (head, sampling)."""

    attention: np.ndarray
    mlp: np.ndarray
    rest: np.ndarray


def rank(size: Size, tp: np.ndarray, how: Implementation) -> Rank:
    head = size.hidden // size.heads
    vocab = np.ceil(size.vocab / tp) if how.sharded_head else np.full(np.shape(tp), float(size.vocab))
    split = (np.ceil(size.heads / tp) * head, np.ceil(size.kv_heads / tp) * head, np.ceil(size.intermediate / tp))
    return Rank(*split, vocab)


def work(size: Size, how: Implementation, device: dict, prm: dict, at: dict, prefill: bool) -> Work:
    """Seconds of the parts of one pass.

    device: ``bandwidth`` (bytes/s) and ``flops`` (FLOP/s) of each point. prm: the calibration's parameters.
    at: ``tp``, ``batch``, ``prompt``, ``new_tokens`` of each point.
    """
    batch, prompt, dtype_bytes = at["batch"], at["prompt"], how.dtype_bytes
    mine = rank(size, at["tp"], how)
    tokens = batch * prompt if prefill else batch
    peak, memory = prm["matmul"] * device["flops"], device["bandwidth"]
    many = prm["stream_many"] * memory
    weights_rate = np.where(tokens == 1, prm["stream_one"], prm["stream_many"]) * memory
    kernel = prm["prefill_kernel_us" if prefill else "kernel_us"] * 1e-6

    def product(weights, rows, kernels):
        """A matrix product of ``rows`` rows with ``weights`` weights."""
        return np.maximum(weights * dtype_bytes / weights_rate, 2 * rows * weights / peak) + kernels * kernel

    attention = product(size.hidden * 2 * (mine.queries + mine.keys), tokens, how.attention_kernels)
    mlp = product(3 * size.hidden * mine.intermediate, tokens, how.mlp_kernels)
    if prefill:
        heads = mine.queries / (size.hidden // size.heads)
        scores = how.score_passes * batch * prompt**2 * heads * dtype_bytes / many
        multiplied = (4 if how.score_passes else 2) * batch * prompt**2 * mine.queries / peak
        # Norm and addition read and write the stream twice; rotation, expansion and gating do so with what is inside.
        attention = attention + scores + multiplied + tokens * dtype_bytes * (4 * size.hidden + 6 * mine.queries) / many
        mlp = mlp + tokens * dtype_bytes * (4 * size.hidden + 5 * mine.intermediate) / many
    else:
        length = prompt + at["new_tokens"] / (1 if how.whole_cache else 2)
        if how.expands_kv:
            read = 2 * batch * length * mine.queries * dtype_bytes / (prm["kv_stream"] * memory)
        else:
            read = 2 * batch * length * mine.keys * dtype_bytes / many
        attention = attention + np.maximum(read, 4 * batch * length * mine.queries / peak)
    positions = tokens if how.all_logits else batch
    rest = product(size.hidden * mine.vocab, positions, how.head_kernels)
    rest = rest + how.logit_copies * positions * mine.vocab * dtype_bytes / many
    return Work(attention, mlp, rest if prefill else rest + prm["step_scale"] * how.step_us * 1e-6)


def memory(size: Size, how: Implementation, at: dict) -> np.ndarray:
    """Bytes that one rank needs at most: weights, whole cache, and the larger of a layer's activations and logits."""
    mine = rank(size, at["tp"], how)
    layer = 2 * size.hidden * (mine.queries + mine.keys) + 3 * size.hidden * mine.intermediate + 2 * size.hidden
    ends = mine.vocab * size.hidden * (1 if size.tied else 2) + size.hidden
    cache = 2 * size.layers * mine.keys * at["batch"] * (at["prompt"] + at["new_tokens"])
    tokens = at["batch"] * at["prompt"]
    heads = mine.queries / (size.hidden // size.heads)
    scores = (2 if how.score_passes else 0) * tokens * at["prompt"] * heads
    inside = np.maximum(6 * mine.queries + scores / tokens, 5 * mine.intermediate)
    layers = tokens * (4 * size.hidden + inside)
    logits = how.logit_copies * (tokens if how.all_logits else at["batch"]) * mine.vocab + 2 * tokens * size.hidden
    return how.dtype_bytes * (size.layers * layer + ends + cache + np.maximum(layers, logits)) + RESERVED


def slowdown(prm: dict, nbytes):
    """Interference with compute of a message of ``nbytes``: linear in the logarithm between SMALL and LARGE."""
    share = np.clip(np.log(nbytes / SMALL) / np.log(LARGE / SMALL), 0, 1)
    return prm["interference_small"] + (prm["interference_large"] - prm["interference_small"]) * share
