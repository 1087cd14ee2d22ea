"""Paired comparison of evaluations on the same samples, of one seed or of several."""

import numpy as np

from ladder.errors import UserError, unknown_name
from ladder.evaluate.metrics import is_ratio, standard_error, value

DRAWS = 2000  # of the bootstrap; 95 % ends are good to about 0.1 standard errors
FLIPS = 10000  # of the permutation test; the smallest p is 1e-4
CHUNK = 2**22  # numbers held at once


def aligned(records: list[dict], task: str, metric: str) -> np.ndarray:
    """The per-sample values of the records, in one order: [records, n], or [records, n, 2] for a perplexity.

    Raises UserError where a record lacks the task or the metric, or the samples are not the same.
    """
    found = []
    for record in records:
        if task not in record.get("samples", {}):
            raise unknown_name("task", task, record.get("samples", {}))
        samples = {sample["doc"]: sample for sample in record["samples"][task]}
        have = {key for sample in samples.values() for key in sample} - {"doc"}
        if metric not in have:
            raise unknown_name(f"metric of {task}", metric, have)
        found.append({doc: sample[metric] for doc, sample in samples.items()})
    first = found[0]
    for other in found[1:]:
        if first.keys() != other.keys():
            raise UserError(
                f"{task}: two evaluations share {len(first.keys() & other.keys())} samples of {len(first)} and "
                f"{len(other)}; evaluate both with the same tasks and --limit"
            )
    return np.array([[values[doc] for doc in first] for values in found], float)


def compare(baselines: list[dict], others: list[dict], task: str, metric: str, seed: int = 0) -> dict:
    """How ``others`` differ from ``baselines`` on the same samples; the i-th record of both is of the i-th seed.

    Returns task, metric, n (samples), seeds, the values ``a`` and ``b`` (means over the seeds), their ``difference``
    b - a, its ``stderr``, the ends ``low`` and ``high`` of its 95 % interval, and ``p``. For a perplexity also
    ``ratio``, of the two total log-likelihoods, b / a (above 1: b is worse).

    The interval is that of a paired bootstrap: each draw takes the same samples for both. With several seeds each draw
    also takes seeds, and the same samples for all of them, since all were evaluated on the same ones (samples and seeds
    are crossed: Owen 2007, "The pigeonhole bootstrap"). Of S seeds it takes S - 1 with replacement, for which the
    variance of the mean over seeds comes out unbiased (Rao and Wu 1988); S would give half of it for two seeds. That
    interval still knows of no other seeds than these. stderr is the bootstrap's, and the formula for one seed's mean.

    ``p``, two-sided, is that of a permutation test that flips the signs of the per-sample differences (of several
    seeds: of their sums): it says what other samples could do to these very models, not what other seeds could do.
    """
    both = aligned([*baselines, *others], task, metric)
    a, b = both[: len(baselines)], both[len(baselines) :]
    seeds, n = a.shape[:2]
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([_differences(metric, a, b, rng, count) for count in _chunks(DRAWS, n)])
    value_a, value_b = (float(np.mean([value(metric, one) for one in every])) for every in (a, b))
    result = {"task": task, "metric": metric, "n": n, "seeds": seeds, "a": value_a, "b": value_b}
    result["difference"] = value_b - value_a
    if is_ratio(metric):
        result["ratio"] = float(b[..., 0].sum() / a[..., 0].sum())
        moved = (b[..., 0] - a[..., 0]).sum(axis=0)
    else:
        moved = (b - a).sum(axis=0)
    if seeds == 1 and not is_ratio(metric):
        spread = standard_error(metric, moved)
    else:
        spread = float(drawn.std(ddof=1)) if n > 1 else None
    low, high = (float(end) for end in np.percentile(drawn, [2.5, 97.5])) if n > 1 else (None, None)
    return result | {"stderr": spread, "low": low, "high": high, "p": sign_flip(moved, rng)}


def _differences(metric: str, a: np.ndarray, b: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """``count`` draws of the difference, averaged over the seeds drawn."""
    seeds, n = a.shape[:2]
    picks = rng.integers(n, size=(count, n))
    each = np.stack([value(metric, b[s][picks]) - value(metric, a[s][picks]) for s in range(seeds)], axis=1)
    if seeds == 1:
        return each[:, 0]
    return np.take_along_axis(each, rng.integers(seeds, size=(count, seeds - 1)), axis=1).mean(axis=1)


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
