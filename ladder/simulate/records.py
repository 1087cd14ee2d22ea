"""Points and seconds from records of `ladder bench`, to calibrate on and to compare with."""

from pathlib import Path

from ladder.errors import UserError
from ladder.simulate.fit import Row

CALIBRATES = ("standard", "upper_bound")


def bench_rows(path: Path, record: dict, wirings: tuple[str, ...] = CALIBRATES) -> list[Row]:
    raise UserError(f"{path}: records are not taken yet") from None
