"""One pipeline in a folder at a time: whose locks are left over from a kill, and whether a process still lives."""

import atexit
import fcntl
import os
import shutil
import socket
import sys
from io import TextIOWrapper
from pathlib import Path


def alone(locks: Path) -> TextIOWrapper:
    """Tell other snakemakes of this folder that this one lives, for as long as the file returned is open.

    ``locks``: the folder in which snakemake keeps its locks. Where no other lives they are left over from a kill, and
    are removed; otherwise snakemake itself decides by them whether two may run at once. Raises OSError where files
    cannot be locked or written.
    """
    locks.parent.mkdir(parents=True, exist_ok=True)
    alive = (locks.parent / "ladder.lock").open("a")
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # Last, since snakemake itself would advise to unlock.
        text = f"another snakemake runs in {Path.cwd()}: if this one stopped at its lock, wait for it and do not unlock"
        atexit.register(print, text, file=sys.stderr)
    else:
        shutil.rmtree(locks, ignore_errors=True)
    fcntl.flock(alive, fcntl.LOCK_SH)
    return alive


def identity() -> dict[str, str]:
    """What tells this process from all others, past ones too: host, namespace (of a container), number, beginning."""
    names = {"host": socket.gethostname(), "pid": str(os.getpid())}
    return names | {"pid_namespace": _namespace(), "pid_started": _began(os.getpid())}


def has_ended(process: dict[str, str]) -> bool:
    """Whether the process of that :func:`identity` was of this host and is gone; of others nothing is known."""
    here = socket.gethostname(), process.get("pid_namespace") and _namespace()
    if (process.get("host"), process.get("pid_namespace")) != here or not process.get("pid", "").isdigit():
        return False
    try:
        os.kill(int(process["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    # Another process may have the number by now.
    return bool(process.get("pid_started")) and _began(int(process["pid"])) != process["pid_started"]


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _began(pid: int) -> str:
    """Clock ticks from the start of the machine to that of the process; empty where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
