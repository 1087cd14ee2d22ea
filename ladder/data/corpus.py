"""Gather documents and split them into train, validation and test by the hash of their text.

Kinds of corpus:
  python-docs   the running interpreter's help topics and its standard library's docstrings; needs nothing
  files         local .txt and .md (a file is a document), .jsonl and .parquet (a row is one), or directories of them
  huggingface   a dataset of the hub, streamed

Exact duplicates are dropped, so no document is in two splits; the order is that of the source.

A large source is gathered in parts, each a job of its own: --part 3/64 takes the third 64th of the source's files (of a
local source with fewer files: every 64th document), and of --limit its share. --merge makes one corpus of all parts:
the training documents stay where they are. Duplicates are dropped within a part. A copy in another part stays, but in
the same split, since the split is of the text: what is held out is never trained on. A mixture of sources is gathered
in the same way, under a --label each.

Writes OUT/{train,validation,test}.jsonl with {"id", "text"} a line, OUT/manifest.json and the record.

  ladder corpus --kind python-docs --out build/corpus --record build/corpus.json
  ladder corpus --kind files --path web/ --part 1/2 --out build/parts/web-1 --record build/web-1.json
  ladder corpus --merge build/parts/web-1 build/parts/web-2 --out build/corpus --record build/corpus.json
  ladder corpus --kind huggingface --name HuggingFaceFW/fineweb-edu --config-name sample-10BT --out build/corpus \\
      --record build/corpus.json
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ladder.data import python_docs, sources
from ladder.data.documents import SPLITS, split_of
from ladder.data.parts import complete, joined, part_name, part_of
from ladder.errors import UserError
from ladder.files import atomic_set, json_text, need_disk, sha256
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.outputs import OutputFolder
from ladder.reading import clean, read_text

MANIFEST = "manifest.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=("python-docs", "files", "huggingface"), default="python-docs")
    parser.add_argument("--path", type=Path, nargs="+", action="extend", help="files: what to read")
    parser.add_argument("--name", help="huggingface: the dataset")
    parser.add_argument("--config-name", help="huggingface: its configuration")
    parser.add_argument("--split", default="train", help="huggingface: which of its splits to read (default: train)")
    parser.add_argument("--text-field", default="text", help="the column that holds the text (default: text)")
    parser.add_argument("--limit", type=int, help="stop after this many documents of the source")
    parser.add_argument("--validation", type=float, default=0.04, help="share of the documents (default: 0.04)")
    parser.add_argument("--test", type=float, default=0.08, help="share of the documents (default: 0.08)")
    parser.add_argument("--part", metavar="I/N", help="gather the I-th of N parts of the source")
    parser.add_argument("--label", default="corpus", help="of the source's parts (default: corpus)")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="DIR", help="make one corpus of these parts instead")
    parser.add_argument(
        "--out",
        action=OutputFolder,
        writes=(*(f"{split}.jsonl" for split in SPLITS), MANIFEST),
        holds=("merge",),
        required=True,
        help="directory to write",
    )
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    parts = complete(args.merge, "ladder corpus") if args.merge else None
    gathered, about = (None, None) if parts else gather(args)
    with job(args, "corpus", "corpus" if parts else part_name("corpus", about)) as this:
        made = merge(parts, args.out) if parts else write(args.out, gathered, args.validation, args.test, about)
        rows = [
            this.row(metric=f"{split}_{unit}", value=made[unit][split], unit=unit, origin="measured")
            for unit in ("documents", "characters")
            for split in SPLITS
        ]
        this.finish(rows, artifacts=(args.out / "manifest.json",))


def gather(args: argparse.Namespace) -> tuple[Iterator[dict], dict]:
    """The documents that the arguments ask for, and what the manifest says of their source."""
    for key, share in (("--validation", args.validation), ("--test", args.test)):
        if not 0 <= share < 1:
            raise UserError(f"{key} {share} is not a share of the documents; give a number from 0 to below 1")
    if args.validation + args.test >= 1:
        raise UserError(f"--validation {args.validation} and --test {args.test} leave nothing to train on")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit} leaves no documents; give at least 1")
    if not args.part:
        found, about = _source(args, (1, 1))
        return itertools.islice(found, args.limit), about
    if not args.label.isidentifier():
        raise UserError(f"--label {args.label!r} is not a word of letters, digits and _")
    number, of = part_of(args.part)
    if args.limit is not None and args.limit < of:
        raise UserError(f"--limit {args.limit} is less than a document for each of {of} parts; choose fewer parts")
    found, about = _source(args, (number, of))
    limit = args.limit and args.limit * number // of - args.limit * (number - 1) // of
    return itertools.islice(found, limit), about | {"label": args.label, "part": [number, of]}


def _source(args: argparse.Namespace, part: tuple[int, int]) -> tuple[Iterator[dict], dict]:
    """The documents of part (i, n) of the source, and what the manifest says of it."""
    number, of = part
    if args.kind == "python-docs":
        version = platform.python_version()
        about = {"source": f"documentation of Python {version}", "licence": python_docs.LICENCE}
        turns = itertools.islice(python_docs.documents(), number - 1, None, of)
        return turns, {"kind": args.kind, **about, "python_version": version}
    if args.kind == "files":
        if not args.path:
            raise UserError("--kind files needs --path with the files or directories to read")
        files = sources.local_files(args.path)
        need_disk(args.out, sum(path.stat().st_size for path, _ in files) // of)
        about = {"source": ", ".join(Path(path).name for path in args.path), "licence": "as given by the owner"}
        if len(files) >= of:
            taken = from_files(files[number - 1 :: of], args.text_field)
        else:
            taken = itertools.islice(from_files(files, args.text_field), number - 1, None, of)
        return taken, {"kind": args.kind, **about}
    if not args.name:
        raise UserError("--kind huggingface needs --name with the dataset, e.g. HuggingFaceFW/fineweb-edu")
    names = [args.name, args.config_name, args.split]
    about = {"source": "/".join(filter(None, names)), "licence": sources.hub_licence(args.name)}
    rows = sources.hub_rows(args.name, args.config_name, args.split, part)
    return from_rows(args.name, rows, args.text_field), {"kind": args.kind, **about}


def from_files(files: list[tuple[Path, str]], field: str) -> Iterator[dict]:
    for path, name in files:
        if sources.kind(path) in sources.TEXT:
            yield {"id": name, "text": read_text(path).replace("\r\n", "\n").replace("\r", "\n")}
        else:
            yield from from_rows(name, sources.local_rows(path), field)


def from_rows(name: str, rows: Iterable[tuple[str, dict]], field: str) -> Iterator[dict]:
    for number, (where, row) in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            have = ", ".join(map(repr, row))[:200] if isinstance(row, dict) else "no columns"
            raise UserError(f"{where}: no text in column {field!r} (it has {have}); name the column with --text-field")
        yield {"id": f"{name}:{row.get('id', number)}", "text": row[field]}


def write(out: Path, documents: Iterable[dict], validation: float, test: float, about: dict) -> dict:
    """Write the splits and the manifest, and return the manifest.

    Raises UserError when a split that has a share gets no document; of a part, when there is nothing to train on.
    Memory: about 70 bytes a document, for its hash.
    """
    counts = {"documents": dict.fromkeys(SPLITS, 0), "characters": dict.fromkeys(SPLITS, 0)}
    seen: set[int] = set()
    with atomic_set(Path(out) / MANIFEST) as parts:
        with contextlib.ExitStack() as stack:
            files = {s: stack.enter_context(parts[f"{s}.jsonl"].open("w", encoding="utf-8")) for s in SPLITS}
            for document in documents:
                text = clean(document["text"])
                key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
                if key in seen or not text.strip():
                    continue
                seen.add(key)
                split = split_of(text, validation, test)
                files[split].write(json.dumps({"id": clean(document["id"]), "text": text}, ensure_ascii=False) + "\n")
                counts["documents"][split] += 1
                counts["characters"][split] += len(text)
        shares = {"train": 1 - validation - test}
        if "part" not in about:
            shares |= {"validation": validation, "test": test}
        for split, share in shares.items():
            if share and not counts["documents"][split]:
                raise UserError(
                    f"{about['source']}: none of its {len(seen)} documents fell into {split!r} (share {share:g}); give "
                    "more documents or a larger share (a text file is one document, a row of JSONL or parquet is one)"
                )
        digests = {f"{split}.jsonl": sha256(parts[f"{split}.jsonl"]) for split in SPLITS}
        content = {**about, "shares": {"validation": validation, "test": test}, **counts, "sha256": digests}
        parts[MANIFEST].write_text(json_text(content), encoding="utf-8")
    return content


def merge(parts: dict[Path, dict], out: Path) -> dict:
    """One corpus of parts, by directory; write OUT/{validation,test}.jsonl and the manifest, and return the manifest.

    Training documents are not copied: the manifest says where they are. Raises UserError when a source has none of a
    split.
    """
    for label in dict.fromkeys(part["label"] for part in parts.values()):
        mine = [part for part in parts.values() if part["label"] == label]
        for split, share in mine[0]["shares"].items():
            if share and not sum(part["documents"][split] for part in mine):
                raise UserError(
                    f"{label!r}: no document fell into {split!r}; give more, or a larger share than {share:g}"
                )
    wanted = (path / f"{split}.jsonl" for path in parts for split in SPLITS)
    if lost := next((path for path in wanted if not path.is_file()), None):
        raise UserError(f"{lost}: no such file; run `ladder corpus --out {lost.parent}` again")
    train = {os.path.relpath(path / "train.jsonl", out): part["sha256"]["train.jsonl"] for path, part in parts.items()}
    need_disk(out, sum((path / f"{split}.jsonl").stat().st_size for path in parts for split in SPLITS[1:]))
    names = [f"{split}.jsonl" for split in SPLITS[1:]]
    found = {key: joined(list(parts.values()), key) for key in ("kind", "source", "licence")}
    for unit in ("documents", "characters"):
        found[unit] = {split: sum(part[unit][split] for part in parts.values()) for split in SPLITS}
    with atomic_set(Path(out) / MANIFEST) as temporary:
        for name in names:
            with temporary[name].open("wb") as file:
                for part in parts:
                    with (part / name).open("rb") as its:
                        shutil.copyfileobj(its, file)
        held_out = {name: sha256(temporary[name]) for name in names}
        found |= {"files": {"train": list(train)}, "sha256": train | held_out}
        temporary[MANIFEST].write_text(json_text(found), encoding="utf-8")
    return found
