"""Every output of every subcommand: what it may replace, what it refuses before work, and that it damages nothing."""

import argparse
import contextlib
import errno
import os
import re
from pathlib import Path

import pytest

from ladder import cli, files, outputs
from ladder.errors import UserError
from ladder.outputs import OutputFile, OutputFolder, OutputModel, path_or_name

ROOT = Path(__file__).parent.parent
NAMES = ("out", "output", "record", "work", "trace", "save", "log", "to")
OUTPUTS = [
    pytest.param(name, action.dest, id=f"{name} {action.dest}")
    for name in cli.COMMANDS
    for action in cli.command(name)[0]._actions
    if isinstance(action, OutputFile)
]


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    """Each test has its own working directory and its own marked folders."""
    monkeypatch.setattr(files, "marked_folders", set())
    monkeypatch.setattr(outputs, "marked_folders", files.marked_folders)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def action_of(name: str, dest: str) -> tuple[argparse.ArgumentParser, OutputFile]:
    parser, _ = cli.command(name)
    return parser, next(action for action in parser._actions if action.dest == dest)


def check(parser: argparse.ArgumentParser, **paths) -> None:
    outputs.check(parser, argparse.Namespace(**{action.dest: paths.get(action.dest) for action in parser._actions}))


def tree(folder: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_text()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_that_names_an_output_is_declared(name):
    """A new ``--out`` of type Path would be neither checked nor kept apart from the inputs."""
    for action in cli.command(name)[0]._actions:
        path = action.type in (Path, path_or_name) or (action.type is None and action.nargs != 0)
        written = action.dest in NAMES or re.search(r"\bwrit(e|es|ten)\b", action.help or "")
        if path and written and action.dest != "help":
            assert isinstance(action, OutputFile), f"ladder {name} {action.option_strings or action.dest}"


def place(kind: str, folder: Path, action: OutputFile, monkeypatch) -> Path:
    """A path of some kind, with something of the user's there or near."""
    user = folder / "user"
    user.mkdir()
    (user / "precious.txt").write_text("mine")
    taken = [pattern.replace("*", "1") for pattern in action.writes]
    match kind:
        case "folder":
            return user
        case "folder with names that are written":
            for name in taken:
                (user / name).write_text("mine")
            return user
        case "link to a folder":
            (folder / "link").symlink_to(user)
            return folder / "link"
        case "link to a file":
            (folder / "link").symlink_to(user / "precious.txt")
            return folder / "link"
        case "dangling link":
            (folder / "link").symlink_to(user / "not/there")
            return folder / "link"
        case "link in a circle":
            (folder / "link").symlink_to(folder / "link")
            return folder / "link"
        case "here":
            return Path(".")
        case "above":
            return Path("..")
        case "nothing":
            return Path("")
        case "below a file":
            return user / "precious.txt" / "x"
        case "device":
            return Path("/dev/null")
        case "pipe":
            os.mkfifo(folder / "pipe")
            return folder / "pipe"
        case "long name":
            return folder / ("x" * 250)
        case "read-only":

            def refused(*_, **__):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

            monkeypatch.setattr(files.os, "open", refused)
            return user / "new"
        case "mount point":
            (folder / "mount").mkdir()
            monkeypatch.setattr(files.os.path, "ismount", lambda path: str(path) == str(folder / "mount"))
            return folder / "mount"
        case "new":
            return folder / "new/place"


ANYWHERE = ("new", "dangling link")
GOOD = {
    OutputFile: (*ANYWHERE, "link to a file"),
    OutputModel: ANYWHERE,
    OutputFolder: (*ANYWHERE, "folder", "link to a folder", "here", "above", "nothing", "mount point"),
}
KINDS = "folder|folder with names that are written|link to a folder|link to a file|dangling link|link in a circle|here"
KINDS += "|above|nothing|below a file|device|pipe|long name|read-only|mount point|new"


@pytest.mark.parametrize("kind", KINDS.split("|"))
@pytest.mark.parametrize(("name", "dest"), OUTPUTS)
def test_what_is_there_survives(name, dest, kind, tmp_path, monkeypatch):
    """Refused in one sentence, or written into; the check itself leaves nothing."""
    parser, action = action_of(name, dest)
    with monkeypatch.context() as patch:
        path = place(kind, tmp_path, action, patch)
        before = tree(tmp_path)
        good = kind in GOOD[type(action)]
        if type(action) is OutputFolder:  # a longer name is a folder's own affair, its files have theirs
            good |= kind == "long name" or (kind == "folder with names that are written" and not action.writes)
        with contextlib.nullcontext() if good else pytest.raises(UserError) as refused:
            check(parser, **{dest: path})
    if refused:
        assert "\n" not in str(refused.value)
        assert outputs._option(action) in str(refused.value)
    assert tree(tmp_path) == before


def words(parser: argparse.ArgumentParser, **given) -> list[str]:
    """A command line that the parser takes, with ``given`` values and something for all else that it requires."""
    line = []
    for action in parser._actions:
        if action.dest in given or action.required:
            value = action.choices[0] if action.choices else "1" if action.type is int else action.dest
            line += [*action.option_strings[:1], str(given.get(action.dest, value))]
    for group in parser._mutually_exclusive_groups:
        if group.required:
            line += [group._group_actions[0].option_strings[0], "300"]
    return line


@pytest.mark.parametrize(("name", "dest"), OUTPUTS)
def test_the_command_refuses_before_work(name, dest, tmp_path, monkeypatch, capsys):
    """A user's folder where a file or a model belongs, or with a file where one would be written."""
    monkeypatch.setenv("LADDER_TRACKING", "off")
    parser, action = action_of(name, dest)
    path = place("folder with names that are written", tmp_path, action, monkeypatch)
    if type(action) is OutputFolder and not action.writes:
        path = path / "precious.txt"
    before = tree(tmp_path)
    assert cli.main([*name.split(), *words(parser, **{dest: path})]) == 1
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert str(path) in said.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("name", "dest"), OUTPUTS)
def test_outputs_and_inputs_are_apart(name, dest, tmp_path):
    """An output is no input, lies in none and holds none; nor are two outputs one."""
    parser, action = action_of(name, dest)
    source = tmp_path / "above/input"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    for other in parser._actions:
        if other is action or other.type not in (Path, path_or_name):
            continue
        if isinstance(other, OutputFile):
            with pytest.raises(UserError, match="also"):
                check(parser, **{dest: tmp_path / "new", other.dest: tmp_path / "here/../new"})
            if isinstance(action, OutputModel):
                with pytest.raises(UserError, match="would replace it"):
                    check(parser, **{dest: tmp_path / "new", other.dest: tmp_path / "new/x"})
            continue
        for value in (source, [tmp_path / "here", source], tmp_path / "link"):
            with pytest.raises(UserError):
                check(parser, **{dest: source, other.dest: value})
            with pytest.raises(UserError, match="lies in the input"):
                check(parser, **{dest: source / "new", other.dest: value})
            if not isinstance(action, OutputFolder):
                with pytest.raises(UserError):
                    check(parser, **{dest: source.parent, other.dest: value})
            elif other.dest in (*action.holds, "run"):
                check(parser, **{dest: source.parent, other.dest: value})
            else:
                with pytest.raises(UserError, match="holds the input"):
                    check(parser, **{dest: source.parent, other.dest: value})
