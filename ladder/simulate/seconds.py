"""Seconds of modules, and how much an all-reduce slows them down, from shapes alone.

A module takes the longer of reading its weights and multiplying, plus a fixed time for each kernel; attention adds the
cache (decode) or the scores (prefill), and in prefill the elementwise operations add what they read and write.
Everything may be an array with one element a point in its last axis; parameters may have further axes before it.
"""

from typing import NamedTuple

import numpy as np

from ladder.cost import attention_flops, part
from ladder.model.sizes import Size
from ladder.simulate.implementation import Implementation

SMALL, LARGE = 64 * 1024, 256 * 1024  # bytes of a message between which interference goes from small to large


class Work(NamedTuple):
    """Seconds of an attention module, an MLP module, and all that is there once a pass (head, sampling)."""

    attention: np.ndarray
    mlp: np.ndarray
    rest: np.ndarray


def work(size: Size, how: Implementation, device: dict, prm: dict, at: dict, prefill: bool) -> Work:
    """Seconds of the parts of one pass.

    device: ``bandwidth`` (bytes/s) and ``flops`` (FLOP/s) of each point. prm: the calibration's parameters.
    at: ``tp``, ``batch``, ``prompt``, ``new_tokens`` of each point.
    """
    batch, prompt, dtype_bytes = at["batch"], at["prompt"], how.dtype_bytes
    mine = part(size, at["tp"], how.sharded_head)
    tokens = batch * prompt if prefill else batch
    peak, memory = prm["matmul"] * device["flops"], device["bandwidth"]
    many = prm["stream_many"] * memory
    weights_rate = np.where(tokens == 1, prm["stream_one"], prm["stream_many"]) * memory
    kernel = prm["prefill_kernel_us" if prefill else "kernel_us"] * 1e-6

    def product(weights, rows, kernels):
        """A matrix product of ``rows`` rows with ``weights`` weights."""
        return np.maximum(weights * dtype_bytes / weights_rate, 2 * rows * weights / peak) + kernels * kernel

    attention = product(mine.attention, tokens, how.attention_kernels)
    mlp = product(mine.mlp, tokens, how.mlp_kernels)
    if prefill:
        scores = how.score_passes * batch * prompt**2 * (mine.queries / mine.head_dim) * dtype_bytes / many
        multiplied = attention_flops(mine, tokens, prompt, causal=not how.score_passes) / peak
        # Norm and addition read and write the stream twice; rotation, expansion and gating do so with what is inside.
        attention = attention + scores + multiplied + tokens * dtype_bytes * (4 * size.hidden + 6 * mine.queries) / many
        mlp = mlp + tokens * dtype_bytes * (4 * size.hidden + 5 * mine.intermediate) / many
    else:
        length = prompt + at["new_tokens"] / (1 if how.whole_cache else 2)
        if how.expands_kv:
            read = 2 * batch * length * mine.queries * dtype_bytes / (prm["kv_stream"] * memory)
        else:
            read = 2 * batch * length * mine.keys * dtype_bytes / many
        attention = attention + np.maximum(read, attention_flops(mine, batch, length) / peak)
    positions = tokens if how.all_logits else batch
    rest = product(mine.head, positions, how.head_kernels)
    rest = rest + how.logit_copies * positions * mine.vocab * dtype_bytes / many
    return Work(attention, mlp, rest if prefill else rest + prm["step_scale"] * how.step_us * 1e-6)


def slowdown(prm: dict, nbytes):
    """Interference with compute of a message of ``nbytes``: linear in the logarithm between SMALL and LARGE."""
    share = np.clip(np.log(nbytes / SMALL) / np.log(LARGE / SMALL), 0, 1)
    return prm["interference_small"] + (prm["interference_large"] - prm["interference_small"]) * share
