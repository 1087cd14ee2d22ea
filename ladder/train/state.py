"""Checkpoints of a run in progress: ``WORK/step-00000040/`` holds safetensors and a ``state.json``, never a pickle.

What is saved is copied to the CPU's memory at once; a thread then writes it while training goes on. The tensors are
written by torch's distributed checkpoint: each rank a part that no other writes, read back by any number of ranks.
``state.json`` holds the step, the curves so far, the MLflow run, the settings, the digest of every file and that of its
own content. A checkpoint takes its name only when it is complete; a damaged one is recognised before it is loaded, and
the one before is used. Nothing but such folders, in a work folder that carries our mark, is ever deleted.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from ladder.errors import UserError
from ladder.files import digest, follow_umask, mark, sha256, write_json
from ladder.outputs import check_folder
from ladder.parallel.group import WAIT, Group
from ladder.reading import read_json
from ladder.train.layout import local

NAME = re.compile(r"step-\d{8,}")
UNFINISHED = re.compile(rf"\.{NAME.pattern}\.(part|gone)")  # of a killed job
ASIDE = ("cuda",)  # devices on which training goes on while a copy is written
TENSORS = 32  # in a file, of which torch makes a second copy in memory when it writes it
MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW remembers of each parameter, besides the step


@dataclass
class State:
    """Where a run is: ``step`` steps done, and what was logged on the way (see ``loop.train``)."""

    step: int = 0
    steps: int | None = None  # of a run whose number of steps followed from its time
    training: list[dict] = field(default_factory=list)
    validation: list[dict] = field(default_factory=list)
    mlflow_run_id: str | None = None


class Checkpoints:
    """The checkpoints of one run in ``work``, which this job holds; ``settings`` is what they must be made with.

    The newest ``keep`` stay, and the best. All ranks call the methods together. As a context it waits, in the end,
    until what was saved is written.
    """

    def __init__(self, work: str | Path, ranks: Group, keep: int, settings: dict):
        self.work, self.ranks, self.keep = Path(work), ranks, keep
        self.settings = json.loads(json.dumps(settings))  # as it will be read back
        self._stale: dict[Path, dict] = {}  # of these other settings; they go when this run has one of its own
        # The writing thread talks to those of the other ranks while the main threads talk to each other.
        self._group = dist.new_group(backend="gloo", timeout=WAIT) if ranks.sharded else None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None
        self._copies: dict[str, torch.Tensor] = {}
        # One process is meant to be one process: torch warns of it.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        if ranks.first:
            self.work.mkdir(parents=True, exist_ok=True)
            check_folder(str(self.work), self.work, ("step-*",))
            mark(self.work, "step-*")
            for part in self.work.iterdir():
                if UNFINISHED.fullmatch(part.name) and part.is_dir() and not part.is_symlink():
                    shutil.rmtree(part)
        ranks.barrier()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
            self.wait()
        self._thread.shutdown()

    def folders(self) -> list[Path]:
        """Those that this package wrote, the oldest first."""
        return [path for path in self._named() if _is_ours(path)]

    def _named(self) -> list[Path]:
        named = (path for path in self.work.iterdir() if NAME.fullmatch(path.name))
        return sorted(named, key=lambda path: int(path.name.removeprefix("step-")))

    def latest(self) -> State:
        """The newest sound checkpoint's state, or that of a run that begins."""
        for folder in reversed(self.ranks.gather(self._named())[0]):
            if saved := self._sound(folder):
                self._say(f"{folder}: resuming after step {saved.step}")
                return saved
        if self._stale:
            newest, settings = next(iter(self._stale.items()))
            differ = sorted(k for k in settings | self.settings if settings.get(k) != self.settings.get(k))
            self._say(
                f"{newest}: made with other settings ({', '.join(differ)}); starting afresh, and deleting it "
                "when this run has a checkpoint of its own"
            )
        return State()

    def best(self) -> State | None:
        """The state of the newest sound checkpoint that was the best when it was saved."""
        self.wait()
        marked = [folder for folder in self.folders() if self._is_best(folder)]
        return next(filter(None, map(self._sound, reversed(self.ranks.gather(marked)[0]))), None)

    def load(self, state: State, model, optimizer) -> None:
        """Fill ``model`` and ``optimizer`` in place from the checkpoint of ``state``."""
        self.wait()
        _fill(model, optimizer, state.step)
        parts, copies = {}, {}
        for key, name, tensor in _tensors(model, optimizer):
            copies[key] = torch.empty_like(local(tensor), device="cpu")
            parts[key] = model.layout.part(name, tensor, copies[key])
        reader = HuggingFaceStorageReader(str(self._folder(state.step)))
        with _unwrapped():
            dcp.load(parts, storage_reader=reader, process_group=self._group)
        with torch.no_grad():
            for key, _, tensor in _tensors(model, optimizer):
                local(tensor).copy_(copies.pop(key))
        for values in optimizer.state.values():
            values["step"].fill_(state.step)

    def save(self, state: State, model, optimizer, best: bool = False) -> None:
        """Copy all that is needed to resume, and let it be written while training goes on; on a CPU, whose memory and
        cores are training's own, it is written at once.

        best: this one stays until a later one is the best. Waits for the one before, and raises what went wrong there.
        """
        self.wait()
        _fill(model, optimizer, state.step)
        parts, files, aside = {}, {}, self.ranks.device.type in ASIDE
        for number, (key, name, tensor) in enumerate(_tensors(model, optimizer)):
            files[key] = 1 + number // TENSORS
            if model.layout.writes(name, number):
                part = local(tensor).detach()
                if aside:
                    if key not in self._copies:
                        pinned = part.device.type == "cuda"
                        self._copies[key] = torch.empty(part.shape, dtype=part.dtype, pin_memory=pinned)
                    part = self._copies[key].copy_(part, non_blocking=True)
                parts[key] = model.layout.part(name, tensor, part)
        if self.ranks.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        content = {"settings": self.settings, "state": asdict(state), "best": best}
        self._writing = self._thread.submit(self._write, self._folder(state.step), parts, files, content)
        if not aside:
            self.wait()

    def wait(self) -> None:
        """Until what was saved last is written."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, folder: Path, parts: dict, files: dict[str, int], content: dict) -> None:
        """Write a checkpoint and delete the oldest beyond ``keep``. What fails, a full disk perhaps, leaves nothing."""
        part = folder.with_name(f".{folder.name}.part")
        try:
            self._fill_and_name(folder, part, parts, files, content)
        except BaseException:
            if self.ranks.first:
                shutil.rmtree(part, ignore_errors=True)
            raise

    def _fill_and_name(self, folder: Path, part: Path, parts: dict, files: dict[str, int], content: dict) -> None:
        writer = HuggingFaceStorageWriter(str(part), files, save_distributed=True)
        with _unwrapped():
            dcp.save(parts, storage_writer=writer, process_group=self._group)
        self.ranks.gather(None, self._group)
        digests = self._files(part)
        if self.ranks.first:
            content = content | {"files": digests}
            write_json(part / "state.json", content | {"digest": digest(content)})
            follow_umask(part)
            if _is_ours(folder):
                _delete(folder)
            elif os.path.lexists(folder):
                aside = next(p for n in itertools.count(1) if not os.path.lexists(p := f"{folder}.moved-{n}"))
                os.replace(folder, aside)
                self._say(f"{folder}: is no checkpoint of this package; it is now {aside}")
            os.replace(part, folder)
            own = [old for old in self.folders() if old not in self._stale or old == folder]
            best = [old for old in own if self._is_best(old)][-1:]
            for old in [*self._stale, *own[: -self.keep]]:
                if old != folder and old not in best:
                    _delete(old)
        self._stale = {}
        self.ranks.gather(None, self._group)

    def _sound(self, folder: Path) -> State | None:
        """What ``folder`` holds, if it is whole and of this run; a sentence if it is damaged."""
        try:
            content = _content(folder)
            if content["settings"] != self.settings:
                self._stale[folder] = content["settings"]
                return None
            if content["files"] != self._files(folder):
                raise UserError("digests differ")
            return State(**content["state"])
        except (UserError, TypeError, KeyError) as error:
            self._say(f"{folder}: the checkpoint is damaged ({error}); using the one before it, if any")
            return None

    def _is_best(self, folder: Path) -> bool:
        try:
            return _content(folder)["best"] is True
        except (UserError, KeyError):
            return False

    def clear(self) -> None:
        """Delete all, oldest first: the run is done, and its results are written."""
        self.wait()
        if self.ranks.first:
            for folder in self.folders():
                _delete(folder)

    def _folder(self, step: int) -> Path:
        return self.work / f"step-{step:08d}"

    def _files(self, folder: Path) -> dict[str, str]:
        """Digest of every tensor file; the ranks share the reading."""
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        mine = {name: sha256(folder / name) for name in names[self.ranks.world_rank :: self.ranks.world_size]}
        return {name: value for part in self.ranks.gather(mine, self._group) for name, value in part.items()}

    def _say(self, sentence: str) -> None:
        if self.ranks.first:
            print(sentence, file=sys.stderr, flush=True)


def trained(model) -> dict[str, torch.nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _fill(model, optimizer, step: int) -> None:
    """Give each parameter its moments if it has none: before the first step, or because the wiring never uses it
    (``parallel``'s second norm)."""
    for parameter in trained(model).values():
        if not optimizer.state[parameter]:
            moments = {name: torch.zeros_like(parameter) for name in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(step), device=parameter.device)} | moments


def _tensors(model, optimizer) -> Iterator[tuple[str, str, torch.Tensor]]:
    """The live tensors of a run, trained parameters and AdamW's moments, whole or sharded: (key in the files, name of
    the parameter, tensor)."""
    for name, parameter in trained(model).items():
        yield f"model.{name}", name, parameter
        for moment in MOMENTS:
            yield f"optimizer.{name}.{moment}", name, optimizer.state[parameter][moment]


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise what went wrong on a rank in place of torch's exception around it, which is no ``Exception``."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None


def _is_ours(folder: Path) -> bool:
    """Whether it is a checkpoint of this package, sound or damaged, and holds nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(path.name == "state.json" or path.suffix == ".safetensors" for path in folder.iterdir())


def _content(folder: Path) -> dict:
    """Of ``state.json``. Raises UserError if it is not as it was written."""
    if not _is_ours(folder):
        raise UserError("not a folder that this package wrote")
    content = read_json(folder / "state.json")
    if content.pop("digest", None) != digest(content):
        raise UserError("digest of state.json differs")
    return content


def _delete(folder: Path) -> None:
    """Under its own name it is either whole or gone, even if this is interrupted."""
    gone = folder.with_name(f".{folder.name}.gone")
    os.replace(folder, gone)
    shutil.rmtree(gone)
