"""One way to write: outputs appear whole or not at all, and replace nothing that this package did not write."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from ladder.errors import UserError

CARD = "ladder.json"  # marks a directory that is replaced as a whole; holds the digest of every file in it
MARK = ".ladder"  # marks a folder in which a command may replace its own files
marked_folders: set[Path] = set()  # those in which this process may replace files; they get a mark with the first
FOREIGN = (CARD, ".snakemake_timestamp")  # beside what a card lists


@contextlib.contextmanager
def atomic_write(path: str | Path, directory: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; the file (or ``directory``, which exists already) there takes the name
    when the block succeeds.

    A link is written through. Raises UserError where :func:`check_target` does. Permissions follow the umask.
    """
    target = check_target(path, directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.{socket.gethostname()}-"
    for left in target.parent.glob(f"{glob.escape(prefix)}*.ladder-part"):
        if not _runs(left.name.removeprefix(prefix).partition(".")[0]):  # its process was killed
            _remove(left)
    part = target.with_name(f"{prefix}{os.getpid()}.ladder-part")
    old = part.with_name(f"{prefix}{os.getpid()}.old.ladder-part")
    if directory:
        part.mkdir()
    try:
        yield part
        _follow_umask(part)
        check_target(target, directory)  # again: hours may have passed
        if directory and target.is_dir():
            os.replace(target, old)
        os.replace(part, target)
        for folder in marked_folders.intersection(target.parents):
            (folder / MARK).touch()
    finally:
        _remove(part)
        _remove(old)


def check_target(path: str | Path, directory: bool = False) -> Path:
    """Where ``path`` leads, if a file (or a ``directory``) may be written there. Raises UserError if

    * something of another kind stands there, or on the way to it;
    * a directory stands there that is not empty and was not written whole by this package, or has had files added;
    * it is a mount point or holds the working directory, so that it cannot be replaced.
    """
    target = Path(os.path.realpath(path))
    if above := next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None):
        raise UserError(f"{path}: {above} is a file, so nothing can be written below it; choose another place")
    if not directory:
        if target.is_dir():
            raise UserError(f"{path}: is a directory, and a file is to be written; add a file name to it")
        if target.exists() and not target.is_file():
            raise UserError(f"{path}: is a device or a pipe, and a file is to be written; choose another place")
        return target
    if not target.exists():
        return target
    if not target.is_dir():
        raise UserError(f"{path}: is a file, and a directory is to be written; choose another place")
    if os.path.ismount(target):
        raise UserError(f"{path}: is a mount point, which cannot be replaced; name a directory in it")
    here = Path.cwd()
    if target == here or target in here.parents:
        raise UserError(f"{path}: holds the working directory, which cannot be replaced; name a directory in it")
    if foreign := _foreign(target):
        raise UserError(
            f"{path}: holds {foreign!r}, which this package did not write; write somewhere else, or move it away first"
        )
    return target


def _foreign(folder: Path) -> str | None:
    """Something in ``folder`` that its card does not list."""
    try:
        listed = set(json.loads((folder / CARD).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        listed = set()
        return next((entry.name for entry in sorted(folder.iterdir())), None)
    names = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if not file.is_dir())
    return next((name for name in names if name not in listed and name not in FOREIGN), None)


def check_writable(path: str | Path) -> None:
    """Try to write beside ``path``, or in the nearest folder above it that exists. Raises UserError."""
    target = Path(os.path.realpath(path))
    folder = next(parent for parent in target.parents if parent.exists())
    probe = folder / f".{socket.gethostname()}-{os.getpid()}.ladder-part"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        probe.unlink()
    except OSError as error:
        raise UserError(f"{path}: {folder} cannot be written to ({error.strerror}); choose another place") from None


def _follow_umask(part: Path) -> None:
    """Some libraries write files that only their owner may read."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in (part, *part.rglob("*")) if part.is_dir() else (part,):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _runs(pid: str) -> bool:
    """Whether a process of this machine has the number ``pid``."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_json(path: str | Path, value) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_jsonl(path: str | Path, rows) -> None:
    with atomic_write(path) as part, part.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value) -> str:
    """sha256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def need_disk(path: str | Path, size: int) -> None:
    """Refuse to start writing ``size`` bytes under ``path`` where they do not fit."""
    folder = Path(os.path.realpath(path))
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{path}: the planned output takes {size_text(size)} but {folder} has {size_text(free)} free; "
            "free some space or put the output elsewhere"
        )


def size_text(size: float) -> str:
    """``1.2 GB``, in a unit that suits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(size) < 1000 or unit == "GB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError


@contextlib.contextmanager
def only_one(folder: str | Path) -> Iterator[None]:
    """Hold ``folder`` for this process; a second one waits: after a kill, an orphan may still be at the same work."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process is at this work; waiting for it to finish", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
