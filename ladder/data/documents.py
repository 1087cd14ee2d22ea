"""A corpus on disk: DIR/{train,validation,test}.jsonl of ``{"id", "text"}`` and DIR/manifest.json.

A corpus merged of parts leaves its training documents where they are, and its manifest names those files.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from ladder.errors import UserError
from ladder.files import sha256
from ladder.reading import jsonl_rows, read_json, take

SPLITS = ("train", "validation", "test")


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on nothing but ``text``: what is drawn by it is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_of(text: str, validation: float, test: float) -> str:
    """The split of a document, from the hash of its text: equal documents always share one."""
    drawn = fraction(text)
    return "test" if drawn < test else "validation" if drawn < test + validation else "train"


def manifest(corpus: str | Path, splits: Iterable[str] = SPLITS) -> dict:
    """The manifest of a corpus, after checking that the files of ``splits`` are the ones it describes.

    Raises UserError for a missing corpus and for a split that is missing, empty, or changed since it was written.
    """
    corpus = Path(corpus)
    where = str(corpus / "manifest.json")
    found = read_json(where)
    digests = take(found, "sha256", dict, where)
    for key in ("source", "licence"):
        take(found, key, str, where)
    for key in ("documents", "characters"):
        for split in SPLITS:
            take(take(found, key, dict, where), split, int, f"{where}: {key}", least=0)
    for split in splits:
        for name in _names(found, split):
            path = corpus / name
            if not path.is_file():
                raise UserError(f"{path}: no such file; run `ladder corpus --out {path.parent}` again")
            if sha256(path) != digests.get(name):
                raise UserError(f"{path}: truncated or changed since it was written; run `ladder corpus` again")
        if not found["documents"][split]:
            raise UserError(
                f"{corpus}/{split}.jsonl: has no documents; give `ladder corpus` more text or a larger share for "
                f"{split!r}"
            )
    return found


def files(corpus: str | Path, split: str) -> list[Path]:
    """The files that hold one split, in order: one, or one a part."""
    return [Path(corpus) / name for name in _names(read_json(Path(corpus) / "manifest.json"), split)]


def documents(corpus: str | Path, split: str) -> Iterator[dict]:
    """The documents of one split, ``{"id": str, "text": str}``, in the order of the files."""
    for where, row in itertools.chain.from_iterable(map(jsonl_rows, files(corpus, split))):
        for key in ("id", "text"):
            take(row, key, str, where)
        yield row


def _names(found: dict, split: str) -> list[str]:
    where = "manifest.json of the corpus"
    names = take(take(found, "files", dict, where, default={}), split, list, where, default=[f"{split}.jsonl"])
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: files holds what is no name; make the corpus again")
    return names
