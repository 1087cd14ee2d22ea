"""Rows from local files and from the Hugging Face hub."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ladder.errors import UserError
from ladder.reading import jsonl_rows

TEXT = (".txt", ".md")
ROWS = (".jsonl", ".jsonl.gz", ".parquet")


def kind(path: Path) -> str | None:
    """The ending that says how a file is read; None if it cannot be."""
    return next((ending for ending in TEXT + ROWS if path.name.lower().endswith(ending)), None)


def local_files(paths: list[Path]) -> list[tuple[Path, str]]:
    """The data files named by ``paths``, and their short names; directories are searched, in the order of names.

    Files of other kinds in a directory are named on stderr. Raises UserError for a path that does not exist, holds no
    data file, or is an empty file.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            every = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            inside = [p for p in every if kind(p)]
            if not inside:
                raise UserError(f"{path}: no {', '.join(TEXT + ROWS)} file in this directory")
            if others := [p.name for p in every if not kind(p)]:
                names = ", ".join(others[:5]) + ", ..." * (len(others) > 5)
                print(f"{path}: passed over {len(others)} files of other kinds: {names}", file=sys.stderr)
            found += [(p, p.relative_to(path).as_posix()) for p in inside]
        elif not path.exists():
            raise UserError(f"{path}: no such file or directory")
        elif not kind(path):
            raise UserError(
                f"{path}: cannot read {path.suffix or 'this kind of'!r} files; use {', '.join(TEXT + ROWS)}"
            )
        elif not path.is_file():
            raise UserError(f"{path}: is a device or a pipe, not a file")
        else:
            found.append((path, path.name))
    for path, _ in found:
        if not path.stat().st_size:
            raise UserError(f"{path}: the file is empty; remove it from the paths or fill it")
    return found


def local_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """(where, row) for each row of a JSONL or parquet file; ``where`` is ``FILE:LINE`` for messages."""
    if kind(path) != ".parquet":
        yield from jsonl_rows(path)
        return
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path, page_checksum_verification=True).iter_batches(batch_size=1024):
            for number, row in enumerate(batch.to_pylist(), number + 1):  # noqa: B020
                yield f"{path}:{number}", row
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a parquet file, or a damaged one ({reason}); get it again") from None


def hub_rows(name: str, config: str | None, split: str, part: tuple[int, int] = (1, 1)) -> Iterator[tuple[str, dict]]:
    """(where, row) for each row of a hub dataset, streamed; part (i, n) reads the i-th n-th of the dataset's files.

    Raises UserError when the hub does not give it, and when it has fewer files than parts.
    """
    import datasets

    number, of = part
    try:
        with tempfile.TemporaryDirectory(prefix="ladder-stream-") as cache:  # else locks stay behind in the user's home
            stream = datasets.load_dataset(name, config, split=split, streaming=True, cache_dir=cache)
            if of > stream.num_shards:
                raise UserError(f"{name}: has {stream.num_shards} files; --part {number}/{of} needs at least {of}")
            stream = stream.shard(of, number - 1)
            for number, row in enumerate(stream, 1):
                yield f"{name}:{number}", row
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        # DatasetNotFoundError, ConnectionError and offline mode are OSErrors; unknown configs and splits ValueErrors.
        if isinstance(error, UserError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: cannot stream this dataset from the Hugging Face hub ({reason}); check --name, --config-name, "
            "--split and the network, or use --kind files with local data"
        ) from None


def hub_licence(name: str) -> str:
    return f"see https://huggingface.co/datasets/{name}"
