"""Options declared once: type, default, bounds and help text of each are a field of a dataclass.

    @dataclass(frozen=True)
    class Options:
        steps: int = option(120, "optimiser steps", **COUNT)

From these follow the flags of a command (:func:`add_arguments`, :func:`of`), the check of values (:func:`check`), the
schema of a profile (:func:`schemas`), and which of its keys a job passes on (:func:`select`). A type is int, float,
bool, str or Path, one of them or None, or a tuple of them. Declarations are read wherever a plan is, so their modules
import nothing heavy.
"""

import argparse
import operator
import shlex
from dataclasses import MISSING, Field, field, fields
from types import NoneType
from typing import get_args, get_origin

from ladder.errors import UserError, unknown_name

# Bounds have JSON Schema's names. They are far above any use: what they allow can be listed, allocated or counted.
BOUNDS = {
    "minimum": ("at least", operator.ge),
    "exclusiveMinimum": ("above", operator.gt),
    "maximum": ("at most", operator.le),
    "exclusiveMaximum": ("below", operator.lt),
}
COUNT = {"minimum": 1, "maximum": 10**12}
LENGTH = {"minimum": 1, "maximum": 2**28}
RANKS = {"minimum": 1, "maximum": 2**16}
SEED = {"minimum": 0, "maximum": 2**32 - 1}
POSITIVE = {"exclusiveMinimum": 0}
NAMES = {int: "integer", float: "number", bool: "boolean"}  # JSON Schema's, of types; the others are strings


def option(default, help_: str, numeric=True, profile=True, one=False, more: dict | None = None, **bounds):
    """The field of an option; ``default`` may be ``MISSING``: it must be given.

    numeric: it changes the numbers of a run by more than rounding. profile: a configuration may set it. one: where
    several values are taken, a configuration may give one without a list. more: arguments for argparse. bounds: those
    of ``BOUNDS``, or ``enum`` with the names that are known.
    """
    metadata = {"help": help_, "numeric": numeric, "profile": profile, "one": one, "more": more or {}, "bounds": bounds}
    return field(default=default, metadata=metadata)


class OptionError(UserError):
    """A value that cannot be: a command line names its flag, a configuration its key."""

    def __init__(self, name: str, problem: str):
        super().__init__(f"{flag(name)} {problem}")
        self.name, self.problem = name, problem


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_arguments(parser, declared: type, *names: str, **defaults) -> None:
    """The flags of all options of a class, or of those with ``names``; ``defaults`` replace the declared ones."""
    for f in fields(declared):
        if names and f.name not in names:
            continue
        kind, several = _type(f)
        default, settings = defaults.get(f.name, f.default), {"help": f.metadata["help"]}
        if kind is bool:
            settings["action"] = "store_true"
        else:
            settings |= {"type": kind, "nargs": several, "required": default is MISSING}
            if enum := f.metadata["bounds"].get("enum"):
                settings["metavar"] = "{" + ",".join(enum) + "}"
            if default is not MISSING:
                settings["default"] = list(default) if several else default
            if default not in (MISSING, None, ()):
                settings["help"] = f"{settings['help'].partition(' (default: ')[0]} (default: {_words(default)})"
        parser.add_argument(flag(f.name), **settings | f.metadata["more"])


def of(declared: type, args: argparse.Namespace):
    """The options of a command line, as an instance of the class that declares them."""
    values = {f.name: getattr(args, f.name) for f in fields(declared)}
    return declared(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def check(declared: type, values) -> None:
    """Refuse what is out of bounds. ``values``: options as attributes. Raises UserError."""
    for f in fields(declared):
        value, bounds = getattr(values, f.name, None), f.metadata["bounds"]
        for each in value if isinstance(value, list | tuple) else [] if value is None else [value]:
            if each not in bounds.get("enum", [each]):
                raise unknown_name(f.name, each, bounds["enum"])
            for bound, (words, holds) in BOUNDS.items():
                if bound in bounds and not holds(each, bounds[bound]):
                    raise OptionError(f.name, f"{_words(value)} must be {words} {bounds[bound]}")


def numeric(declared: type, values) -> dict:
    """The options that change a run's numbers by more than rounding."""
    return {f.name: getattr(values, f.name) for f in fields(declared) if f.metadata["numeric"]}


def select(settings: dict, *declared: type) -> dict:
    """What a configuration, or a job, says of declared options, in the order of the declarations."""
    return {f.name: settings[f.name] for kind in declared for f in fields(kind) if f.name in settings}


def listed(value) -> list:
    return value if isinstance(value, list) else [value]


def flags(settings: dict, *declared: type) -> str:
    """``{"new_tokens": 60, "emulate": True}`` -> ``--emulate --new-tokens 60``: the options that classes declare, in
    that order; or all, by name. So moving a key in a configuration reruns nothing."""
    chosen, words = select(settings, *declared) if declared else dict(sorted(settings.items())), []
    for key, value in chosen.items():
        if value is True:
            words.append(flag(key))
        elif isinstance(value, list):
            words += [flag(key), *map(str, value)]
        elif value is not None and value is not False:
            words += [flag(key), str(value)]
    return shlex.join(words)


def schemas(declared: type, profile: bool = True) -> dict[str, dict]:
    """JSON schemas of the options, by name; with ``profile`` of those that a configuration may set."""
    return {f.name: _schema(f) for f in fields(declared) if f.metadata["profile"] or not profile}


def _schema(f: Field) -> dict:
    kind, several = _type(f)
    bounds = f.metadata["bounds"]
    single = {"enum": [*bounds["enum"]]} if "enum" in bounds else {"type": NAMES.get(kind, "string")} | bounds
    if not several:
        return single
    if several != "+":
        return {"type": "array", "items": single, "minItems": several, "maxItems": several}
    array = {"type": "array", "items": single, "minItems": 1, "maxItems": 100, "uniqueItems": True}
    return single | array | {"type": [single["type"], "array"]} if f.metadata["one"] else array


def _type(f: Field) -> tuple[type, int | str | None]:
    """The type of each value, and argparse's ``nargs``: how many, ``+`` for any number, None for a single one."""
    kinds = [kind for kind in get_args(f.type) if kind is not NoneType] or [f.type]
    if get_origin(f.type) is not tuple:
        return kinds[0], None
    return kinds[0], "+" if ... in kinds else len(kinds)


def _words(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
