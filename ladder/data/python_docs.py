"""The English prose of the running interpreter's documentation: help topics and docstrings. Always there, a few MB."""

import ast
import importlib
import re
import sysconfig
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

LICENCE = "PSF-2.0"
SKIP = {
    "test",
    "tests",
    "idlelib",
    "idle_test",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "turtledemo",
    "__pycache__",
}
SMALLEST = 200  # characters; a shorter document holds a sentence at most
UNDERLINES = {"*": "#", "=": "##", "-": "###"}


def documents() -> Iterator[dict]:
    """One document per help topic, then one per module of the standard library, in the order of their names.

    Sections begin with a line like ``# os.path.join``. Modules are parsed, never imported.
    """
    topics = importlib.import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        yield {"id": f"topic/{name}", "text": _headings(topics[name]).strip()}
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if SKIP.isdisjoint(relative.parts) and len(text := module_prose(path, relative)) >= SMALLEST:
            yield {"id": f"module/{relative.as_posix()}", "text": text}


def module_prose(path: Path, relative: Path) -> str:
    """The docstrings of a source file in their order, each under a heading with its dotted name."""
    parts = relative.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # samples of bad source lie about in some distributions
        return ""
    return "\n\n".join(f"# {heading}\n\n{prose}" for heading, prose in _docstrings(tree, name))


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if prose := ast.get_docstring(node, clean=False):
        yield name, cleandoc(prose)
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")


def _headings(text: str) -> str:
    """The underlined headings of a help topic as lines that begin with ``#``."""
    return re.sub(r"(?m)^(.+)\n([*=-])\2{2,}$", lambda m: f"{UNDERLINES[m[2]]} {m[1]}", text)
