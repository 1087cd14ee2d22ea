"""Pack a corpus into memory-mapped token shards.

Every document is followed by the tokenizer's end-of-text token; a marker that stands in a document's own text is
encoded as text. A shard is OUT/SPLIT-NNNNN.bin: little-endian uint16 (uint32 for a vocabulary above 65,536), at most
2**28 tokens. OUT/manifest.json holds counts, digests, source and licence; ladder.data.shards reads them back.

  ladder tokens --corpus build/corpus --tokenizer build/tokenizer --out build/tokens --record build/tokens.json
"""

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ladder.data.documents import SPLITS, documents, manifest
from ladder.data.tokenizer import load
from ladder.files import need_disk, sha256, whole, write_json
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job

SHARD = 2**28  # tokens
BATCH = 2**20  # characters encoded at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, required=True, help="directory of `ladder corpus`")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory of `ladder tokenizer`")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    tokenizer, eos = load(args.tokenizer)
    splits = [split for split in SPLITS if manifest(args.corpus, [])["documents"][split]]
    about = manifest(args.corpus, splits)
    with job(args, "corpus", "tokens") as this:
        made = pack(args.corpus, splits, args.tokenizer, tokenizer, eos, args.out, about)
        rows = [
            this.row(metric=f"{split}_tokens", value=made["splits"][split]["tokens"], unit="tokens", origin="measured")
            for split in splits
        ]
        characters = sum(about["characters"].values()) / sum(made["splits"][split]["tokens"] for split in splits)
        unit = "characters/token"
        rows.append(this.row(metric="characters_per_token", value=characters, unit=unit, origin="measured"))
        this.finish(rows, artifacts=(args.out / "manifest.json",))


def pack(corpus, splits, directory: Path, tokenizer, eos: int, out: Path, about: dict, shard: int = SHARD) -> dict:
    """Encode the splits, write shards of at most ``shard`` tokens and the manifest, and return the manifest."""
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    # Two bytes of text a token is more than any tokenizer needs on prose.
    need_disk(out, sum((Path(corpus) / f"{s}.jsonl").stat().st_size for s in splits) // 2 * dtype.itemsize)
    target = Path(out) / "manifest.json"
    target.unlink(missing_ok=True)  # it comes last: what it describes is complete
    shards = []
    for split in splits:
        encoded = encode(tokenizer, eos, documents(corpus, split))
        shards += [{"split": split} | made for made in write_shards(out, split, encoded, dtype, eos, shard)]
    totals = {
        split: {key: sum(s[key] for s in shards if s["split"] == split) for key in ("tokens", "documents")}
        for split in splits
    }
    found = {
        "dtype": dtype.name,
        "vocab_size": vocab_size,
        "eos": eos,
        "splits": totals,
        "shards": shards,
        "source": about["source"],
        "licence": about["licence"],
        "corpus": sha256(Path(corpus) / "manifest.json"),
        "tokenizer": sha256(Path(directory) / "tokenizer.json"),
        "made_by": f"ladder tokens --corpus {corpus} --tokenizer {directory} --out {out}",
    }
    write_json(target, found)
    return found


def encode(tokenizer, eos: int, rows: Iterable[dict]) -> Iterator[list[int]]:
    """The token ids of each document, ``eos`` at the end."""
    for texts in _batches(row["text"] for row in rows):
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield [*encoding.ids, eos]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def write_shards(out: Path, split: str, encoded: Iterator[list[int]], dtype, eos: int, shard: int) -> Iterator[dict]:
    """Write ``encoded`` as OUT/SPLIT-NNNNN.bin and yield what the manifest says of each; a document may span two."""
    arrays = (np.array(ids, dtype) for ids in encoded)
    rest = next(arrays, None)
    number = 0
    while rest is not None:
        name, digest, tokens, ends = f"{split}-{number:05d}.bin", hashlib.sha256(), 0, 0
        with whole(Path(out) / name) as part, part.open("wb") as file:
            while rest is not None and tokens < shard:
                fits, rest = rest[: shard - tokens], rest[shard - tokens :]
                file.write(fits.tobytes())
                digest.update(fits)
                tokens += len(fits)
                ends += int((fits == eos).sum())
                rest = rest if len(rest) else next(arrays, None)
        yield {"file": name, "tokens": tokens, "documents": ends, "sha256": digest.hexdigest()}
        number += 1
