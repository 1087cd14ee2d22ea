"""Datasets: rows of tokens by number, and the order in which a run visits them.

A dataset has ``len()`` rows, ``rows(numbers)`` -> Batch, and ``supervised(numbers)``, how many tokens those rows are
scored on. The rows of a step are a pure function of seed and step: resuming needs no loader state, every number of
ranks sees the same global batch, and all wirings of one seed see the same data.

Shapes: B rows, S tokens of input per row. Arrays are numpy int64.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ladder.errors import UserError

IGNORE = -100  # a target that is not scored; torch's and transformers' value


class Batch(NamedTuple):
    """``targets[b, s]`` is the token after ``inputs[b, s]``, or IGNORE. ``positions`` None: 0, 1, ..., S - 1."""

    inputs: np.ndarray  # [B, S]
    targets: np.ndarray  # [B, S]
    positions: np.ndarray | None  # [B, S]; they restart where a new conversation begins, which keeps the two apart


class PackedTokens:
    """Consecutive windows of a token stream (``ladder.data.shards.TokenShards`` or alike)."""

    def __init__(self, shards, sequence: int):
        self.shards, self.sequence = shards, sequence

    def __len__(self) -> int:
        return max(0, self.shards.tokens - 1) // self.sequence

    def rows(self, numbers) -> Batch:
        windows = np.stack([self.shards.read(int(n) * self.sequence, self.sequence + 1) for n in numbers])
        return Batch(windows[:, :-1], windows[:, 1:], None)

    def supervised(self, numbers) -> int:
        return len(numbers) * self.sequence


class PackedChat:
    """Rows of whole conversations, as ``ladder.data.chat.pack(samples, S + 1)`` makes them; assistant tokens count."""

    def __init__(self, packed: list[dict]):
        ids, labels, positions = (
            np.stack([np.asarray(row[key], np.int64) for row in packed])
            for key in ("input_ids", "labels", "position_ids")
        )
        # The first token of a conversation is nobody's continuation.
        self._targets = np.where(positions[:, 1:] == 0, IGNORE, labels[:, 1:])
        self._inputs, self._positions = ids[:, :-1], positions[:, :-1]
        self._counts = (self._targets != IGNORE).sum(1)

    def __len__(self) -> int:
        return len(self._inputs)

    def rows(self, numbers) -> Batch:
        return Batch(self._inputs[numbers], self._targets[numbers], self._positions[numbers])

    def supervised(self, numbers) -> int:
        return int(self._counts[numbers].sum())


def check(dataset, batch: int, name) -> None:
    """Refuse a dataset with fewer rows than one batch, or with nothing to learn from."""
    if len(dataset) < batch:
        raise UserError(
            f"{name}: {len(dataset)} sequences are fewer than one batch of {batch}; use more data, a smaller --batch "
            "or a shorter --sequence"
        )
    if not dataset.supervised(np.arange(len(dataset))):
        raise UserError(f"{name}: none of its tokens is an assistant's; there is nothing to learn")


def rows_of_step(rows: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The ``batch`` row numbers of step 1, 2, ...: each epoch is its own permutation of all rows."""
    places = range((step - 1) * batch, step * batch)
    return np.array([_epoch(rows, seed, place // rows)[place % rows] for place in places])


@lru_cache(maxsize=2)  # a step touches one epoch, or the end of one and the start of the next
def _epoch(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows)


def evenly(rows: int, most: int) -> np.ndarray:
    """At most ``most`` row numbers, spread evenly over all: the validation rows, the same for every seed."""
    count = min(rows, most)
    return np.arange(count) * rows // max(1, count)
