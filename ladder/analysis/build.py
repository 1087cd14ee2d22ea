"""The derived tables: records and published numbers in, tidy CSVs out. No prose, no drawing, no HTML."""

from pathlib import Path

import pandas as pd

from ladder.analysis import speed
from ladder.files import write_json
from ladder.metrics import DIMENSIONS, METRICS, unknown
from ladder.report.frames import Frames
from ladder.report.markup import write_csv

TABLES = {
    "speed": speed.speed,
    "over_rho": speed.over_rho,
    "traced": speed.traced,
    "equal_speed": speed.equal_speed,
}


def write(frames: Frames, out: Path) -> list[Path]:
    """NAME.csv of every derived table, and schema.json, which says what each column is."""
    written, schema = [], {}
    for name, make in TABLES.items():
        table = make(frames)
        if strange := unknown(table.columns):
            raise ValueError(f"{name}: columns {strange} are in neither table of ladder.metrics")
        written.append(out / f"{name}.csv")
        write_csv(table, written[-1])
        schema[name] = {column: described(column) for column in table}
    written.append(out / "schema.json")
    write_json(written[-1], schema)
    return written


def described(column: str) -> dict:
    name, _, end = column.rpartition("_")
    metric = METRICS.get(column) or (METRICS.get(name) if end in ("low", "high") else None)
    if metric is None:
        return {"label": DIMENSIONS[column]}
    return {"label": metric.label, "unit": metric.unit, "scale": metric.scale, "better": metric.better} | (
        {"interval": metric.interval} if metric.interval else {}
    )


def read(out: Path) -> dict[str, pd.DataFrame]:
    """The derived tables as their files hold them."""
    tables = {}
    for path in sorted(out.glob("*.csv")):
        try:
            tables[path.stem] = pd.read_csv(path, float_precision="round_trip")
        except pd.errors.EmptyDataError:
            tables[path.stem] = pd.DataFrame()
    return tables
