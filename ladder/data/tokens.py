"""Pack a corpus into memory-mapped token shards.

Every document is followed by the tokenizer's end-of-text token; a marker that stands in a document's own text is
encoded as text. A shard is OUT/SPLIT-NNNNN.bin: little-endian uint16 (uint32 for a vocabulary above 65,536), at most
2**28 tokens. OUT/manifest.json holds counts, digests, source and licence; ladder.data.shards reads them back.

A corpus gathered in parts is packed in parts, each a job of its own; --merge writes the manifest that names the shards
of all of them, in the order of the parts, whichever was packed first. Nothing is copied. Of several sources --weight
says how often each is read in training (ladder.train.batches).

  ladder tokens --corpus build/corpus --tokenizer build/tokenizer --out build/tokens --record build/tokens.json
  ladder tokens --merge build/tokens/web-1 build/tokens/web-2 build/tokens/code-1 --weight web=3 code=1 \\
      --out build/tokens --record build/tokens.json
"""

import argparse
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ladder.data.documents import SPLITS, documents, files, manifest
from ladder.data.parts import complete, joined, part_name
from ladder.data.shards import read_manifest
from ladder.data.tokenizer import load
from ladder.errors import UserError
from ladder.files import atomic_set, digest, json_text, need_disk, sha256, write_json
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.outputs import OutputFolder
from ladder.reading import number

SHARD = 2**28  # tokens
BATCH = 2**20  # characters encoded at once
ALIKE = ("tokenizer", "dtype", "vocab_size", "eos")  # what all parts must have in common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, help="directory of `ladder corpus`")
    parser.add_argument("--tokenizer", type=Path, help="directory of `ladder tokenizer`")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="DIR", help="join these packed parts instead")
    parser.add_argument(
        "--weight", nargs="+", default=[], metavar="LABEL=NUMBER", help="with --merge: of each of several sources"
    )
    parser.add_argument(
        "--out",
        action=OutputFolder,
        writes=(*(f"{split}-*.bin" for split in SPLITS), "manifest.json"),
        holds=("merge",),
        required=True,
        help="directory to write",
    )
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    if bool(args.merge) == bool(args.corpus) or bool(args.corpus) != bool(args.tokenizer):
        raise UserError("give --corpus and --tokenizer to pack a corpus, or --merge with the parts to join")
    if args.merge:
        parts = complete(args.merge, "ladder tokens")
        shares = shares_of(args.weight, {part["label"] for part in parts.values()})
        check_alike(parts)
    else:
        tokenizer, eos = load(args.tokenizer)
        splits = [split for split in SPLITS if manifest(args.corpus, [])["documents"][split]]
        about = manifest(args.corpus, splits)
    with job(args, "corpus", "tokens" if args.merge else part_name("tokens", about)) as this:
        if args.merge:
            made = merge(parts, shares, args.out)
        else:
            made = pack(args.corpus, splits, args.tokenizer, tokenizer, eos, args.out, about)
        values = [(f"{split}_tokens", totals["tokens"], "tokens") for split, totals in made["splits"].items()]
        tokens = sum(totals["tokens"] for totals in made["splits"].values())
        values.append(("characters_per_token", sum(made["characters"].values()) / tokens, "characters/token"))
        for label, source in made.get("sources", {}).items():
            values.append((f"{label}_train_tokens", source["splits"]["train"]["tokens"], "tokens"))
            values.append((f"{label}_share", source["share"], "1"))
        rows = [this.row(metric=metric, value=value, unit=unit, origin="measured") for metric, value, unit in values]
        this.finish(rows, artifacts=(args.out / "manifest.json",))


def pack(corpus, splits, directory: Path, tokenizer, eos: int, out: Path, about: dict, shard: int = SHARD) -> dict:
    """Encode the splits, write shards of at most ``shard`` tokens and the manifest, and return the manifest."""
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    # Two bytes of text a token is more than any tokenizer needs on prose.
    need_disk(out, sum(path.stat().st_size for s in splits for path in files(corpus, s)) // 2 * dtype.itemsize)
    with atomic_set(Path(out) / "manifest.json") as parts:
        shards = []
        for split in splits:
            encoded = encode(tokenizer, eos, documents(corpus, split))
            shards += [{"split": split} | made for made in write_shards(parts, split, encoded, dtype, eos, shard)]
        found = {
            "dtype": dtype.name,
            "vocab_size": vocab_size,
            "eos": eos,
            "splits": {split: _totals(shards, split) for split in splits},
            "shards": shards,
            **{key: about[key] for key in ("source", "licence", "label", "part", "characters") if key in about},
            "corpus": sha256(Path(corpus) / "manifest.json"),
            "tokenizer": sha256(Path(directory) / "tokenizer.json"),
            "made_by": f"ladder tokens --corpus {corpus} --tokenizer {directory} --out {out}",
        }
        parts["manifest.json"].write_text(json_text(found), encoding="utf-8")
    return found


def _totals(shards: list[dict], split: str) -> dict:
    return {key: sum(shard[key] for shard in shards if shard["split"] == split) for key in ("tokens", "documents")}


def shares_of(weights: list[str], labels: set[str]) -> dict[str, float]:
    """``["web=3", "code=1"]`` -> ``{"code": 0.25, "web": 0.75}``. Raises UserError unless all ``labels`` have one."""
    given = {}
    for word in weights or ([f"{label}=1" for label in labels] if len(labels) == 1 else []):
        label, _, value = word.partition("=")
        try:
            given[label] = number(value)
        except ValueError:
            raise UserError(f"--weight {word} is not LABEL=NUMBER") from None
        if not given[label] > 0:
            raise UserError(f"--weight {word}: a weight must be above 0; leave the source out if it is not to be read")
    if set(given) != labels:
        raise UserError(f"--weight is for {_named(given) or 'nothing'}, but the parts are of {_named(labels)}")
    return {label: given[label] / sum(given.values()) for label in sorted(labels)}


def _named(labels: Iterable[str]) -> str:
    return ", ".join(sorted(labels))


def check_alike(parts: dict[Path, dict]) -> None:
    """Refuse parts that were not packed with one tokenizer, and parts whose shards are not there as a whole."""
    for path in parts:
        read_manifest(path)
    first = next(iter(parts))
    for path, part in parts.items():
        if any(part[key] != parts[first][key] for key in ALIKE):
            raise UserError(f"{path}: packed with another tokenizer than {first}; pack it again with `ladder tokens`")
        for shard in part["shards"]:
            file = path / shard["file"]
            if not file.is_file() or file.stat().st_size != shard["tokens"] * np.dtype(part["dtype"]).itemsize:
                raise UserError(f"{file}: missing or truncated; run `{part['made_by']}` again")


def merge(parts: dict[Path, dict], shares: dict[str, float], out: Path) -> dict:
    """Write the manifest of all parts' shards, in the order of ``parts``, and return it."""
    every = list(parts.values())
    shards = [
        {
            **shard,
            "file": os.path.relpath(path / shard["file"], out),
            **{key: part[key] for key in ("label", "made_by")},
        }
        for path, part in parts.items()
        for shard in part["shards"]
    ]
    splits = [split for split in SPLITS if any(shard["split"] == split for shard in shards)]
    sources = {}
    for label, share in shares.items():
        mine = [part for part in every if part["label"] == label]
        totals = {split: _totals([shard for shard in shards if shard["label"] == label], split) for split in splits}
        if empty := [split for split in splits if not totals[split]["tokens"]]:
            raise UserError(f"{label!r}: has no tokens of {_named(empty)}; give `ladder corpus` more of it")
        sources[label] = {"share": share, "splits": totals}
        sources[label] |= {key: joined(mine, key) for key in ("source", "licence")}
    found = {
        **{key: every[0][key] for key in ALIKE},
        "splits": {split: _totals(shards, split) for split in splits},
        "characters": {split: sum(part["characters"].get(split, 0) for part in every) for split in splits},
        "sources": sources,
        "shards": shards,
        **{key: joined(every, key) for key in ("source", "licence")},
        "corpus": digest([part["corpus"] for part in every]),
        "made_by": f"ladder tokens --merge ... --out {out}",
    }
    write_json(Path(out) / "manifest.json", found)
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


def write_shards(
    parts: Mapping[str, Path], split: str, encoded: Iterator[list[int]], dtype, eos: int, shard: int
) -> Iterator[dict]:
    """Write ``encoded`` as the ``parts`` SPLIT-NNNNN.bin and yield what the manifest says of each; a document may span
    two."""
    arrays = (np.array(ids, dtype) for ids in encoded)
    rest = next(arrays, None)
    number = 0
    while rest is not None:
        name, digest, tokens, ends = f"{split}-{number:05d}.bin", hashlib.sha256(), 0, 0
        with parts[name].open("wb") as file:
            while rest is not None and tokens < shard:
                fits, rest = rest[: shard - tokens], rest[shard - tokens :]
                file.write(fits.tobytes())
                digest.update(fits)
                tokens += len(fits)
                ends += int((fits == eos).sum())
                rest = rest if len(rest) else next(arrays, None)
        yield {"file": name, "tokens": tokens, "documents": ends, "sha256": digest.hexdigest()}
        number += 1
