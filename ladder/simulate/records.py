"""Points and seconds from records of `ladder bench`: to calibrate on, and to compare with."""

import re
from pathlib import Path

from ladder.devices import DEVICES, Device, reported
from ladder.errors import UserError
from ladder.simulate.fit import Row
from ladder.simulate.model import Point

QUIET = 1e-3  # interference of an emulated link: it takes nothing from the device, but parameters are above 0
CALIBRATES = ("standard", "upper_bound")
FASTEST = ("graphs", "compiled", "eager")
NOMINAL = 1e11  # FLOP/s where no table says: only its product with the fitted ``matmul`` counts


def bench_rows(path: Path, record: dict, wirings: tuple[str, ...] = CALIBRATES) -> list[Row]:
    """Seconds of prefill and of all decode steps of each of ``wirings``, as the fastest way of computing took them.

    Empty for a record without such times (of a link, a network, a plain baseline). Raises UserError for a file that is
    no record of `ladder bench`.
    """
    try:
        settings, rows = record["settings"], record["rows"]
        point = _point(settings, record)
    except (KeyError, TypeError):
        if isinstance(record, dict) and {"schema", "provenance", "rows"} <= record.keys():
            return []
        raise UserError(f"{path}: not a record of `ladder bench`") from None
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


def _point(settings: dict, record: dict) -> Point:
    size = settings["size"]
    if settings["layers"] and not settings["extrapolate"]:
        size = f"{size}-{settings['layers']}l"
    how = "ladder-fp32" if settings["dtype"] == "fp32" else "ladder"
    shape = {key: settings[key] for key in ("tp", "batch", "prompt", "new_tokens")}
    return Point(size, "standard", **shape, hardware=_name(record), link=_link(settings, record), implementation=how)


def _link(settings: dict, record: dict) -> str:
    """The emulated link by its numbers, or what real ranks reduced with: a link to fit."""
    tp, link = settings["tp"], record.get("link")
    if tp == 1:
        return "0us+1e6GB/s"
    if not settings["emulate"]:
        return f"measured-{settings['backend']}"
    bandwidth = 2 * (tp - 1) / tp / link["beta"] if link["beta"] else 1e15
    return f"{link['alpha'] * 1e6:.6g}us+{bandwidth / 1e9:.6g}GB/sx{link['in_flight']}"


def _name(record: dict) -> str:
    words = record["provenance"]["hardware"]
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
