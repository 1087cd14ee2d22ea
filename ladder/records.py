"""A number is born once, in a record: JSON with tidy rows and the provenance that all of them share."""

import os
import platform
import shlex
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path

from ladder.errors import UserError
from ladder.files import write_json
from ladder.reading import REQUIRED, finite, read_json, take
from ladder.redact import redact

ORIGINS = ("published", "measured", "emulated", "simulated")

# One value per row: what it is, its uncertainty, where it is from.
COLUMNS = {
    "stage": "corpus | pretrain | convert | adapt | evaluate | sensitivity | bench | simulate | published",
    "run": "name of the job, e.g. tiny-ladder-s0",
    "model": "row of the table of sizes, or a published model's name",
    "wiring": "standard, ladder, ladder@4-7, ...",
    "converted": "how many layers have the wiring, the others being standard",
    "layers": "which layers those are, e.g. 7-9",
    "added": "the layer that this step of a choice of layers added",
    "variant": "what was done: pretrained, converted; adapted (finetuned), distilled, lora, annealed, progressive",
    "seed": "seed of the run",
    "tp": "tensor-parallel degree",
    "batch": "sequences at once",
    "prompt": "prompt tokens",
    "new_tokens": "generated tokens",
    "link": "name of the interconnect, or of its emulation",
    "rho": "emulated link: time of one all-reduce over the mean time of a module",
    "backend": "what reduces: gloo, nccl, emulated, none",
    "dtype": "fp32 | bf16 | fp16",
    "compute": "how the timed path ran: eager | compiled | graphs (compiled, in CUDA graphs) | transformers (baseline)",
    "timed_layers": "number of layers that really ran, where the model has more",
    "phase": "prefill | decode | both",
    "task": "evaluation task",
    "split": "which split of the task's data set: test, validation",
    "metric": "name of the quantity",
    "value": "the number",
    "unit": "its unit",
    "low": "lower end of the 95 % interval, or of the 90 % one of a prediction",
    "high": "upper end of it",
    "stderr": "standard error",
    "n": "number of samples behind it",
    "origin": " | ".join(ORIGINS),
    "note": "anything a reader must know",
}


WHOLE = ("converted", "added", "seed", "tp", "batch", "prompt", "new_tokens", "timed_layers", "n")
NUMBERS = ("rho", "value", "low", "high", "stderr")


def row(**values) -> dict:
    """A tidy row. Unknown columns and non-finite numbers are refused: a missing measurement has no row."""
    if unknown := set(values) - set(COLUMNS):
        raise ValueError(f"unknown columns {sorted(unknown)}; known: {', '.join(COLUMNS)}")
    if values.get("origin") not in ORIGINS:
        raise ValueError(f"origin {values.get('origin')!r} is none of {', '.join(ORIGINS)}")
    for key in ("metric", "value", "unit"):
        if values.get(key) is None:
            raise ValueError(f"a row needs {key!r}: {values}")
    for key in ("value", "low", "high", "stderr"):
        if values.get(key) is not None and not finite(values[key]):
            raise ValueError(f"{key} = {values[key]} is not a number: {values}")
    return {key: value for key, value in values.items() if value is not None}


@cache
def git_commit() -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it) of this package's own checkout; (None, None) where it is none,
    though it may lie inside another repository."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not Path(git("rev-parse", "--show-toplevel")).samefile(here.parent):
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def hardware() -> str:
    """The device in words: GPU if torch is loaded and sees one, otherwise the processor and its cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {cores()} cores"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    names = ("torch", "transformers", "tokenizers", "datasets", "lm-eval", "snakemake", "mlflow")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance(started: float, run: dict | None, mlflow_run_id: str | None) -> dict:
    """What every number of a record shares. ``run`` is the content of run.json, or None outside a pipeline."""
    commit, dirty = git_commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "profile": run["name"] if run else None,
        "config_digest": run["digest"] if run else None,
        "command": redact(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "hardware": hardware(),
        "versions": versions(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 2),
        "mlflow_run_id": mlflow_run_id,
    }


def write(path: str | Path, rows: list[dict], provenance: dict, **extra) -> None:
    """Write a record; ``extra`` holds what is not tidy (curves, timelines, settings)."""
    write_json(path, {"schema": 1, "provenance": provenance, "rows": [row(**r) for r in rows], **extra})


def read(path: str | Path) -> dict:
    """Read a record back and check it. Raises UserError naming the file."""
    return checked(read_json(path), str(path))


def checked(record: dict, path: str) -> dict:
    """The record that ``content`` of the file ``path`` is. Raises UserError naming the file, row, key and value."""
    where = f"{path}: not a record of this project"
    if (schema := take(record, "schema", int, where)) != 1:
        raise UserError(f"{path}: record schema {schema} is not 1; make it again")
    provenance = take(record, "provenance", dict, where)
    if "mlflow_run_id" not in provenance:
        raise UserError(f"{where}: provenance lacks 'mlflow_run_id'")
    for key in ("commit", "config_digest", "profile", "command", "hardware", "started", "mlflow_run_id"):
        take(provenance, key, str, f"{where}: provenance", default=None)
    take(record, "settings", dict, where, default=None)
    rows = []
    for number, values in enumerate(take(record, "rows", list, where)):
        of = f"{where}: rows[{number}]"
        if not isinstance(values, dict):
            raise UserError(f"{of} is no object")
        for key in values:
            kind = int if key in WHOLE else float if key in NUMBERS else str
            take(values, key, kind, of, REQUIRED if key == "value" else None)
        try:
            rows.append(row(**values))
        except ValueError as error:
            raise UserError(f"{of}: {error}") from None
    for key in ("curves", "samples"):
        _check_series(take(record, key, dict, where, default={}), f"{where}: {key}")
    return record | {"rows": rows}


def _check_series(series: dict, where: str) -> None:
    """Refuse curves and samples that are no lists of points: objects of numbers, of which ``doc`` names the sample."""
    for name in series:
        for number, point in enumerate(take(series, name, list, where, default=[])):
            if not isinstance(point, dict):
                raise UserError(f"{where}: {name}[{number}] is no object")
            for key, value in point.items():
                values = value if isinstance(value, list) else [value]
                if key != "doc" and not all(type(x) in (int, float) and finite(x) for x in values):
                    raise UserError(f"{where}: {name}[{number}]: {key} is {str(value)[:80]!r}, and a number is needed")


def read_all(places: list[Path]) -> list[dict]:
    """The records named, and every record below the directories named.

    Other JSON files there are passed over, and named on stderr. Raises UserError for a file that was a record and is
    damaged.
    """
    found, others = [], []
    for folder in places:
        if folder.is_file():
            found.append(read(folder) | {"path": folder.as_posix()})
            continue
        if not folder.is_dir():
            raise UserError(
                f"--records {folder}: no such file or directory; run the pipeline first, or name where its records are"
            )
        for path in sorted(folder.rglob("*.json")):
            content = read_json(path, object)
            if not looks_like_record(path, content):
                others.append(path.name)
                continue
            found.append(checked(content, str(path)) | {"path": path.relative_to(folder).as_posix()})
    if others:
        names = ", ".join(sorted(set(others))[:8])
        print(f"passed over {len(others)} JSON files that are no records: {names}", file=sys.stderr)
    return found


def looks_like_record(path: Path, content) -> bool:
    """Whether a JSON file is a record, or was one before it lost something."""
    if not isinstance(content, dict):
        return path.name == "record.json"
    if {"parameters", "covariance"} <= content.keys():  # a calibration, which has a schema and rows too
        return False
    return "provenance" in content or "schema" in content or path.name == "record.json"
