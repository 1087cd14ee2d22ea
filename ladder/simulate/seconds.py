"""Seconds of modules, and how much an all-reduce slows them down, from shapes alone.

A module takes the longer of reading its weights and multiplying, plus a fixed time for each kernel; attention adds the
cache (decode) or the scores (prefill), and in prefill the elementwise operations add what they read and write. Experts
are read if any token takes them, and multiply for the tokens that do.
Everything may be an array with one element a point in its last axis; parameters may have further axes before it.
"""

from typing import NamedTuple

import numpy as np

from ladder.cost import attention_flops, part, spanned
from ladder.model.sizes import Size
from ladder.simulate.implementation import Implementation

ROUTING = 4  # kernels that experts take beside those of an MLP: router, choice, gathering, weighted sum; assumed
SMALL, LARGE = 64 * 1024, 256 * 1024  # bytes of a message between which interference goes from small to large


class Work(NamedTuple):
    """Seconds of the modules, attention and MLP of each layer in turn, or of one layer where all are alike; and of all
    that is there once a pass (head, sampling)."""

    modules: list[np.ndarray]
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
    if prefill:
        scores = how.score_passes * batch * prompt**2 * (mine.queries / mine.head_dim) * dtype_bytes / many

    def attend(window: int):
        if prefill:
            multiplied = attention_flops(mine, tokens, prompt, causal=not how.score_passes, window=window) / peak
            # Norm and addition read and write the stream twice; rotation, expansion and gating what is inside.
            return attention + scores + multiplied + tokens * dtype_bytes * (4 * size.hidden + 6 * mine.queries) / many
        length = spanned(prompt + at["new_tokens"] / (1 if how.whole_cache else 2), window)
        if how.expands_kv:
            read = 2 * batch * length * mine.queries * dtype_bytes / (prm["kv_stream"] * memory)
        else:
            read = 2 * batch * length * mine.keys * dtype_bytes / many
        return attention + np.maximum(read, attention_flops(mine, batch, length) / peak)

    def mlp(experts: bool):
        if experts:
            read = mine.experts_read(tokens) * mine.one_expert * dtype_bytes / weights_rate
            took = np.maximum(read, 2 * tokens * mine.active * mine.one_expert / peak)
            took = took + product(mine.beside_experts, tokens, how.mlp_kernels + ROUTING)
            width = mine.active * mine.expert + mine.shared
        else:
            took, width = product(mine.mlp, tokens, how.mlp_kernels), mine.intermediate
        # Norm, addition and gating, as above.
        wide = (2 * mine.matrices - 1) * width
        return took + tokens * dtype_bytes * (4 * size.hidden + wide) / many if prefill else took

    kinds = {kind: (attend(kind[0]), mlp(kind[1])) for kind in set(mine.kinds)}
    positions = tokens if how.all_logits else batch
    rest = product(mine.head, positions, how.head_kernels)
    rest = rest + how.logit_copies * positions * mine.vocab * dtype_bytes / many
    rest = rest if prefill else rest + prm["step_scale"] * how.step_us * 1e-6
    return Work([module for kind in mine.kinds for module in kinds[kind]], rest)


def slowdown(prm: dict, nbytes):
    """Interference with compute of a message of ``nbytes``: linear in the logarithm between SMALL and LARGE."""
    share = np.clip(np.log(nbytes / SMALL) / np.log(LARGE / SMALL), 0, 1)
    return prm["interference_small"] + (prm["interference_large"] - prm["interference_small"]) * share
