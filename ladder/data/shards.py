"""Packed token shards: memory-mapped, checked against their manifest. Needs numpy and nothing else."""

from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import numpy as np

from ladder.errors import UserError, unknown_name
from ladder.files import sha256
from ladder.reading import read_json, take

DTYPES = ("uint16", "uint32")


def read_manifest(directory: Path) -> dict:
    """The manifest of packed tokens. Raises UserError for one that `ladder tokens` did not write."""
    path = str(Path(directory) / "manifest.json")
    manifest, where = read_json(path), f"{path}: not of `ladder tokens`"
    if (dtype := take(manifest, "dtype", str, where)) not in DTYPES:
        raise UserError(f"{where}: dtype {dtype[:40]!r} is none of {', '.join(DTYPES)}")
    take(manifest, "vocab_size", int, where, least=1, most=2**32)
    take(manifest, "eos", int, where, least=0, most=manifest["vocab_size"] - 1)
    take(manifest, "splits", dict, where)
    for number, shard in enumerate(take(manifest, "shards", list, where)):
        of = f"{where}: shards[{number}]"
        if not isinstance(shard, dict):
            raise UserError(f"{of} is no object")
        for key in ("file", "split", "sha256"):
            take(shard, key, str, of)
        take(shard, "label", str, of, default=None)
        take(shard, "tokens", int, of, least=0)
    return manifest


class TokenShards:
    """The tokens of one split as one long sequence, each document followed by ``eos``.

    ``tokens`` is its length, ``vocab_size`` what an embedding must hold. Opening reads every shard once to compare its
    size and sha256 with the manifest and raises UserError where they differ; of many ranks that share a disk, let one
    do it and open the others with ``verify=False`` (sizes are compared all the same). ``source``: the label of one
    source of a mixture, instead of all of them one after the other.
    """

    def __init__(self, directory: str | Path, split: str, verify: bool = True, source: str | None = None):
        directory = Path(directory)
        manifest = read_manifest(directory)
        if split not in manifest["splits"]:
            raise unknown_name(f"split of {directory}", split, manifest["splits"])
        self.vocab_size: int = manifest["vocab_size"]
        self.eos: int = manifest["eos"]
        dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
        shards = [shard for shard in manifest["shards"] if shard["split"] == split]
        if source is not None:
            shards = [shard for shard in shards if shard.get("label") == source]

        def intact(shard: dict) -> bool:
            path = directory / shard["file"]
            whole = path.stat().st_size == shard["tokens"] * dtype.itemsize
            return whole and (not verify or sha256(path) == shard["sha256"])

        for shard in shards:
            if not (directory / shard["file"]).is_file():
                raise UserError(f"{directory / shard['file']}: no such file; {_cure(manifest | shard)}")
        with ThreadPoolExecutor() as pool:  # hashing does not hold the interpreter: files are read side by side
            for shard, fine in zip(shards, pool.map(intact, shards), strict=True):
                if not fine:
                    path = directory / shard["file"]
                    raise UserError(f"{path}: truncated or changed since it was written; {_cure(manifest | shard)}")
        self._maps = [np.memmap(directory / shard["file"], dtype, mode="r") for shard in shards]
        self._starts = [0, *accumulate(len(tokens) for tokens in self._maps)]
        self.tokens: int = self._starts[-1]

    def read(self, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length) as int64 [length], across the borders of shards.

        Raises IndexError beyond the end.
        """
        if start < 0 or length < 0 or start + length > self.tokens:
            raise IndexError(f"tokens {start} to {start + length} of {self.tokens}")
        out = np.empty(length, np.int64)
        shard, filled = bisect_right(self._starts, start) - 1, 0
        while filled < length:
            inside = start + filled - self._starts[shard]
            piece = self._maps[shard][inside : inside + length - filled]
            out[filled : filled + len(piece)] = piece
            filled, shard = filled + len(piece), shard + 1
        return out


def _cure(made: dict) -> str:
    return f"run `{made.get('made_by', 'ladder tokens')}` again"
