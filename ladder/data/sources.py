"""Rows from local files and from the Hugging Face hub."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ladder.errors import UserError
from ladder.reading import read_jsonl

TEXT = (".txt", ".md")
ROWS = (".jsonl", ".parquet")


def local_files(paths: list[Path]) -> list[tuple[Path, str]]:
    """The data files named by ``paths``, and their short names; directories are searched, in the order of names.

    Raises UserError for a path that does not exist, holds no data file, or is an empty file.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix in TEXT + ROWS and p.is_file())
            if not inside:
                raise UserError(f"{path}: no {', '.join(TEXT + ROWS)} file in this directory")
            found += [(p, p.relative_to(path).as_posix()) for p in inside]
        elif not path.exists():
            raise UserError(f"{path}: no such file or directory")
        elif path.suffix not in TEXT + ROWS:
            raise UserError(
                f"{path}: cannot read {path.suffix or 'this kind of'!r} files; use {', '.join(TEXT + ROWS)}"
            )
        else:
            found.append((path, path.name))
    for path, _ in found:
        if not path.stat().st_size:
            raise UserError(f"{path}: the file is empty; remove it from the paths or fill it")
    return found


def local_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """(where, row) for each row of a JSONL or parquet file; ``where`` is ``FILE:LINE`` for messages."""
    if path.suffix == ".jsonl":
        yield from ((f"{path}:{number}", row) for number, row in enumerate(read_jsonl(path), 1))
        return
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(batch_size=1024))
    yield from ((f"{path}:{number}", row) for number, row in enumerate(rows, 1))


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
