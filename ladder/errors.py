"""Errors that are the user's to mend."""

import contextlib
import errno
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LAUNCHED = "LADDER_LAUNCHED"  # in the environment of a rank that ladder.parallel.group.launch started


class UserError(ValueError):
    """One sentence that names the file, the key and the value, and says what would be right.

    The command line prints it without a stack trace and exits with 1.
    """


def unknown_name(what: str, name: object, names) -> UserError:
    """The error for an unknown ``name``: lists the names that exist."""
    return UserError(f"unknown {what} {str(name)[:80]!r}; known: {', '.join(sorted(map(str, names)))}")


def tell(sentence: str, prefix: str = "") -> None:
    """Say why this process ends; or, if it was launched as a rank, leave it to the launcher, which says it once."""
    if LAUNCHED in os.environ:
        left = {"message": sentence, "timestamp": int(time.time())}
        with contextlib.suppress(OSError):  # a full disk: then it is said here
            Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(left))
            return
    print(prefix + sentence, file=sys.stderr, flush=True)


CURES = {
    errno.ENOSPC: "the disk is full; free some space and run this again, nothing that was there before is lost",
    errno.EDQUOT: "the quota is used up; free some space and run this again, nothing that was there before is lost",
    errno.EFBIG: "the file is larger than this shell or file system allows; raise `ulimit -f` or choose another place",
    errno.EROFS: "it is on a read-only file system; choose another place",
    errno.EACCES: "permission denied; choose another place, or change its permissions",
    errno.EPERM: "permission denied; choose another place, or change its permissions",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
}
WRAPPED = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)")  # by torch and pyarrow; by safetensors and tokenizers
SAID = {"No space left on device": errno.ENOSPC, "database or disk is full": errno.ENOSPC}


def sentence(error: BaseException) -> str | None:
    """What to tell the user of an error that a library raised and the user can mend; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        place = f"{error.filename}: " if error.filename else ""
        return place + CURES.get(error.errno, f"{error.strerror}")
    if isinstance(error, MemoryError):
        return "this machine has not enough memory for it; take fewer or shorter sequences at once"
    numbers = [int(one or other) for one, other in WRAPPED.findall(str(error))]
    numbers += [number for words, number in SAID.items() if words in str(error)]
    return next((CURES[number] for number in numbers if number in CURES), None)


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Errors of a library that reads somebody's file become a UserError: ``where``, then the library's first line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except BaseException as error:  # libraries raise nothing more precise: KeyError, TypeError, Exception itself
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of a library in Rust
            raise
        if isinstance(error.__cause__, UserError):  # of our own validation, wrapped by theirs
            raise UserError(f"{where} ({error.__cause__})") from error
        cause = error.__cause__ if type(error).__name__.startswith("StrictDataclass") and error.__cause__ else error
        reason = (str(cause).strip().splitlines() or [""])[0][:300]
        name = f"{type(cause).__name__}: " if isinstance(cause, KeyError | AttributeError | TypeError) else ""
        raise UserError(f"{where} ({name}{reason or type(cause).__name__})") from error
