"""Paired comparison of two evaluations on the same samples."""

import numpy as np

from ladder.errors import UserError, known
from ladder.evaluate.metrics import is_ratio, standard_error, value

DRAWS = 2000  # of the bootstrap; 95 % ends are good to about 0.1 standard errors
FLIPS = 10000  # of the permutation test; the smallest p is 1e-4
CHUNK = 2**22  # numbers held at once


def paired(record_a: dict, record_b: dict, task: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The per-sample values of both records, in one order: [n] each, or [n, 2] for a perplexity.

    Raises UserError where a record lacks the task or the metric, or the samples are not the same.
    """
    found = []
    for record in (record_a, record_b):
        if task not in record.get("samples", {}):
            raise known("task", task, record.get("samples", {}))
        samples = {sample["doc"]: sample for sample in record["samples"][task]}
        have = {key for sample in samples.values() for key in sample} - {"doc"}
        if metric not in have:
            raise known(f"metric of {task}", metric, have)
        found.append({doc: sample[metric] for doc, sample in samples.items()})
    a, b = found
    if a.keys() != b.keys():
        raise UserError(
            f"{task}: the two evaluations share {len(a.keys() & b.keys())} samples of {len(a)} and {len(b)}; "
            "evaluate both with the same tasks and --limit"
        )
    return np.array([a[doc] for doc in a], float), np.array([b[doc] for doc in a], float)


def compare(record_a: dict, record_b: dict, task: str, metric: str, seed: int = 0) -> dict:
    """How ``b`` differs from ``a`` (the baseline) on the same samples.

    Returns task, metric, n, the values ``a`` and ``b``, their ``difference`` b - a, its paired ``stderr`` (of a
    perplexity: from the bootstrap), the ends ``low`` and ``high`` of its 95 % interval (percentiles of a bootstrap that
    draws the same samples for both), and ``p``, two-sided, of a permutation test that flips the signs of the per-sample
    differences. For a perplexity also ``ratio``, of the two total log-likelihoods, b / a (above 1: b is worse).
    """
    a, b = paired(record_a, record_b, task, metric)
    n = len(a)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([_differences(metric, a, b, rng, count) for count in _chunks(DRAWS, n)])
    value_a, value_b = float(value(metric, a)), float(value(metric, b))
    result = {"task": task, "metric": metric, "n": n, "a": value_a, "b": value_b, "difference": value_b - value_a}
    if is_ratio(metric):
        spread = float(drawn.std(ddof=1)) if n > 1 else None
        result["ratio"] = float(b[:, 0].sum() / a[:, 0].sum())
        moved = b[:, 0] - a[:, 0]
    else:
        moved = b - a
        spread = standard_error(metric, moved)
    low, high = (float(end) for end in np.percentile(drawn, [2.5, 97.5])) if n > 1 else (None, None)
    return result | {"stderr": spread, "low": low, "high": high, "p": sign_flip(moved, rng)}


def _differences(metric: str, a: np.ndarray, b: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    picks = rng.integers(len(a), size=(count, len(a)))
    return value(metric, b[picks]) - value(metric, a[picks])


def sign_flip(differences: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p of "the differences are as likely to point up as down", by random flips; 1 where all are zero."""
    observed = abs(differences.sum())
    slack = 1e-12 * np.abs(differences).sum()  # sums in another order differ in the last bits
    extreme = 0
    for count in _chunks(FLIPS, len(differences)):
        signs = rng.integers(0, 2, size=(count, len(differences)), dtype=np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ differences) >= observed - slack).sum())
    return (1 + extreme) / (1 + FLIPS)


def _chunks(total: int, n: int) -> list[int]:
    size = max(1, CHUNK // max(n, 1))
    return [min(size, total - start) for start in range(0, total, size)]
