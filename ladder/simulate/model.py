"""Predictions: prefill, decode and tokens/s of points, without running anything."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np

from ladder import cost, schedule
from ladder.model.sizes import size
from ladder.simulate.calibration import ASSUMED, Calibration, find_device, find_link, protocols
from ladder.simulate.implementation import implementation
from ladder.simulate.seconds import slowdown, work

SHAPE = ("tp", "batch", "prompt", "new_tokens")
STEP = 0.02  # of a parameter's logarithm, for derivatives


class Scenario(NamedTuple):
    """What to predict: names of the tables of sizes, wirings, devices, links and implementations."""

    model: str
    wiring: str
    tp: int
    batch: int
    prompt: int
    new_tokens: int
    hardware: str
    link: str
    implementation: str = "published"


shape_of = cache(size)  # a file is read once


@dataclass
class Prediction:
    """Arrays over points: seconds of prefill, of one decode step and of all of them; tokens/s of the batch; bytes.

    ``logs``: logarithms of tokens/s and of the speed-up over standard with each uncertain parameter raised by STEP
    (first axis; its first entry is the prediction itself), where intervals were asked for.
    """

    prefill: np.ndarray
    step: np.ndarray
    decode: np.ndarray
    tokens_per_s: np.ndarray
    standard: np.ndarray
    silent: np.ndarray
    memory: np.ndarray
    fits: np.ndarray
    logs: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def speedup(self) -> np.ndarray:
        """Tokens/s over those of standard."""
        return self.standard / (self.prefill + self.decode)

    @property
    def hidden(self) -> np.ndarray:
        """Share of the communication that is hidden: (T_standard - T) / (T_standard - T_silent); NaN without any."""
        total = self.standard - self.silent
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(total > 1e-9, (self.standard - self.prefill - self.decode) / total, np.nan)

    @property
    def exposed(self) -> np.ndarray:
        """Seconds of a request beyond those of a model without communication."""
        return self.prefill + self.decode - self.silent


def predict(
    points: Sequence[Scenario],
    calibration: Calibration,
    intervals: bool = False,
    interference: bool = True,
    changes: dict | None = None,
) -> Prediction:
    """intervals: also vary the uncertain parameters. interference: False leaves it out. changes: of parameters.

    Raises UserError for an unknown name.
    """
    prm: dict = {**calibration.parameters, **dict.fromkeys(ASSUMED, 1.0), **(changes or {})}
    if not interference:
        prm |= {"interference_small": 0.0, "interference_large": 0.0}
    if intervals:
        names, _ = calibration.varied()
        for n, name in enumerate(names):
            column = np.full((len(names) + 1, 1), prm[name])
            column[n + 1] *= np.exp(STEP)
            prm[name] = column
    totals = {}
    for which in (None, "standard", "upper_bound"):
        asked = points if which is None else [point._replace(wiring=which) for point in points]
        totals[which] = seconds(asked, prm, calibration)
    prefill, step, decode = totals[None]
    own, standard, silent = ((t[0] + t[2]) for t in totals.values())
    made = np.array([point.batch * point.new_tokens for point in points], dtype=float)
    memory, room = _memory(points, calibration)
    logs = {}
    if intervals:
        logs = {"tokens_per_s": np.log(made / own), "speedup": np.log(standard / own), "prefill_s": np.log(prefill)}
    first = (prefill[0], step[0], decode[0], made / own[0], standard[0], silent[0])
    return Prediction(*first, memory, memory + cost.CONTEXT <= room, logs)


def interval(prediction: Prediction, what: str, calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of a 90 % interval of ``what`` (tokens_per_s, speedup, prefill_s), from the parameters' covariance
    and the residual noise; standard over itself has none."""
    _, covariance = calibration.varied()
    logs = prediction.logs[what]
    slopes = (logs[1:] - logs[0]) / STEP
    variance = np.einsum("in,ij,jn->n", slopes, covariance, slopes) + calibration.residual[what] ** 2
    if what == "speedup":
        variance = np.where(np.abs(logs).max(axis=0) > 0, variance, 0.0)
    half = calibration.quantile * np.sqrt(variance)
    return np.exp(logs[0] - half), np.exp(logs[0] + half)


def seconds(points: Sequence[Scenario], prm: dict, calibration: Calibration) -> tuple[np.ndarray, ...]:
    """Seconds of (prefill, one decode step, all decode steps), by parameter values (first axis) and points."""
    links = {name: find_link(name, calibration) for name in {point.link for point in points}}
    groups = defaultdict(list)
    for n, point in enumerate(points):
        in_flight = getattr(links[point.link], "in_flight", 1)
        groups[point.model, point.wiring, point.implementation, in_flight].append(n)
    axis = max((np.shape(value)[0] for value in prm.values() if np.ndim(value)), default=1)
    out = np.zeros((3, axis, len(points)))
    costs: dict = {}
    for (model, wiring, how, in_flight), members in groups.items():
        shape, code = shape_of(model), implementation(how)
        mine = [points[n] for n in members]
        at = {key: np.array([getattr(p, key) for p in mine], float) for key in SHAPE}
        what = _device(mine, prm, calibration)
        order = schedule.order(wiring, shape.layers)
        link = _link(mine, links, prm, costs)
        for row, prefill in enumerate((True, False)):
            done = work(shape, code, what, prm, at, prefill)
            nbytes = at["batch"] * (at["prompt"] if prefill else 1) * shape.hidden * code.dtype_bytes
            reduce = np.minimum(link[0] + nbytes * link[1], link[2] + nbytes * link[3])
            slow = slowdown(prm, nbytes)
            took = schedule.seconds(order, done.modules, reduce, slow, in_flight) + done.rest
            out[row][:, members] = took
        out[2][:, members] = (at["new_tokens"] - code.steps_less) * out[1][:, members]
    return out[0], out[1], out[2]


def _device(points: Sequence[Scenario], prm: dict, calibration: Calibration) -> dict:
    """Bandwidth and peak of each point's device; on another than the calibrated one both are as uncertain."""
    rows = [find_device(point.hardware, calibration) for point in points]
    scale = np.where([row.name == calibration.hardware for row in rows], 1.0, prm["device_scale"])
    return {key: np.array([getattr(row, key) for row in rows]) * scale for key in ("bandwidth", "flops")}


def _link(points: Sequence[Scenario], links: dict, prm: dict, costs: dict) -> list[np.ndarray]:
    """Seconds and seconds per byte of each protocol, with the points in the last axis."""
    for point in points:
        if (point.link, point.tp) not in costs:
            costs[point.link, point.tp] = protocols(links[point.link], point.tp, prm)
    found = [costs[point.link, point.tp] for point in points]
    filled = [(one[0], one[-1]) for one in found]  # a single protocol counts twice
    columns = [[np.atleast_1d(np.squeeze(pair[k][j])) for pair in filled] for k in (0, 1) for j in (0, 1)]
    axis = max(len(value) for column in columns for value in column)
    return [np.stack([np.broadcast_to(value, (axis,)) for value in column], axis=-1) for column in columns]


def _memory(points: Sequence[Scenario], calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """(bytes that a rank needs, bytes that its device has)."""
    groups = defaultdict(list)
    for n, point in enumerate(points):
        groups[point.model, point.implementation].append(n)
    need = np.zeros(len(points))
    for (model, how), members in groups.items():
        at = {key: np.array([getattr(points[n], key) for n in members], float) for key in SHAPE}
        code = implementation(how)
        part = cost.part(shape_of(model), at["tp"], code.sharded_head)
        needs = {"scores": code.score_passes > 0, "all_logits": code.all_logits, "logit_copies": code.logit_copies}
        numbers = part.weights + part.kv(at["batch"], at["prompt"] + at["new_tokens"])
        numbers += cost.compiled_prefill(part, at["batch"], at["prompt"], **needs)
        need[members] = code.dtype_bytes * numbers + cost.RESERVED
    return need, np.array([find_device(point.hardware, calibration).memory_bytes for point in points])


def parts(point: Scenario, calibration: Calibration) -> tuple[list[float], float, float]:
    """Seconds of the modules and of an all-reduce of a decode step, and the slowdown beside it."""
    prm = {**calibration.parameters, **dict.fromkeys(ASSUMED, 1.0)}
    shape, at = shape_of(point.model), {key: np.array([float(getattr(point, key))]) for key in SHAPE}
    done = work(shape, implementation(point.implementation), _device([point], prm, calibration), prm, at, False)
    nbytes = point.batch * shape.hidden * implementation(point.implementation).dtype_bytes
    costs = protocols(find_link(point.link, calibration), point.tp, prm)
    reduce = min(start + nbytes * each for start, each in costs)
    return [float(module[0]) for module in done.modules], float(reduce), float(slowdown(prm, nbytes))
