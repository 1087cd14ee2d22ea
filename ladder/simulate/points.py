"""Points as a CSV: read and checked before anything is computed."""

from pathlib import Path

from ladder.errors import UserError
from ladder.model.sizes import MOST_LAYERS, Size
from ladder.reading import number, read_csv
from ladder.simulate.calibration import Calibration, find_device, find_link
from ladder.simulate.implementation import implementation
from ladder.simulate.model import Scenario, shape_of
from ladder.wiring import table

NAMES = ("model", "wiring", "hardware", "link")
NUMBERS = ("tp", "batch", "prompt", "new_tokens")
LIMITS = {"tp": (1, 2**16), "batch": (1, 2**24), "prompt": (1, 2**28), "new_tokens": (2, 2**28)}
MOST_POINTS = 1_000_000
COLUMNS = ("model", "wiring", "tp", "batch", "prompt", "new_tokens", "hardware", "link")


def check(point: Scenario, calibration: Calibration | None) -> Scenario:
    """The point, if all its names are known and its numbers are possible. Raises UserError naming what is not.

    calibration: None where links are to be fitted, which may have any name.
    """
    for key, (least, most) in LIMITS.items():
        if not least <= getattr(point, key) <= most:
            bound = f"at least {least}" if getattr(point, key) < least else f"at most {most}"
            raise UserError(f"{key} = {getattr(point, key)} must be {bound}")
    shape = shape_of(point.model)
    if shape.layers > MOST_LAYERS:
        raise UserError(f"{point.model}: {shape.layers} layers are more than the {MOST_LAYERS} that can be simulated")
    check_degree(shape, point.tp, point.model)
    table(point.wiring, shape.layers, point.tp)
    find_device(point.hardware, calibration)
    if calibration is not None:
        find_link(point.link, calibration)
    implementation(point.implementation)
    return point


def check_degree(shape: Size, tp: int, model: str) -> None:
    """Refuse a degree at which ranks would not hold equal parts. Where there are more ranks than KV heads, several
    ranks hold the same one (the costs count a rank's heads rounded up to one)."""
    widths = [("MLP", width) for width in shape.widths]
    for what, count in (("attention heads", shape.heads), ("KV heads", shape.kv_heads), *widths):
        if count % tp and not (what == "KV heads" and tp % count == 0):
            raise UserError(f"tp = {tp} does not divide the {count} {what} of {model}; choose a degree that does")


def read(
    path: str | Path, calibration: Calibration | None, values: tuple[str, ...] = ()
) -> list[tuple[Scenario, dict]]:
    """(point, the row as it stands) of each line; the columns COLUMNS must be there, ``implementation`` may be.

    values: columns of which each row must have a number above 0 or nothing; the row then holds floats or None.
    Raises UserError naming file, line, column and value.
    """
    lines = read_csv(path, COLUMNS)
    if not lines:
        raise UserError(f"{path}: no points below its first line")
    if len(lines) > MOST_POINTS:
        raise UserError(f"{path}: has {len(lines):,} points, more than {MOST_POINTS:,}; split the file")
    found, seen = [], set()
    for where, line in lines:
        numbers = {key: _whole(line[key], key, where) for key in NUMBERS}
        names = {key: line[key].strip() for key in NAMES}
        point = Scenario(**names, **numbers, implementation=(line.get("implementation") or "published").strip())
        if point not in seen:
            try:
                check(point, calibration)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            seen.add(point)
        found.append((point, line | {key: _positive(line.get(key), key, where) for key in values}))
    return found


def _whole(text: str, key: str, where: str) -> int:
    try:
        value = number(text)
        if value != int(value):
            raise ValueError
        return int(value)
    except ValueError:
        raise UserError(f"{where}: {key} = {text[:40]!r} must be a whole number") from None


def _positive(text: str | None, key: str, where: str) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = number(text)
    except ValueError:
        value = -1.0
    if value <= 0:
        raise UserError(f"{where}: {key} = {text[:40]!r} must be a number above 0")
    return value
