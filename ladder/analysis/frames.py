"""All numbers in two tidy frames: ours, from the records, and the paper's, from its CSVs."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ladder import records
from ladder.errors import UserError
from ladder.reading import number, read_csv

PROVENANCE = ["commit", "config_digest", "hardware", "mlflow_run_id"]
PUBLISHED_COLUMNS = ["table", "version", "model", "architecture", "tp", "batch", "p2p", "metric", "value", "unit"]
PUBLISHED_COLUMNS += ["source", "note"]
COLUMNS = [*records.COLUMNS, *PROVENANCE, "record"]  # record: the path of the file
NUMBERS = ["converted", "seed", "tp", "batch", "prompt", "new_tokens", "rho", "timed_layers"]
NUMBERS += ["value", "low", "high", "stderr", "n"]
# Published copies of a number that are shown as a footnote only: where two versions exist, the complete one is shown.
SECOND_VERSIONS = ("B:",)
TRAINED = ("pretrain", "convert", "adapt", "evaluate")  # stages whose kept records are studies


@dataclass(frozen=True, eq=False)
class Frames:
    """ours, published: tidy frames (published has also table, version, p2p, source); records: as read, with "path" and
    "kept": whether the repository keeps it, instead of this run having made it.

    studies: trainings that the repository keeps, by name; each is frames of its own, since its models may have the
    names and the seeds of this run's.
    """

    ours: pd.DataFrame
    published: pd.DataFrame
    claims: pd.DataFrame  # published/headline_claims.csv
    records: list[dict]
    studies: dict[str, "Frames"] = field(default_factory=dict)

    def own(self, **where) -> pd.DataFrame:
        """Our rows where each column has the value, or one of a list of values."""
        if isinstance(where.get("metric"), str):  # by far the most selective, and nearly every caller has it
            return select(self._by_metric.get(where.pop("metric"), self.ours[:0]), **where)
        return select(self.ours, **where)

    @cached_property
    def _by_metric(self) -> dict[str, pd.DataFrame]:
        return dict(list(self.ours.groupby("metric")))

    def paper(self, file: str, **where) -> pd.DataFrame:
        """The paper's rows of the file ``file``, e.g. "table3_pretraining"; second versions of a cell left out."""
        rows = select(self.published, file=file, **where)
        return rows[~rows["version"].str.startswith(SECOND_VERSIONS)]

    def samples(self, task: str | None, checkpoint: dict) -> dict | None:
        """The latest record of an evaluation that kept the samples of ``task``; ``checkpoint``: model, wiring, variant
        and seed."""
        for record in reversed(self.with_extra("samples")):
            row = record["rows"][0] if record["rows"] else {}
            if task in record["samples"] and all(row.get(key) == value for key, value in checkpoint.items()):
                return record
        return None

    def with_extra(self, key: str) -> list[dict]:
        """The records that hold ``key`` (curves, timelines, samples, ...), in the order of their paths."""
        return [record for record in self.records if record.get(key)]


def select(frame: pd.DataFrame, **where) -> pd.DataFrame:
    chosen = np.ones(len(frame), dtype=bool)
    for column, wanted in where.items():
        several = isinstance(wanted, list | tuple | set)
        chosen &= frame[column].isin(list(wanted)).to_numpy() if several else frame[column].to_numpy() == wanted
    return frame[chosen]


def read_published(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(numbers, headline claims) of the published CSVs. Raises UserError for a wrong column or a value not a number."""
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise UserError(f"--published {folder}: no CSV files there; the repository keeps them in reports/published")
    numbers, claims = [], pd.DataFrame()
    for path in paths:
        if path.stem == "headline_claims":
            claims = pd.DataFrame([row for _, row in read_csv(path)])
            continue
        lines = read_csv(path)
        if not lines or list(lines[0][1]) != PUBLISHED_COLUMNS:
            raise UserError(f"{path}: its columns must be {', '.join(PUBLISHED_COLUMNS)}, with rows below them")
        for where, row in lines:
            if not row["value"]:
                raise UserError(f"{where}: has no value")
            for column in ("tp", "batch", "value"):
                try:
                    row[column] and number(row[column])
                except ValueError as error:
                    raise UserError(f"{where}: the column {column!r} must hold numbers ({error})") from None
        frame = pd.DataFrame([row for _, row in lines])
        for column in ("tp", "batch", "value"):
            frame[column] = pd.to_numeric(frame[column].replace("", None))
        numbers.append(frame.rename(columns={"architecture": "wiring"}).assign(file=path.stem))
    frame = pd.concat(numbers, ignore_index=True)
    return frame.assign(stage="published", origin="published"), claims


def read(places: list[Path], published: Path, measured: Path | None = None) -> Frames:
    """places: this run's records; measured: the directory of records that the repository keeps.

    Raises UserError for a place that does not exist and for a file that is not what it should be.
    """
    numbers, claims = read_published(published)
    found = [record | {"kept": False} for record in records.read_all(places)]
    kept: dict[str, list[dict]] = {}
    for record in records.read_all([measured]) if measured else []:
        # Its MLflow run is where it was made.
        record["provenance"]["mlflow_run_id"] = None
        trained = record["rows"] and record["rows"][0]["stage"] in TRAINED
        study = "/".join(Path(record["path"]).parts[:-1][:2]) if trained else ""
        kept.setdefault(study, []).append(record | {"kept": True, "path": f"{measured.name}/{record['path']}"})
    found += kept.pop("", [])
    studies = {name: Frames(tidy(of_study), numbers, claims, of_study) for name, of_study in kept.items()}
    return Frames(tidy(found), numbers, claims, found, studies)


def tidy(found: list[dict]) -> pd.DataFrame:
    """The rows of the records, each with its provenance."""
    rows = [
        row | {key: record["provenance"].get(key) for key in PROVENANCE} | {"record": record["path"]}
        for record in found
        for row in record["rows"]
    ]
    ours = pd.DataFrame(rows, columns=COLUMNS, dtype=object)  # of plain values, which are compared faster
    for column in NUMBERS:
        ours[column] = pd.to_numeric(ours[column])
    return ours
