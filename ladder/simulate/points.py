"""Points as a CSV: read and checked before anything is computed."""

import csv
from pathlib import Path

from ladder.errors import UserError
from ladder.simulate.calibration import Calibration, find_device, find_link
from ladder.simulate.implementation import implementation
from ladder.simulate.model import Point, shape_of
from ladder.wiring import table

NAMES = ("model", "wiring", "hardware", "link")
NUMBERS = ("tp", "batch", "prompt", "new_tokens")
COLUMNS = ("model", "wiring", "tp", "batch", "prompt", "new_tokens", "hardware", "link")


def check(point: Point, calibration: Calibration | None) -> Point:
    """The point, if all its names are known and its numbers are possible. Raises UserError naming what is not.

    calibration: None where links are to be fitted, which may have any name.
    """
    for key in NUMBERS:
        if getattr(point, key) < (2 if key == "new_tokens" else 1):
            least = 2 if key == "new_tokens" else 1
            raise UserError(f"{key} = {getattr(point, key)} must be at least {least}")
    table(point.wiring, shape_of(point.model).layers, point.tp)
    find_device(point.hardware, calibration)
    if calibration is not None:
        find_link(point.link, calibration)
    implementation(point.implementation)
    return point


def read(path: str | Path, calibration: Calibration | None, values: tuple[str, ...] = ()) -> list[tuple[Point, dict]]:
    """(point, the row as it stands) of each line; the columns COLUMNS must be there, ``implementation`` may be.

    values: columns of which each row must have a number above 0 or nothing; the row then holds floats or None.
    Raises UserError naming file, line, column and value.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
                raise UserError(f"{path}: no column {missing[0]!r}; its first line must have {', '.join(COLUMNS)}")
            lines = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if not lines:
        raise UserError(f"{path}: no points below its first line")
    found, seen = [], set()
    for number, line in enumerate(lines, 2):
        where = f"{path}:{number}"
        numbers = {key: _whole(line[key], key, where) for key in NUMBERS}
        names = {key: (line[key] or "").strip() for key in NAMES}
        point = Point(**names, **numbers, implementation=(line.get("implementation") or "published").strip())
        if point not in seen:
            try:
                check(point, calibration)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            seen.add(point)
        found.append((point, line | {key: _positive(line.get(key), key, where) for key in values}))
    return found


def _whole(text: str | None, key: str, where: str) -> int:
    try:
        value = float(text or "")
        if value != int(value):
            raise ValueError
        return int(value)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: {key} = {text!r} must be a whole number") from None


def _positive(text: str | None, key: str, where: str) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UserError(f"{where}: {key} = {text!r} must be a number above 0")
    return value
