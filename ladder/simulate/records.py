"""Points and seconds from records of `ladder bench`: to calibrate on, and to compare with."""

import re
from pathlib import Path

from ladder.devices import DEVICES, Device, reported
from ladder.errors import UserError
from ladder.reading import take
from ladder.simulate.fit import Row
from ladder.simulate.model import Scenario, shape_of
from ladder.simulate.points import LIMITS, check_degree

QUIET = 1e-3  # interference of an emulated link: it takes nothing from the device, but parameters are above 0
CALIBRATES = ("standard", "upper_bound")
FASTEST = ("graphs", "compiled", "eager")
NOMINAL = 1e11  # FLOP/s where no table says: only its product with the fitted ``matmul`` counts


def bench_rows(path: Path, record: dict, wirings: tuple[str, ...] = CALIBRATES) -> list[Row]:
    """Seconds of prefill and of all decode steps of each of ``wirings``, as the fastest way of computing took them.

    record: as :func:`ladder.records.read` gives it. Empty for one without such times. Raises UserError for settings
    that `ladder bench` does not write.
    """
    if not {"size", "layers", "dtype", *LIMITS} <= (record.get("settings") or {}).keys():
        return []  # of a link, a network, training steps
    rows, point = record["rows"], _point(record, str(path))
    found = []
    for wiring in wirings:
        seconds = {}
        for phase in ("prefill", "decode"):
            of = {
                row.get("compute"): row["value"]
                for row in rows
                if (row.get("metric"), row.get("phase"), row.get("wiring")) == ("seconds", phase, wiring)
            }
            way = next((way for way in FASTEST if way in of), None)
            if way:
                seconds[phase] = of[way]
        if len(seconds) == 2:
            steps = seconds["decode"] * point.new_tokens
            found.append(Row(point._replace(wiring=wiring), prefill_s=seconds["prefill"], decode_s=steps))
    return found


def _point(record: dict, path: str) -> Scenario:
    settings, where = take(record, "settings", dict, path), f"{path}: settings"
    size, layers = take(settings, "size", str, where), take(settings, "layers", int, where, default=0, least=1)
    if layers and not take(settings, "extrapolate", bool, where, default=False):
        size = f"{size}-{layers}l"
    how = "ladder-fp32" if take(settings, "dtype", str, where) == "fp32" else "ladder"
    shape = {key: take(settings, key, int, where, least=least) for key, (least, _) in LIMITS.items()}
    link = _link(settings, record, shape["tp"], path)
    point = Scenario(size, "standard", **shape, hardware=_name(record), link=link, implementation=how)
    try:
        check_degree(shape_of(size), point.tp, size)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return point


def _link(settings: dict, record: dict, tp: int, path: str) -> str:
    """The emulated link by its numbers, or what real ranks reduced with: a link to fit."""
    if tp == 1:
        return "0us+1e6GB/s"
    if not take(settings, "emulate", bool, f"{path}: settings"):
        return f"measured-{take(settings, 'backend', str, f'{path}: settings')}"
    link, where = take(record, "link", dict, path), f"{path}: link"
    alpha, beta = (take(link, key, float, where, least=0) for key in ("alpha", "beta"))
    bandwidth = 2 * (tp - 1) / tp / beta if beta else 1e15
    return f"{alpha * 1e6:.6g}us+{bandwidth / 1e9:.6g}GB/sx{take(link, 'in_flight', int, where, least=1)}"


def _name(record: dict) -> str:
    words = take(record["provenance"], "hardware", str, "the record's provenance")
    gpu = reported(words.partition(" x ")[2])
    return gpu.name if gpu else re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def own_device(records: list[dict]) -> Device | None:
    """The machine that the records are from, as a device, if the table has no row for it; its memory bandwidth is the
    measured speed of a copy."""
    name = _name(records[0])
    if name in DEVICES:
        return None
    copies = [row["value"] for record in records for row in record["rows"] if row.get("metric") == "copy_bandwidth"]
    if not copies:
        raise UserError(f"{name}: the records hold no copy_bandwidth, and no table of devices has this hardware")
    middle = sorted(copies)[len(copies) // 2]
    words = records[0]["provenance"]["hardware"]
    return Device(name, words, 1e15, middle, NOMINAL, "measured: copy_bandwidth of `ladder bench`; FLOP/s nominal")


def emulated(rows: list[Row]) -> bool:
    """Whether every link of the rows is a typed one, which occupies no part of the device."""
    return all("us+" in row.point.link for row in rows)
