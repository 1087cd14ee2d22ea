"""What every subcommand shares: its run file, its MLflow run, its record."""

import argparse
import contextlib
import gc
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from ladder import records
from ladder.files import sha256
from ladder.outputs import OutputFile
from ladder.reading import read_json
from ladder.store import page
from ladder.tracking import Run


def add_arguments(parser: argparse.ArgumentParser, record: bool = True) -> None:
    parser.add_argument("--run", type=Path, help="run.json of `ladder init`: ties the job to a configuration")
    if record:
        parser.add_argument("--record", action=OutputFile, required=True, help="JSON record to write")


class Job:
    """One unit of work: an MLflow run while it lasts, a record when it is done."""

    def __init__(self, args: argparse.Namespace, stage: str, name: str, resume_id: str | None = None, **what):
        self.started = time.time()
        self.run = read_json(args.run) if args.run else None
        self.record = getattr(args, "record", None)
        self.stage, self.name, self.what = stage, name, what
        commit, dirty = records.git_commit()
        config = {"config_digest": self.run["digest"], "profile": self.run["name"]} if self.run else {}
        tags = {"size": what.get("model"), "method": what.get("variant"), "mlflow.note.content": self._about(args)}
        tags |= {"mlflow.source.name": f"ladder {stage}", "mlflow.source.type": "LOCAL"}
        tags |= {"stage": stage, "git_commit": commit, "git_dirty": dirty, "hardware": records.hardware(), **config}
        tags |= {f"version.{key}": value for key, value in records.versions().items()} | what
        params = {k: v for k, v in vars(args).items() if k not in ("run", "record")}
        self.tracking = Run(name, params, tags, resume_id, _dataset(args))

    def _about(self, args: argparse.Namespace) -> str:
        """What the run's page says of it, in Markdown."""
        record = f"The record is `{self.record}`, and the artifact of that name. " if self.record else ""
        return f"{record}Shown on [{page(self.stage)}]({page(self.stage)})."

    def row(self, **values) -> dict:
        """A tidy row that knows its stage, run, and what this job was told about model, wiring and seed."""
        return records.row(**({"stage": self.stage, "run": self.name} | self.what | values))

    def finish(self, rows: list[dict], artifacts: tuple = (), tracked: list[dict] | None = None, **extra) -> None:
        """Write the record, then hand its numbers (or only those of ``tracked``) and the artifacts to MLflow."""
        self.tracking.flush()  # the record names the run, if the store is back by now
        provenance = records.provenance(self.started, self.run, self.tracking.run_id)
        if self.record:
            records.write(self.record, rows, provenance, **extra)
            artifacts = (self.record, *artifacts)
        for r in rows if tracked is None else tracked:
            # What the rows of one run differ in, so that none replaces another; a scan over layers becomes a curve.
            differ = {key: r.get(key) for key in ("wiring", "task", "phase", "rho") if key not in self.what}
            parts = [f"rho {part}" if key == "rho" else str(part) for key, part in differ.items() if part is not None]
            key = "".join(c if c.isalnum() or c in "_-./ " else "_" for c in "/".join([*parts, r["metric"]]))
            self.tracking.log(r.get("converted") or 0, {key: r["value"]})
        for path in artifacts:
            if path is not None and Path(path).exists():
                self.tracking.artifact(path)


def _dataset(args: argparse.Namespace) -> dict | None:
    """MLflow's fields of the first input that has a manifest: a corpus, its tokens, conversations."""
    for key, path in vars(args).items():
        manifest = path / "manifest.json" if isinstance(path, Path) and key != "out" else None
        if manifest and manifest.is_file():
            content = read_json(manifest)
            name = " ".join(filter(None, (content.get("source") or content.get("kind"), path.name)))
            profile = {name: content[name] for name in ("splits", "documents", "conversations") if name in content}
            about = {"source_type": "local", "source": json.dumps({"uri": str(path)}), "profile": json.dumps(profile)}
            return {"name": name[:500], "digest": sha256(manifest)[:36]} | about
    return None


@contextlib.contextmanager
def job(
    args: argparse.Namespace, stage: str, name: str, resume_id: str | None = None, group=None, **what
) -> Iterator[Job | None]:
    """``with job(args, "pretrain", "tiny-ladder-s0", model=..., wiring=..., seed=...) as this: ...``

    ``what`` are columns of the record that hold for every row (see ``records.COLUMNS``). group: a
    :class:`ladder.parallel.group.Group`, of which the first rank has the job, and the others have None.
    """
    if not gc.isenabled():
        gc.freeze()  # what was imported stays
        gc.enable()
    if group and not group.first:
        yield None
        return
    this = Job(args, stage, name, resume_id, **what)
    failed = partial(this.tracking.finish, "FAILED")
    watch = (group and group.watch) or SimpleNamespace()
    watch.at_end = failed
    try:
        yield this
    except BaseException:
        failed()
        raise
    this.tracking.finish()
    watch.at_end = lambda: None
