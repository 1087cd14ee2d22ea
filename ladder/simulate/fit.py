"""Least squares over the logarithms of what was measured: parameters, standard errors, and refusal of what rows do not
say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ladder.devices import Device
from ladder.errors import UserError, unknown_name
from ladder.links import ALIASES, LINKS
from ladder.simulate.calibration import ASSUMED, COMPUTE, Calibration
from ladder.simulate.model import STEP, Scenario, seconds

# Where the search begins: of the order of public figures, and fitted to nothing.
START = {
    "stream_one": 0.9,
    "stream_many": 0.8,
    "kv_stream": 1.0,
    "matmul": 0.5,
    "kernel_us": 2.5,
    "prefill_kernel_us": 5.0,
    "interference_small": 0.2,
    "interference_large": 0.5,
}
LINK_START = {"latency_us": 20.0, "small_bandwidth": 10e9, "switch": 1.5, "bandwidth": 300e9}
# Links on which so many ranks have a bandwidth of their own: without peer-to-peer, two GPUs go through host memory;
# from four on the switch reduces large messages.
OWN_BANDWIDTH = {"nvlink-p2p-off": {2: 15e9}}
PREFILL_WEIGHT = 0.4  # prefill is one pass of varying clocks, decode is 511: its repeats differ two to three times more
RANGE = math.log(50)  # a parameter may go so far from its start, either way
WORST = 1.0  # relative standard error above which a parameter counts as not identified
SENSITIVE = 1e-4  # change of some logarithm per change of a parameter's, below which rows do not touch it
CURES = {
    "stream_one": "rows of batch 1 at two TP degrees",
    "stream_many": "rows of several batches above 1 at two TP degrees",
    "kv_stream": "rows of a large batch, such as 64",
    "kernel_us": "rows at several TP degrees",
    "matmul": "prefill_s of a large batch",
    "prefill_kernel_us": "prefill_s of batch 1 and of a large batch",
    "interference_small": "ladder rows of batch 1",
    "interference_large": "ladder rows of a large batch",
    "latency_us": "standard and upper_bound rows of batch 1 at that TP degree",
    "small_bandwidth": "standard rows of batches 1, 4 and 64",
    "switch": "standard rows of batches 4 and 64",
    "bandwidth": "prefill_s of standard and upper_bound rows",
}


@dataclass(frozen=True)
class Row:
    """A measured point: seconds of prefill, tokens/s of the whole, seconds of all decode steps, or speed-up over
    standard; what is not known is None."""

    point: Scenario
    tokens_per_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class Fit:
    """A calibration with what it was made of. stderr: of the logarithms of the fitted parameters; kept: parameter ->
    why it was not fitted; predicted, observed: of ``labels`` (row number, what)."""

    calibration: Calibration
    stderr: dict[str, float]
    kept: dict[str, str]
    labels: list[tuple[int, str]]
    observed: np.ndarray
    predicted: np.ndarray
    dof: int


def fit(
    rows: Sequence[Row],
    name: str,
    start: Calibration | None = None,
    links: Sequence[str] = (),
    hold: dict[str, float] | None = None,
    device: Device | None = None,
) -> Fit:
    """Fit the parameters that ``rows`` touch.

    start: where the others are taken from, and the search begins. links: links to fit although the table of links
    knows them. hold: values of parameters that are not to be fitted. device: of the rows, if no table has it.
    Raises UserError where rows leave a parameter open.
    """
    try:
        from scipy.optimize import least_squares
        from scipy.stats import t as student
    except ModuleNotFoundError:
        raise UserError("calibration needs scipy; install it with: pip install 'ladder-residual[calibrate]'") from None

    hardware = {row.point.hardware for row in rows}
    if len(hardware) > 1:
        raise UserError(f"rows of {', '.join(sorted(hardware))}: calibrate one hardware at a time")
    parameters = START | _link_starts(rows, links) | (start.parameters if start else {})
    if unknown := set(hold or {}) - set(parameters):
        raise unknown_name("parameter to hold", unknown.pop(), parameters)
    parameters |= hold or {}
    labels, observed = _observed(rows)
    weights = np.array([PREFILL_WEIGHT if what == "prefill_s" else 1.0 for _, what in labels])
    kept = _kept(rows, parameters, start, links, hold or {})
    shell = Calibration(name, hardware.pop(), parameters, (), np.zeros((0, 0)), {}, 0.0, device)

    def predicted(values: np.ndarray, free: list[str], slopes: bool = False) -> np.ndarray:
        """Logarithms, and with ``slopes`` also those with each parameter raised by STEP (first axis)."""
        prm = {**parameters, **dict.fromkeys(ASSUMED, 1.0)} | dict(zip(free, np.exp(values), strict=True))
        if slopes:
            for n, key in enumerate(free):
                column = np.full((len(free) + 1, 1), prm[key])
                column[n + 1] *= np.exp(STEP)
                prm[key] = column
        return _logs(rows, labels, prm, shell)

    def jacobian(values: np.ndarray, free: list[str]) -> np.ndarray:
        logs = predicted(values, free, slopes=True)
        return (weights * (logs[1:] - logs[0]) / STEP).T

    free = [key for key in parameters if key not in kept]
    touched = np.abs(jacobian(np.log([parameters[key] for key in free]), free)).max(axis=0) > SENSITIVE
    kept |= {key: "no row depends on it" for key, yes in zip(free, touched, strict=True) if not yes}
    free = [key for key in free if key not in kept]
    if len(labels) < len(free) + 3:
        raise UserError(
            f"{len(labels)} measured values cannot fit {len(free)} parameters ({', '.join(free)}); at least "
            f"{len(free) + 3} are needed"
        )
    first = np.log([parameters[key] for key in free])
    found = least_squares(
        lambda x: weights * (predicted(x, free)[0] - observed),
        first,
        lambda x: jacobian(x, free),
        bounds=(first - RANGE, first + RANGE),
        x_scale="jac",
        max_nfev=200,
    )
    slopes = jacobian(found.x, free)
    dof = len(labels) - len(free)
    noise = 2 * found.cost / dof
    stderr = _identified(slopes, noise, free, np.abs(found.x - first) > RANGE - 1e-3)
    covariance = np.linalg.inv(slopes.T @ slopes) * noise
    values = predicted(found.x, free)[0]
    done = Calibration(
        name,
        shell.hardware,
        parameters | dict(zip(free, np.exp(found.x).tolist(), strict=True)),
        tuple(free),
        covariance,
        _residuals(rows, labels, values - observed, len(labels) / dof),
        float(student.ppf(0.95, dof)),
        device,
    )
    return Fit(done, stderr, kept, labels, observed, values, dof)


def _link_starts(rows: Sequence[Row], links: Sequence[str]) -> dict[str, float]:
    """Starting values of the links to fit: those asked for, and those that the table of links does not know."""
    wanted = {row.point.link for row in rows if row.point.tp > 1 and (row.point.wiring != "upper_bound" or row.speedup)}
    found = {}
    for link in sorted(wanted):
        if link not in links and (link in LINKS or link in ALIASES or "+" in link or link.endswith(".json")):
            continue
        at = {row.point.tp for row in rows if row.point.link == link and row.point.tp > 1}
        for tp in sorted(at):
            found[f"{link}.latency_us.{tp}"] = LINK_START["latency_us"]
        found |= {f"{link}.{key}": LINK_START[key] for key in ("small_bandwidth", "switch", "bandwidth")}
        own = OWN_BANDWIDTH.get(link, {})
        found |= {f"{link}.bandwidth.{tp}": value for tp, value in own.items() if tp in at}
    return found


def _kept(rows, parameters, start, links, hold) -> dict[str, str]:
    kept = dict.fromkeys(hold, "held")
    if start is not None and links:
        kept |= dict.fromkeys(COMPUTE, "only links are fitted")
        kept |= {key: "another link" for key in parameters if "." in key and key.partition(".")[0] not in links}
    if all(row.prefill_s is None for row in rows):
        late = [key for key in parameters if ".bandwidth" in key]
        kept |= dict.fromkeys(("matmul", "prefill_kernel_us", *late), "only prefill_s could say, and no row has it")
    return kept


def _observed(rows: Sequence[Row]) -> tuple[list[tuple[int, str]], np.ndarray]:
    """What each row says: labels (row, what) and logarithms. Of tokens/s and the decode steps one is enough."""
    labels, values = [], []
    for n, row in enumerate(rows):
        what = next((key for key in ("tokens_per_s", "decode_s", "speedup") if getattr(row, key) is not None), None)
        for key in (what, "prefill_s"):
            if key and getattr(row, key) is not None:
                labels.append((n, key))
                values.append(math.log(getattr(row, key)))
    return labels, np.array(values)


def _logs(rows: Sequence[Row], labels, prm: dict, calibration: Calibration) -> np.ndarray:
    """Predicted logarithms of the labels, parameter values in the first axis."""
    prefill, _, decode = seconds([row.point for row in rows], prm, calibration)
    made = np.array([row.point.batch * row.point.new_tokens for row in rows])
    found = {"prefill_s": prefill, "decode_s": decode, "tokens_per_s": made / (prefill + decode)}
    if any(what == "speedup" for _, what in labels):
        one, _, many = seconds([row.point._replace(wiring="standard") for row in rows], prm, calibration)
        found["speedup"] = (one + many) / (prefill + decode)
    return np.log(np.stack([found[what][:, n] for n, what in labels], axis=-1))


def _identified(slopes: np.ndarray, noise: float, free: list[str], at_end: np.ndarray) -> dict[str, float]:
    """Standard errors of the logarithms. Raises UserError if some parameter has none worth the name."""
    scale = np.linalg.norm(slopes, axis=0)
    unit = slopes / np.maximum(scale, 1e-300)
    values, vectors = np.linalg.eigh(unit.T @ unit)
    inverse = (vectors**2 / np.maximum(values, 1e-12)).sum(axis=1)
    error = np.sqrt(inverse * noise) / np.maximum(scale, 1e-12)
    # Without noise (made-up rows) errors are 0; rows still must tell the parameters apart.
    apart = np.sqrt(inverse) > 1e4
    open_ = [key for key, e, far, mixed in zip(free, error, at_end, apart, strict=True) if e > WORST or far or mixed]
    if open_:
        worst = ", ".join(f"{key} (standard error {_percent(error[free.index(key)])})" for key in open_)
        cures = dict.fromkeys(CURES[_kind(key)] for key in open_)
        raise UserError(f"the rows do not identify {worst}; add {'; '.join(cures)}")
    return dict(zip(free, error.tolist(), strict=True))


def _percent(error: float) -> str:
    return f"{100 * error:.0f} %" if error < 10 else "over 1000 %"


def _kind(parameter: str) -> str:
    return parameter.split(".")[1] if "." in parameter else parameter


def _residuals(rows, labels, residual: np.ndarray, inflation: float) -> dict[str, float]:
    """Standard deviations about the fit, inflated for the parameters that it took."""

    def spread(values: list[float]) -> float:
        return math.sqrt(float(np.mean(np.square(values))) * inflation) if values else 0.0

    own = {n: float(r) for (n, what), r in zip(labels, residual, strict=True) if what != "prefill_s"}
    prefill = [float(r) for (_, what), r in zip(labels, residual, strict=True) if what == "prefill_s"]
    cells = {row.point: own[n] for n, row in enumerate(rows) if n in own}
    gains = [
        cells[point] - cells[base]
        for point in cells
        if point.wiring != "standard" and (base := point._replace(wiring="standard")) in cells
    ]
    return {
        "tokens_per_s": spread(list(own.values())),
        "speedup": spread(gains),
        "prefill_s": spread(prefill) or spread(list(own.values())),
    }
