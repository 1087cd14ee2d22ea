"""The parameters of the simulator: fitted values, how sure they are, and what an all-reduce costs under them.

Parameters are flat names with values above 0. Of a device: ``stream_one`` and ``stream_many`` (share of its memory
bandwidth that weights are read with for one token row and for several), ``kv_stream`` (the same of K and V read once
for each query head; caches let it exceed 1), ``matmul`` (share of its peak), ``kernel_us`` and ``prefill_kernel_us``.
Of compute beside communication: ``interference_small`` and ``interference_large``. Of a link L (NCCL changes its
protocol with the size of a message, and the faster one counts):

    seconds = min(L.latency_us + bytes f / L.small_bandwidth, L.switch L.latency_us + bytes f / L.bandwidth)

with f = 2 (ranks - 1) / ranks, ``L.latency_us.N`` for N ranks, and ``L.bandwidth.N`` where N ranks have another one.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ladder.devices import DEVICES, Device, device, of_content
from ladder.errors import UserError
from ladder.links import ALIASES, LINKS, MOST_IN_FLIGHT, Link, latency, link
from ladder.reading import finite, read_json, take

DEFAULT = Path(__file__).parent / "calibration.json"
COMPUTE = ("stream_one", "stream_many", "kv_stream", "matmul", "kernel_us", "prefill_kernel_us")
COMPUTE += ("interference_small", "interference_large")
# What is assumed beside the fit, as standard deviations of logarithms: the time of a step beside the model, to a factor
# of two (rows of one model cannot tell it from kernels); that efficiencies are those of the calibrated device; and what
# the table of links says.
ASSUMED = {"step_scale": 0.7, "device_scale": 0.10, "link_scale": 0.20}
NUMBER = r"(-?[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]{1,3})?)"
TYPED = re.compile(rf"{NUMBER}us\+{NUMBER}GB/s(?:x([0-9]{{1,9}}))?")
OF_LINK = re.compile(r"([^.]+)\.((latency_us|bandwidth)\.[1-9][0-9]{0,5}|small_bandwidth|switch|bandwidth)")


@dataclass(frozen=True)
class Calibration:
    """hardware: the device it was fitted on. parameters: all, by name. fitted: those with a row in ``covariance`` (of
    their logarithms). residual: standard deviation of the logarithms of tokens_per_s, speedup and prefill_s about the
    fit. quantile: of Student's t for a 90 % interval. device: the row of ``hardware``, if no table has it."""

    name: str
    hardware: str
    parameters: dict[str, float]
    fitted: tuple[str, ...]
    covariance: np.ndarray
    residual: dict[str, float]
    quantile: float
    device: Device | None = None

    @property
    def links(self) -> tuple[str, ...]:
        """Names of the links that have parameters here."""
        return tuple(dict.fromkeys(name.split(".")[0] for name in self.parameters if ".latency_us." in name))

    def degrees(self, name: str) -> tuple[int, ...]:
        """Numbers of ranks for which the link ``name`` has a latency."""
        return degrees(self.parameters, name)

    def varied(self) -> tuple[tuple[str, ...], np.ndarray]:
        """(names, covariance of logarithms) of all that is uncertain: fitted parameters, and what is ASSUMED."""
        size = len(self.fitted)
        covariance = np.zeros((size + len(ASSUMED),) * 2)
        covariance[:size, :size] = self.covariance
        covariance[range(size, size + len(ASSUMED)), range(size, size + len(ASSUMED))] = np.square([*ASSUMED.values()])
        return (*self.fitted, *ASSUMED), covariance


def degrees(parameters: dict, name: str) -> tuple[int, ...]:
    start = f"{name}.latency_us."
    return tuple(sorted(int(key.removeprefix(start)) for key in parameters if key.startswith(start)))


@cache
def load(path: str | Path = DEFAULT) -> Calibration:
    """Read what `ladder calibrate` wrote. Raises UserError for a file that is not one."""
    content, where = read_json(path), f"{path}: not a calibration of `ladder calibrate`"

    def positive(name: str, least: float = 1e-12) -> dict[str, float]:
        values = take(content, name, dict, where)
        return {key: float(take(values, key, float, f"{where}: {name}", least=least, most=1e15)) for key in values}

    parameters = positive("parameters")
    _check_parameters(parameters, where)
    fitted = take(content, "fitted", list, where)
    if strange := next((name for name in fitted if not isinstance(name, str) or name not in parameters), None):
        raise UserError(f"{where}: fitted names {str(strange)[:80]!r}, which is no parameter of it; fit it again")
    if len(set(fitted)) < len(fitted):
        raise UserError(f"{where}: fitted names a parameter twice; fit it again")
    residual = positive("residual", 0.0)
    if missing := next((key for key in ("tokens_per_s", "speedup", "prefill_s") if key not in residual), None):
        raise UserError(f"{where}: residual lacks {missing!r}; fit it again")
    own = of_content(content, str(path)) if content.get("device") is not None else None
    hardware = take(content, "hardware", str, where)
    if hardware != own.name if own else hardware not in DEVICES:
        raise UserError(f"{where}: hardware {hardware[:80]!r} is no device of the table, nor the one it describes")
    return Calibration(
        take(content, "name", str, where),
        hardware,
        parameters,
        tuple(fitted),
        _covariance(take(content, "covariance", list, where), len(fitted), where),
        residual,
        float(take(content, "quantile", float, where, least=0, most=1000)),
        own,
    )


def _check_parameters(parameters: dict[str, float], where: str) -> None:
    """Refuse parameters that are missing or have no meaning."""
    if missing := next((name for name in COMPUTE if name not in parameters), None):
        raise UserError(f"{where}: the parameter {missing!r} is missing; fit it again")
    of_links = [(name, OF_LINK.fullmatch(name)) for name in parameters if name not in COMPUTE]
    if strange := next((name for name, link_ in of_links if link_ is None), None):
        raise UserError(f"{where}: {strange[:80]!r} is no parameter of the simulator; fit it again")
    for link_ in dict.fromkeys(match[1] for _, match in of_links):
        needed = (f"{link_}.{key}" for key in ("small_bandwidth", "switch", "bandwidth"))
        missing = next((name for name in needed if name not in parameters), None)
        if missing or not degrees(parameters, link_):
            raise UserError(f"{where}: the parameter {missing or f'{link_}.latency_us'!r} is missing; fit it again")


def _covariance(rows: list, size: int, where: str) -> np.ndarray:
    """[size, size], of logarithms."""
    for row in rows:
        if not isinstance(row, list) or not all(type(x) in (int, float) and finite(x) for x in row):
            raise UserError(f"{where}: covariance must hold lists of finite numbers; fit it again")
    if len(rows) != size or any(len(row) != size for row in rows):
        raise UserError(f"{where}: covariance must have {size} rows of {size}, as fitted has names; fit it again")
    values = np.array(rows, dtype=float).reshape(size, size)
    scale = np.abs(values).max(initial=0.0)
    if np.abs(values - values.T).max(initial=0.0) > 1e-4 * scale or np.diag(values).min(initial=0.0) < 0:
        raise UserError(f"{where}: covariance is not that of any numbers (not symmetric, or below 0); fit it again")
    return values


def find_device(name: str, calibration: Calibration | None) -> Device:
    """The row called ``name``, or the device that the calibration brings with it. Raises UserError."""
    if calibration is not None and calibration.device is not None and calibration.device.name == name:
        return calibration.device
    return device(name)


def find_link(name: str, calibration: Calibration) -> str | Link:
    """The name of a calibrated link, or a :class:`Link` of the table, of a .json file, or typed as ``24us+370GB/s``.

    ``x2`` after a typed link: two all-reduces may be under way at once. Raises UserError for anything else.
    """
    if name in calibration.links:
        return name
    if typed := TYPED.fullmatch(name):
        latency, bandwidth, flight = float(typed[1]), float(typed[2]), int(typed[3] or 1)
        # One that takes no time is written 1e6GB/s; a latency above a minute is a typing error.
        if not 0 <= latency <= 6e7:
            raise UserError(f"link {name!r}: latency {latency:g} us must be 0 to 6e7; write it like '24us+370GB/s'")
        if not 1e-9 <= bandwidth <= 1e12:
            raise UserError(
                f"link {name!r}: bandwidth {bandwidth:g} GB/s must be 1e-9 to 1e12; write it like '24us+370GB/s'"
            )
        if not 1 <= flight <= MOST_IN_FLIGHT:
            raise UserError(f"link {name!r}: x{flight} must be x1 to x{MOST_IN_FLIGHT}")
        return Typed(name, latency, bandwidth * 1e9, flight)
    if name in LINKS or name in ALIASES or name.endswith(".json"):
        return link(name)
    known = ", ".join(sorted({*calibration.links, *LINKS, *ALIASES}))
    raise UserError(f"unknown link {name[:80]!r}; known: {known}; or type latency and bandwidth, like '24us+370GB/s'")


@dataclass(frozen=True)
class Typed:
    """A link of known latency (microseconds, at any number of ranks) and bus bandwidth (bytes/s)."""

    name: str
    latency_us: float
    bus_bandwidth: float
    in_flight: int = 1

    def alpha(self, ranks: int) -> float:
        return self.latency_us * 1e-6 if ranks > 1 else 0.0

    def beta(self, ranks: int) -> float:
        return 2 * (ranks - 1) / ranks / self.bus_bandwidth


def protocols(which: str | Link | Typed, ranks: int, parameters: dict):
    """((seconds, seconds per byte), ...) of a link of ``find_link`` at ``ranks``, by protocol; the faster counts."""
    if ranks == 1:
        return ((0.0, 0.0),)
    if isinstance(which, Typed):
        return ((which.alpha(ranks), which.beta(ranks)),)
    if isinstance(which, Link):
        scale = parameters["link_scale"]
        return ((scale * which.alpha(ranks), scale * which.beta(ranks)),)
    factor = 2 * (ranks - 1) / ranks
    us = {n: parameters[f"{which}.latency_us.{n}"] for n in degrees(parameters, which)}
    start = latency(us, ranks) * 1e-6
    bandwidth = parameters.get(f"{which}.bandwidth.{ranks}", parameters[f"{which}.bandwidth"])
    small = (start, factor / parameters[f"{which}.small_bandwidth"])
    return (small, (parameters[f"{which}.switch"] * start, factor / bandwidth))
