"""What a command line writes and reads: every option that names an output is checked before work begins.

    parser.add_argument("--record", action=OutputFile)
    parser.add_argument("--out", action=OutputModel)          a directory that is replaced as a whole
    parser.add_argument("--out", action=OutputFolder, writes=("train.jsonl", "manifest.json"))

Every other option of type ``Path`` or ``path_or_name`` is an input. An output must not be an input, lie in one or hold
one, nor may two outputs be one. A file that is named may be replaced; the files that a command writes in a folder
replace only what the folder's mark lists.
"""

import argparse
import fnmatch
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ladder.errors import UserError
from ladder.files import MARK, check_target, check_writable, is_marked, marked_folders


def path_or_name(text: str) -> str:
    """The type of an option that takes a path, or a name of a table or of the model hub."""
    return text


class OutputFile(argparse.Action):
    """An option that names a file to write."""

    directory = False

    def __init__(self, *args, writes: tuple[str, ...] = (), holds: tuple[str, ...] = (), **kwargs):
        """writes: patterns of what is written in it; holds: inputs, by dest, that may lie in it."""
        super().__init__(*args, type=Path, **kwargs)
        self.writes, self.holds = writes, holds

    def __call__(self, parser, namespace, value, option_string=None):
        setattr(namespace, self.dest, value)


class OutputModel(OutputFile):
    """An option that names a checkpoint directory to write, which replaces an older one as a whole."""

    directory = True


class OutputFolder(OutputFile):
    """An option that names a folder in which files are written."""


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse outputs that cannot be written, or that would damage something. Raises UserError.

    The folders are marked as soon as a file is written in them.
    """
    values = list(_values(parser, args))
    outputs = [(action, path) for action, path in values if isinstance(action, OutputFile)]
    inputs = [(action, path) for action, path in values if not isinstance(action, OutputFile)]
    for action, path in outputs:
        option = _option(action)
        for other, source in inputs:
            _apart(action, path, other, source)
        for other, second in outputs:
            if other is not action:
                _two(action, path, other, second)
        if isinstance(action, OutputFolder):
            check_folder(f"{option} {path}", path, action.writes)
            _named(option, check_writable, path / MARK)
        else:
            _named(option, check_target, path, action.directory)
            _named(option, check_writable, path)
    marked_folders.update(_real(path) for action, path in outputs if isinstance(action, OutputFolder))


def check_folder(name: str, path: Path, writes: Iterable[str]) -> None:
    """Refuse a folder that is none, or where a file of others would be replaced by one of the patterns ``writes``.
    Raises UserError, which begins with ``name``."""
    if _real(path).is_symlink():
        raise UserError(f"{name}: is a link that leads in a circle; choose another place")
    if path.exists() and not path.is_dir():
        raise UserError(f"{name}: is a file, and a folder is to be written in; choose another place")
    if (path / MARK).exists() and not (path / MARK).is_file():
        raise UserError(f"{name}: {MARK!r} in it is no file of this package; choose another folder")
    for pattern in writes:
        for entry in sorted(path.glob(pattern)):
            if not is_marked(path, entry.name):
                raise UserError(
                    f"{name}: {entry.name!r} is there, and the folder's {MARK!r} does not list it as written by this "
                    f"package; choose another folder, move it away, or add its name to {path / MARK} if it may be "
                    "replaced"
                )


def check_record(path: Path) -> None:
    """Refuse to replace a file that was not written by this package and is no record either. Raises UserError."""
    from ladder.records import read

    if path.exists() and not is_marked(path.parent, path.name):
        try:
            read(path)
        except UserError:
            raise UserError(
                f"{path}: is there and is no record of this package; choose another --out, or move it away"
            ) from None


def _values(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Iterator[tuple[argparse.Action, Path]]:
    """The paths that the options name."""
    for action in parser._actions:
        if action.type not in (Path, path_or_name):
            continue
        value = getattr(args, action.dest, None)
        for entry in value if isinstance(value, list | tuple) else [value]:
            if isinstance(entry, Path) or (isinstance(entry, str) and Path(entry).exists()):
                yield action, Path(entry)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises where links lead in a circle


def _apart(action: OutputFile, path: Path, other: argparse.Action, source: Path) -> None:
    here, there = _real(path), _real(source)
    relation = None
    if here == there:
        relation = "is the input"
    elif there in here.parents:
        relation = "lies in the input"
    elif here in there.parents and other.dest not in (*action.holds, "run"):
        relation = "holds the input"
    if relation:
        raise UserError(f"{_option(action)} {path}: {relation} {_option(other)} {source}; write somewhere else")


def _two(action: OutputFile, path: Path, other: OutputFile, second: Path) -> None:
    here, there = _real(path), _real(second)
    if here == there:
        raise UserError(f"{_option(action)} {path} is also {_option(other)}; give each output a place of its own")
    if here in there.parents:
        entry = there.relative_to(here).parts[0]
        if not isinstance(action, OutputFolder) or any(fnmatch.fnmatchcase(entry, name) for name in action.writes):
            raise UserError(f"{_option(other)} {second}: {_option(action)} would replace it; write somewhere else")


def _named(option: str, check_, path: Path, *args) -> None:
    try:
        check_(path, *args)
    except UserError as error:
        raise UserError(f"{option} {error}") from None


def _option(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else action.dest.upper()
