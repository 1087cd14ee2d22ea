"""Work cut into parts: which part of a source a job takes, and whether the parts at hand make up the whole.

A part knows itself: the manifest of a corpus or of tokens that was made with ``--part 3/64 --label web`` says so.
"""

import re
from pathlib import Path

from ladder.errors import UserError
from ladder.reading import read_json, take

PART = re.compile("[1-9][0-9]{0,6}")


def part_of(text: str) -> tuple[int, int]:
    """``3/64`` -> (3, 64)."""
    number, _, of = text.partition("/")
    if not (PART.fullmatch(number) and PART.fullmatch(of) and int(number) <= int(of)):
        raise UserError(f"--part {text[:80]} is not NUMBER/OF; give 1/4, 2/4, 3/4 or 4/4 for one of four parts")
    return int(number), int(of)


def part_name(what: str, manifest: dict) -> str:
    """``tokens``, or ``tokens-web-3`` where the manifest is of a part."""
    return f"{what}-{manifest['label']}-{manifest['part'][0]}" if manifest.get("part") else what


def complete(directories: list[Path], command: str) -> dict[Path, dict]:
    """The manifests of all parts, by directory, in the order of label and number, whatever order they were given in.

    Raises UserError where a part is missing, stands there twice, or is of another division; ``command`` makes one.
    """
    found = {}
    for directory in directories:
        if not (directory / "manifest.json").is_file():
            raise UserError(f"{directory}: this part is missing; make it with `{command} --out {directory}`")
        path = directory / "manifest.json"
        found[directory] = read_json(path)
        if not found[directory].get("part"):
            raise UserError(f"{path}: not a part; parts are made with `ladder corpus --part`")
        part = take(found[directory], "part", list, str(path))
        if len(part) != 2 or not all(type(n) is int for n in part) or not 1 <= part[0] <= part[1] < 10**7:
            raise UserError(f"{path}: part is {str(part)[:80]}, and [number, of how many] is needed; make it again")
        take(found[directory], "label", str, str(path))
    found = dict(sorted(found.items(), key=lambda item: (item[1]["label"], item[1]["part"])))
    for label in dict.fromkeys(manifest["label"] for manifest in found.values()):
        here = [tuple(manifest["part"]) for manifest in found.values() if manifest["label"] == label]
        of = here[0][1]
        if other := sorted({other for _, other in here} - {of}):
            raise UserError(f"the parts of {label!r} are of {of} and of {other[0]}; make all with one number of parts")
        if missing := sorted(set(range(1, of + 1)) - {number for number, _ in here}):
            raise UserError(f"{label!r} lacks part {', '.join(map(str, missing))} of {of}; make it and name it too")
        if len(here) > of:
            raise UserError(f"a part of {label!r} is named twice; name each of its {of} parts once")
    return found


def joined(manifests: list[dict], key: str) -> str:
    """What the manifests say under ``key``, each thing once."""
    return "; ".join(dict.fromkeys(manifest[key] for manifest in manifests))
