"""The derived tables: records and published numbers in, tidy CSVs out. No prose, no drawing, no HTML."""

from pathlib import Path

import pandas as pd

from ladder.analysis import benchmark, claims, quality, recovery, runs, scale, simulator, speed, training
from ladder.analysis.frames import Frames
from ladder.files import write_json
from ladder.markup import write_csv
from ladder.metrics import METRICS, label, metric_of, unknown

TABLES = {
    "speed": speed.speed,
    "over_rho": speed.over_rho,
    "traced": speed.traced,
    "equal_speed": speed.equal_speed,
    "quality": quality.quality,
    "seeds": quality.seeds,
    "noise_pairs": quality.noise_pairs,
    "others": quality.others,
    "curves": training.curves,
    "training_time": training.training_time,
    "timed_curves": training.timed_curves,
    "recovery": recovery.recovery,
    "recovery_gaps": recovery.recovery_gaps,
    "sensitivity": recovery.sensitivity,
    "single_layers": recovery.single_layers,
    "scale_cells": scale.cells,
    "scale_gains": scale.gains,
    "scale_crossovers": scale.crossovers,
    "scale_latency_curves": scale.latency_curves,
    "scale_latencies": scale.latencies,
    "scale_one_shot": scale.one_shot,
    "scale_cost_curves": scale.cost_curves,
    "scale_cost": scale.cost,
    "scale_about": scale.about,
    "prediction_groups": simulator.groups,
    "predictions": simulator.predictions,
    "prediction_winners": simulator.winners,
    "calibration": simulator.calibration,
    "own_predictions": simulator.own,
    "compiled": benchmark.compiled,
    "decode_limit": benchmark.decode_limit,
    "network": benchmark.network,
    "links": benchmark.presets,
    "headlines": claims.headlines,
    "wirings": runs.wirings,
    "runs": runs.runs,
}


def write(frames: Frames, out: Path, profile: str | None = None) -> list[Path]:
    """NAME.csv of every derived table, and schema.json, which says what each column is."""
    tables = {name: make(frames) for name, make in TABLES.items()}
    tables["claims"], tables["evidence"] = claims.judge(frames, tables)
    tables["provenance"] = runs.facts(frames, profile)
    written, schema = [], {}
    for name, table in tables.items():
        if strange := unknown(table.columns):
            raise ValueError(f"{name}: columns {strange} are in neither table of ladder.metrics")
        written.append(out / f"{name}.csv")
        write_csv(table, written[-1])
        schema[name] = {column: described(column) for column in table}
    written.append(out / "schema.json")
    write_json(written[-1], schema)
    return written


def described(column: str) -> dict:
    metric = METRICS.get(metric_of(column))
    if metric is None:
        return {"label": label(column)}
    what = {"label": metric.label, "unit": metric.unit, "scale": metric.scale, "better": metric.better}
    return what | ({"interval": metric.interval} if column != metric_of(column) else {})


def read(out: Path) -> dict[str, pd.DataFrame]:
    """The derived tables as their files hold them."""
    tables = {}
    for path in sorted(out.glob("*.csv")):
        try:
            tables[path.stem] = pd.read_csv(path)
        except pd.errors.EmptyDataError:
            tables[path.stem] = pd.DataFrame()
    return tables
