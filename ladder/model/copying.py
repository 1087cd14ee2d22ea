"""Copy large files, each byte read once: its digest is taken, and compared, on the way."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ladder.errors import UserError
from ladder.files import sha256
from ladder.progress import Progress

CHUNK = 4 << 20  # bytes in memory


def damaged(file: Path, state: str = "does not match its digest") -> UserError:
    return UserError(f"{file}: the checkpoint is damaged, this file {state}; make the checkpoint again")


class Copier:
    """Copies files into ``folder`` and says how far it is: a bar on a terminal, a line now and then in a log.

    total: bytes to copy. known: {name: sha256} of sources; one that does not match raises UserError.
    ``digests`` has the sha256 of each copy, by its name in ``folder``.
    """

    def __init__(self, folder: Path, total: int, known: dict[str, str]):
        self.folder, self.known, self.digests = folder, known, {}
        self._progress = Progress(total, "B")
        self._hashing = ThreadPoolExecutor(1)
        self._buffer = memoryview(bytearray(CHUNK))

    def __enter__(self) -> "Copier":
        self._progress.__enter__()
        return self

    def __exit__(self, *failure) -> None:
        self._hashing.shutdown()
        self._progress.__exit__(*failure)

    def copy(self, source: Path, name: str) -> None:
        """The whole of ``source``, as ``folder / name``."""
        self._write(source, name, b"", [(0, source.stat().st_size)])
        if self.known.get(source.name, self.digests[name]) != self.digests[name]:
            raise damaged(source)

    def excerpt(self, source: Path, name: str, head: bytes, ranges: list[tuple[int, int]]) -> None:
        """``head``, then the bytes from start to end of each of the ``ranges`` of ``source``."""
        if source.name in self.known and sha256(source) != self.known[source.name]:
            raise damaged(source)
        self._write(source, name, head, ranges)

    def _write(self, source: Path, name: str, head: bytes, ranges: list[tuple[int, int]]) -> None:
        digest, target = hashlib.sha256(head), self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
            _write_all(write, head)
            for start, end in ranges:
                read.seek(start)
                while count := read.readinto(self._buffer[: end - start]):
                    chunk, start = self._buffer[:count], start + count
                    hashed = self._hashing.submit(digest.update, chunk)  # beside the writing
                    _write_all(write, chunk)
                    hashed.result()
                    self._advance(count)
                if start < end:
                    raise damaged(source, "ends early")
        self.digests[name] = digest.hexdigest()

    def _advance(self, count: int) -> None:
        progress = self._progress
        sizes = f"{(progress.done + count) / 1e9:.1f} of {progress.total / 1e9:.1f} GB"
        progress.advance(count, f"copied {sizes}, {progress.rate / 1e6:,.0f} MB/s")


def _write_all(file, data: bytes | memoryview) -> None:
    while data:
        data = data[file.write(data) :]
