"""Tidy rows from interleaved samples: seconds, speed-ups, the share of communication hidden, throughput."""

import numpy as np

from ladder.bench.point import BenchCase
from ladder.bench.statistics import estimate, estimate_both, hidden, matters

# Samples of a phase: (wiring, compute) -> seconds, one a round.
Samples = dict[tuple[str, str], list[float]]


def what(point: BenchCase, **more) -> dict:
    """The columns that all rows of a point share."""
    keys = ("tp", "batch", "prompt", "new_tokens", "dtype")
    return {key: getattr(point, key) for key in keys} | more


def checked(what: dict, note: str, differences: dict, paths: dict, counts: dict) -> list[dict]:
    """Rows of what was checked before the timing: logits (``note``: of what), the timed path, the order."""
    path = "of the timed path against the plain model on rank 0, relative"
    rows = [
        {**what, "wiring": wiring, "metric": "logits_difference", "value": value, "unit": "1", "note": note}
        for wiring, value in differences.items()
    ]
    for (wiring, compute), value in paths.items():
        row = {"metric": "implementation_difference", "value": value, "unit": "1", "note": path}
        rows.append({**what, "wiring": wiring, "compute": compute, **row})
    return rows + [
        {**what, "wiring": wiring, "metric": "all_reduces", "value": count, "unit": "per step"}
        for wiring, count in counts.items()
    ]


def compare(wall: Samples, virtual: Samples | None, what: dict) -> list[dict]:
    """Rows of one phase: seconds, speed-up over standard, share of communication hidden, each way to compute apart."""
    rows = []
    for clock, samples in (("", wall), ("_virtual", virtual)):
        if samples is None:
            continue
        for (wiring, compute), values in samples.items():
            here = {**what, "wiring": wiring, "compute": compute}
            rows.append({**here, "metric": "seconds" + clock, "unit": "s", **estimate(lambda t: t, values)})
            standard, silent = (samples.get((w, compute)) for w in ("standard", "upper_bound"))
            if standard is None:
                continue
            ratio = estimate(lambda a, b: a / b, standard, values)
            rows.append({**here, "metric": "speedup" + clock, "unit": "x", **ratio})
            if silent is not None and matters(standard, silent):
                share = estimate(hidden, standard, values, silent)
                rows.append({**here, "metric": "hidden" + (clock or "_wall"), "unit": "fraction", **share})
    for (wiring, compute), values in wall.items():
        eager, library = wall.get((wiring, "eager")), wall.get((wiring, "transformers"))
        for metric, slower in (("compile_speedup", eager), ("over_transformers", library)):
            if slower is not None and compute not in ("eager", "transformers"):
                ratio = estimate(lambda a, b: a / b, slower, values)
                rows.append({**what, "wiring": wiring, "compute": compute, "metric": metric, "unit": "x", **ratio})
    return rows


def throughput(point: BenchCase, samples: dict[str, Samples], what: dict) -> list[dict]:
    """Rows of batch x new tokens / (prefill + decode time), the paper's definition: of all ranks, of each, and over
    standard's."""
    prefill, decode, steps = samples["prefill"], samples["decode"], point.new_tokens
    rows = []
    for wiring, compute in decode:
        here = {**what, "wiring": wiring, "compute": compute, "phase": "both"}
        own = prefill[wiring, compute], decode[wiring, compute]
        value = estimate_both(lambda p, d: point.batch * steps / (p + steps * d), (own[0],), (own[1],))
        rows.append({**here, "metric": "tokens_per_second", "unit": "tokens/s", **value})
        value |= {end: value[end] / point.tp for end in ("value", "low", "high")}
        rows.append({**here, "metric": "tokens_per_second_per_gpu", "unit": "tokens/s", **value})
        if ("standard", compute) in decode:
            standard = prefill["standard", compute], decode["standard", compute]
            pairs = zip(standard, own, strict=True)
            gain = estimate_both(lambda ps, pw, ds, dw: (ps + steps * ds) / (pw + steps * dw), *pairs)
            rows.append({**here, "metric": "speedup", "unit": "x", **gain})
    return rows


def extrapolated(samples: Samples, fewer: Samples, layers: int, half: int, full: int) -> Samples:
    """Samples of ``full`` layers from those of ``layers`` and of ``half``: every layer more takes the same."""
    factor = (full - layers) / (layers - half)
    return {
        key: (np.array(values) + factor * (np.array(values) - np.array(fewer[key]))).tolist()
        for key, values in samples.items()
    }


def stable(history: list[float], window: int = 3, within: float = 0.05) -> bool:
    """Whether the median of the last rounds is that of the rounds before them."""
    if len(history) < 2 * window:
        return False
    before, last = np.median(history[-2 * window : -window]), np.median(history[-window:])
    return abs(last / before - 1) < within
