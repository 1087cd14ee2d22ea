"""Checkpoints of a run in progress: ``WORK/step-00000040/`` holds safetensors and a ``state.json``, never a pickle.

The tensors are written by torch's distributed checkpoint: each rank its own part, read back by any number of ranks.
``state.json`` holds the step, the curves so far, the MLflow run, the settings and the digest of every file. A
checkpoint takes its name only when it is complete; a damaged one is recognised before it is loaded, and the one before
is used.
"""

import contextlib
import json
import os
import shutil
import sys
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from ladder.errors import UserError
from ladder.files import read_json, sha256, write_json
from ladder.train.ranks import Ranks

MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW remembers of each parameter, besides the step


@dataclass
class State:
    """Where a run is: ``step`` steps done, and what was logged on the way (see ``loop.train``)."""

    step: int = 0
    training: list[dict] = field(default_factory=list)
    validation: list[dict] = field(default_factory=list)
    mlflow_run_id: str | None = None


class Checkpoints:
    """The checkpoints of one run in ``work``, which this job holds; ``settings`` is what they must be made with."""

    def __init__(self, work: str | Path, ranks: Ranks, keep: int, settings: dict):
        self.work, self.ranks, self.keep = Path(work), ranks, keep
        self.settings = json.loads(json.dumps(settings))  # as it will be read back
        self._stale: list[Path] = []  # of other settings; they go when this run has one of its own
        if ranks.first:
            self.work.mkdir(parents=True, exist_ok=True)
            for part in self.work.glob(".step-*"):  # what a killed job left
                shutil.rmtree(part)
        ranks.barrier()

    def folders(self) -> list[Path]:
        return sorted(self.work.glob("step-*"))

    def latest(self) -> State:
        """The newest sound checkpoint's state, or that of a run that begins. All ranks call it together."""
        for folder in reversed(self.ranks.gather(self.folders())[0]):
            try:
                content = read_json(folder / "state.json")
                saved, files, settings = State(**content["state"]), content["files"], content["settings"]
            except (UserError, TypeError, KeyError) as error:
                self._say(f"{folder}: the checkpoint is damaged ({error}); using the one before it, if any")
                continue
            if settings != self.settings:
                self._stale.append(folder)
                differ = sorted(k for k in settings | self.settings if settings.get(k) != self.settings.get(k))
            elif files != self._files(folder):
                self._say(f"{folder}: the checkpoint is damaged (digests differ); using the one before it, if any")
            else:
                self._say(f"{folder}: resuming after step {saved.step}")
                return saved
        if self._stale:
            self._say(
                f"{self._stale[-1]}: made with other settings ({', '.join(differ)}); starting afresh, and deleting it "
                "when this run has a checkpoint of its own"
            )
        return State()

    def load(self, state: State, model, optimizer) -> None:
        """Fill ``model`` and ``optimizer`` in place from the checkpoint of ``state``."""
        _fill(model, optimizer, state.step)
        with _quiet():
            dcp.load(_tensors(model, optimizer), storage_reader=HuggingFaceStorageReader(str(self._folder(state.step))))

    def save(self, state: State, model, optimizer) -> None:
        """Write a checkpoint and delete the oldest beyond ``keep``. All ranks call it together."""
        folder = self._folder(state.step)
        part = folder.with_name(f".{folder.name}.part")
        _fill(model, optimizer, state.step)
        with _quiet():
            writer = HuggingFaceStorageWriter(str(part), save_distributed=True)
            dcp.save(_tensors(model, optimizer), storage_writer=writer)
        self.ranks.barrier()
        files = self._files(part)
        if self.ranks.first:
            write_json(part / "state.json", {"settings": self.settings, "state": asdict(state), "files": files})
            _delete(folder)
            os.replace(part, folder)
            own = [old for old in self.folders() if old not in self._stale or old == folder]
            for old in [*self._stale, *own[: -self.keep]]:
                if old != folder:
                    _delete(old)
        self._stale = []
        self.ranks.barrier()

    def clear(self) -> None:
        """Delete all, oldest first: the run is done, and its results are written."""
        if self.ranks.first:
            for folder in self.folders():
                _delete(folder)

    def _folder(self, step: int) -> Path:
        return self.work / f"step-{step:08d}"

    def _files(self, folder: Path) -> dict[str, str]:
        """Digest of every tensor file; the ranks share the reading."""
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        mine = {name: sha256(folder / name) for name in names[self.ranks.rank :: self.ranks.size]}
        return {name: value for part in self.ranks.gather(mine) for name, value in part.items()}

    def _say(self, sentence: str) -> None:
        if self.ranks.first:
            print(sentence, file=sys.stderr, flush=True)


def _fill(model, optimizer, step: int) -> None:
    """Give each parameter its moments if it has none: before the first step, or because the wiring never uses it
    (``parallel``'s second norm)."""
    for parameter in model.parameters():
        if not optimizer.state[parameter]:
            moments = {name: torch.zeros_like(parameter) for name in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(step), device=parameter.device)} | moments


def _tensors(model, optimizer) -> dict[str, torch.Tensor]:
    """The live tensors of a run by name: parameters and AdamW's moments, whole or sharded."""
    named = dict(model.named_parameters())
    moments = {f"optimizer.{n}.{m}": optimizer.state[p][m] for n, p in named.items() for m in MOMENTS}
    return {f"model.{n}": p for n, p in named.items()} | moments


def _delete(folder: Path) -> None:
    """Under its own name it is either whole or gone, even if this is interrupted."""
    if folder.exists():
        gone = folder.with_name(f".{folder.name}.gone")
        os.replace(folder, gone)
        shutil.rmtree(gone)


@contextlib.contextmanager
def _quiet():
    """One process is meant to be one process: torch warns of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
