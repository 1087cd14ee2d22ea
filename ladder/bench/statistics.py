"""Medians with intervals from interleaved samples, and lines through two of them."""

import numpy as np

RESAMPLES = 1000
# Below this share of the silent time, communication is too small to divide by (overlap cannot be told from noise).
MATTERS = 0.2


def estimate(statistic, *samples: list[float]) -> dict:
    """Value and 95 % interval of ``statistic`` (a function of the samples' medians), by bootstrap over rounds.

    The samples of one round are resampled together, so what disturbs a whole round cancels in a ratio.
    """
    return estimate_both(statistic, samples)


def estimate_both(statistic, *phases: tuple[list[float], ...]) -> dict:
    """As :func:`estimate`, of samples in several phases, each with rounds of its own: ``statistic`` gets the medians of
    all samples of the first phase, then those of the second, ..."""
    generator = np.random.default_rng(0)
    medians, resampled = [], []
    for samples in phases:
        table = np.array(samples)  # [samples, rounds]
        chosen = generator.integers(table.shape[1], size=(RESAMPLES, table.shape[1]))
        medians += list(np.median(table, axis=1))
        resampled += [np.median(row[chosen], axis=1) for row in table]
    value, (low, high) = float(statistic(*medians)), np.quantile(statistic(*resampled), [0.025, 0.975])
    n = min(len(samples[0]) for samples in phases)
    # The interval of a median of few samples may miss the median of all of them by rounding.
    return {"value": value, "low": min(float(low), value), "high": max(float(high), value), "n": n}


def hidden(standard, wiring, silent):
    """Share of communication hidden: (T_standard - T_wiring) / (T_standard - T_silent)."""
    return (standard - wiring) / (standard - silent)


def matters(standard: list[float], silent: list[float]) -> bool:
    """Whether communication takes long enough for a share of it to mean something."""
    return np.median(standard) - np.median(silent) >= MATTERS * np.median(silent)


def affine(small: int, large: int, first: float, second: float) -> tuple[float, float]:
    """alpha (s) and beta (s/byte) of a link that takes ``first`` s for ``small`` bytes, ``second`` s for ``large``."""
    beta = max(0.0, (second - first) / (large - small)) if large > small else 0.0
    return max(0.0, first - beta * small), beta
