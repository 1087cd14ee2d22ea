"""The order in which a run visits rows: a pure function of seed and place, in which no loader state has a part.

Place p of a run, counted from 0 over all its batches, lies in epoch p // rows; each epoch is its own permutation of
all rows. Up to SMALL rows that is numpy's, kept in memory. Above, it would take 8 bytes a row on each rank (400 MB for
the 50 million rows of 100B tokens), so row numbers are computed: a Feistel network permutes the numbers below the next
power of two, and is applied again to what falls beyond the rows (Black and Rogaway, 2002: cycle walking).
"""

from functools import lru_cache

import numpy as np

SMALL = 2**20  # rows
ROUNDS = 8  # even: the halves of a number, which may differ by a bit, change places in each


def visited(rows: int, places: np.ndarray, seed: int, *stream: int) -> np.ndarray:
    """The row numbers at ``places`` (int64) of a run; ``stream`` tells apart sources that share a seed."""
    epochs, inside = np.divmod(places, rows)
    out = np.empty_like(places)
    for epoch in np.unique(epochs):
        key, now = (seed, int(epoch), *stream), epochs == epoch
        out[now] = _epoch(rows, key)[inside[now]] if rows <= SMALL else scattered(inside[now], rows, key)
    return out


@lru_cache(maxsize=8)  # a step touches one epoch of each source, or the end of one and the start of the next
def _epoch(rows: int, key: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(key)).permutation(rows)


def scattered(places: np.ndarray, rows: int, key: tuple[int, ...]) -> np.ndarray:
    """Where the permutation of ``key`` sends ``places`` (each below ``rows``): int64, without a table."""
    bits = max(2, (rows - 1).bit_length())
    keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)
    numbers = places.astype(np.uint64)
    outside = np.ones(len(numbers), bool)
    while outside.any():
        numbers[outside] = _feistel(numbers[outside], bits, keys)
        outside = numbers >= rows
    return numbers.astype(np.int64)


def _feistel(numbers: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """A permutation of 0 ... 2**bits - 1."""
    wide, narrow = np.uint64(bits - bits // 2), np.uint64(bits // 2)  # of the left half and the right one
    left, right = numbers >> narrow, numbers & _ones(narrow)
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & _ones(wide))
        wide, narrow = narrow, wide
    return left << narrow | right


def _ones(bits: np.uint64) -> np.uint64:
    return (np.uint64(1) << bits) - np.uint64(1)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit depends on every bit."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)
