"""Metrics as functions of per-sample values: their value, and their standard error.

A sample of most metrics is a number, and the metric is the mean. A sample of a perplexity is a pair (log-likelihood of
a document in nats, its number of words or bytes), and the metric a function of the ratio of their sums.
"""

import math

import numpy as np

# name: (f, df/dr) of the ratio r = -sum(log-likelihood) / sum(weight)
RATIOS = {
    "perplexity": (np.exp, np.exp),
    "word_perplexity": (np.exp, np.exp),
    "byte_perplexity": (np.exp, np.exp),
    "bits_per_byte": (lambda r: r / math.log(2), lambda r: np.full_like(r, 1 / math.log(2))),
}
UNITS = {"perplexity": "1", "word_perplexity": "1/word", "byte_perplexity": "1/byte", "bits_per_byte": "bits/byte"}


def is_ratio(metric: str) -> bool:
    return metric in RATIOS


def value(metric: str, samples: np.ndarray) -> np.ndarray:
    """The metric over samples [..., n], or [..., n, 2] for a perplexity; the leading axes remain."""
    if not is_ratio(metric):
        return np.mean(samples, axis=-1)
    likelihood, weight = np.sum(samples, axis=-2).T
    return RATIOS[metric][0]((-likelihood / weight).T)


def standard_error(metric: str, samples: np.ndarray) -> float | None:
    """The standard error over samples [n] or [n, 2]; None for fewer than two.

    Perplexities: the delta method for a ratio of sums with documents as the units, that is with r = -sum(l) / sum(w),
    var(r) = n / (n - 1) * sum((l_i + r w_i)^2) / sum(w)^2 (Cochran, Sampling Techniques, section 6.3), times f'(r)^2.
    """
    n = len(samples)
    if n < 2:
        return None
    if not is_ratio(metric):
        return float(np.std(samples, ddof=1) / math.sqrt(n))
    likelihood, weight = samples.T
    r = -likelihood.sum() / weight.sum()
    spread = math.sqrt(n / (n - 1) * np.sum((likelihood + r * weight) ** 2)) / weight.sum()
    return float(spread * RATIOS[metric][1](np.asarray(r)))


def unit(metric: str, samples: np.ndarray) -> str:
    """The metric's unit: that of a perplexity, ``fraction`` for what lies in [0, 1], otherwise ``score``."""
    name = metric.partition(",")[0]
    if is_ratio(name):
        return UNITS[name]
    return "fraction" if len(samples) and samples.min() >= 0 and samples.max() <= 1 else "score"
