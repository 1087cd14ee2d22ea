"""One way to write: outputs appear whole or not at all, and replace nothing that this package did not write."""

import contextlib
import fcntl
import fnmatch
import glob
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ladder.errors import UserError

CARD = "ladder.json"  # marks a directory that is replaced as a whole; holds the digest of every file in it
FOREIGN = (CARD, ".snakemake_timestamp")  # beside what a card lists
MARK = ".ladder"  # lists what was written in a folder, a name or a pattern a line: that alone may be replaced
PART, OLD = ".ladder-part", ".old.ladder-part"  # what is being written, and what stood there before
marked_folders: set[Path] = set()  # those in which this process marks what it writes


@contextlib.contextmanager
def atomic_write(path: str | Path, directory: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; the file (or ``directory``, which exists already) there takes the name
    when the block succeeds.

    A link is written through. Raises UserError where :func:`check_target` does. Permissions follow the umask.
    """
    target = check_target(path, directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f"{glob.escape(_prefix(target))}*{PART}"):
        if not _runs(left.name.removeprefix(_prefix(target)).partition(".")[0]):  # its process was killed
            _restore_or_remove(left, target)
    part = target.with_name(f"{_prefix(target)}{os.getpid()}{PART}")
    old = target.with_name(f"{_prefix(target)}{os.getpid()}{OLD}")
    if directory:
        part.mkdir()
    try:
        yield part
        follow_umask(part)
        check_target(target, directory)  # again: hours may have passed
        for folder in marked_folders.intersection(target.parents):
            if not (entry := target.relative_to(folder).parts[0]).startswith("."):  # as what is unfinished does
                mark(folder, entry)
        if directory and target.is_dir():
            os.replace(target, old)
        os.replace(part, target)
    finally:
        _remove(part)
        _restore_or_remove(old, target)


class Parts(dict):
    """By name, the temporary path of each file of a set; made when it is first asked for."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack):
        self.folder, self.stack = folder, stack

    def __missing__(self, name: str) -> Path:
        self[name] = self.stack.enter_context(atomic_write(self.folder / name))
        return self[name]


@contextlib.contextmanager
def atomic_set(last: str | Path) -> Iterator[Mapping[str, Path]]:
    """``with atomic_set(OUT / "manifest.json") as parts:`` write ``parts["train.jsonl"]``, ... and
    ``parts["manifest.json"]``; all take their names in OUT when the block succeeds.

    ``last`` is gone until the others have taken theirs: what it describes is always complete.
    """
    last = Path(last)
    with contextlib.ExitStack() as stack:
        parts = Parts(last.parent, stack)
        _ = parts[last.name]  # the first to be made is the last to take its name
        yield parts
        Path(os.path.realpath(last)).unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    """What the names of files that belong to a write of ``target`` on this machine begin with."""
    return f".{target.name}.{socket.gethostname()}-"


def check_target(path: str | Path, directory: bool = False) -> Path:
    """Where ``path`` leads, if a file (or a ``directory``) may be written there. Raises UserError if

    * something of another kind stands there, or on the way to it;
    * a directory stands there that is not empty and was not written whole by this package, or has had files added;
    * it is a mount point or holds the working directory, so that it cannot be replaced.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    if above := next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None):
        raise UserError(f"{path}: {above} is a file, so nothing can be written below it; choose another place")
    if target.is_symlink():
        raise UserError(f"{path}: is a link that leads in a circle; choose another place")
    if not directory and path.is_dir():
        raise UserError(f"{path}: is a directory, and a file is to be written; add a file name to it")
    if directory and path.is_file():
        raise UserError(f"{path}: is a file, and a directory is to be written; choose another place")
    if not path.exists():
        return target
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: is a device or a pipe, which cannot be replaced; choose another place")
    if _is_mount(target):
        raise UserError(f"{path}: is a mount point, which cannot be replaced; choose another place")
    if directory:
        here = Path.cwd()
        if target == here or target in here.parents:
            raise UserError(f"{path}: holds the working directory, which cannot be replaced; name a directory in it")
        if foreign := _foreign(target):
            raise UserError(
                f"{path}: holds {foreign!r}, which this package did not write; write somewhere else, or move it away"
            )
    return target


def _is_mount(path: Path) -> bool:
    """Also of a file, and of a folder of the same file system."""
    if os.path.ismount(path):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    escaped = "".join(rf"\{ord(c):03o}" if c in " \t\n\\" else c for c in str(path))
    return any(line.split()[4] == escaped for line in lines)


def _foreign(folder: Path) -> str | None:
    """Something in ``folder`` that its card does not list."""
    try:
        listed = set(json.loads((folder / CARD).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return next((entry.name for entry in sorted(folder.iterdir())), None)
    files = (file for file in sorted(folder.rglob("*")) if file.is_symlink() or not file.is_dir())
    names = (file.relative_to(folder).as_posix() for file in files)
    return next((name for name in names if name not in listed and name not in FOREIGN), None)


def check_writable(path: str | Path) -> None:
    """Try to write beside ``path``, or in the nearest folder above it that exists. Raises UserError."""
    target = Path(os.path.realpath(path))
    folder = next(parent for parent in target.parents if parent.exists())
    probe = folder / f"{_prefix(target)}{os.getpid()}{OLD}"  # the longest name that will be used
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        probe.unlink()
    except OSError as error:
        raise UserError(f"{path}: {folder} cannot be written to ({error.strerror}); choose another place") from None


def mark(folder: Path, name: str) -> None:
    """Note that ``name``, an entry of ``folder`` or a pattern of some, may be replaced."""
    if name not in _marks(folder):
        with (folder / MARK).open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")


def is_marked(folder: Path, name: str) -> bool:
    """Whether the entry ``name`` of ``folder`` was written by this package, or may be replaced by consent."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _marks(folder))


def _marks(folder: Path) -> list[str]:
    try:
        return (folder / MARK).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def follow_umask(path: Path) -> None:
    """Some libraries write files that only their owner may read."""
    mask = os.umask(0o077)
    os.umask(mask)
    for entry in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if not entry.is_symlink():
            entry.chmod((0o777 if entry.is_dir() else 0o666) & ~mask)


def _restore_or_remove(left: Path, target: Path) -> None:
    """Remove what a write of ``target`` left; but what was moved aside comes back if nothing has taken its place."""
    if left.name.endswith(OLD) and left.is_dir() and not target.exists():
        os.replace(left, target)
    else:
        _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _runs(pid: str) -> bool:
    """Whether another process of this machine has the number ``pid``."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return int(pid) != os.getpid()  # in a container, every process may have the same


def write_json(path: str | Path, value) -> None:
    with atomic_write(path) as part:
        part.write_text(json_text(value), encoding="utf-8")


def json_text(value) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


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
    folder = Path(os.path.realpath(folder))  # a link to a place that is not there yet is followed
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process is at this work; waiting for it to finish", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
