"""From one declaration: the flags, the schema and the check agree on every type."""

from dataclasses import MISSING, dataclass, fields

import jsonschema
import pytest

from ladder.arguments import Parser
from ladder.bench import options as bench
from ladder.errors import UserError
from ladder.options import COUNT, add_arguments, check, numeric, of, option, schemas
from ladder.train.methods import Recipe
from ladder.train.options import Options


@dataclass(frozen=True)
class Toy:
    sizes: tuple[str, ...] = option(MISSING, "must be given", one=True)
    steps: int = option(3, "a count", **COUNT)
    rate: float | None = option(None, "a share", exclusiveMinimum=0, maximum=1)
    pair: tuple[float, float] = option((0.5, 0.5), "two numbers", minimum=0, exclusiveMaximum=1)
    ranks: tuple[int, ...] = option((1,), "whole numbers", numeric=False, **COUNT)
    fast: bool = option(False, "a switch", numeric=False, profile=False)
    dtype: str = option("fp32", "a name", enum=("fp32", "bf16"))


def parsed(words: str) -> Toy:
    parser = Parser()
    add_arguments(parser, Toy, steps=5)
    parser.format_help()
    return of(Toy, parser.parse_args(["--sizes", "a", *words.split()]))


def test_flags():
    assert parsed("") == Toy(sizes=("a",), steps=5)
    assert parsed("--rate 0.1 --pair 0 0.9 --ranks 1 2 --fast --dtype bf16") == Toy(
        sizes=("a",), steps=5, rate=0.1, pair=(0.0, 0.9), ranks=(1, 2), fast=True, dtype="bf16"
    )
    with pytest.raises(UserError, match="--sizes"):
        of(Toy, (parser := Parser(), add_arguments(parser, Toy))[0].parse_args([]))
    assert set(numeric(Toy, parsed(""))) == {"sizes", "steps", "rate", "pair", "dtype"}


@pytest.mark.parametrize(
    ("flags", "settings", "words"),
    [
        ("--steps 0", {"steps": 0}, "--steps 0 must be at least 1"),
        ("--rate 0", {"rate": 0}, "--rate 0.0 must be above 0"),
        ("--rate 1.5", {"rate": 1.5}, "--rate 1.5 must be at most 1"),
        ("--pair 0.5 1", {"pair": [0.5, 1]}, "--pair 0.5 1.0 must be below 1"),
        ("--pair 0.5 0", {"pair": [0.5]}, None),
        ("--ranks 2 0", {"ranks": [2, 0]}, "--ranks 2 0 must be at least 1"),
        ("--dtype fp8", {"dtype": "fp8"}, "unknown dtype 'fp8'; known: bf16, fp32"),
        ("--fast", {"fast": True}, None),
        ("", {"ranks": 1}, None),
    ],
)
def test_what_the_command_refuses_a_profile_may_not_say(flags, settings, words):
    schema = {"properties": schemas(Toy), "additionalProperties": False}
    assert not jsonschema.Draft202012Validator(schema).is_valid(settings)
    if words is None:
        check(Toy, parsed(flags))
    else:
        with pytest.raises(UserError) as error:
            check(Toy, parsed(flags))
        assert str(error.value) == words


def test_a_profile_may_say_the_rest():
    validator = jsonschema.Draft202012Validator({"properties": schemas(Toy), "additionalProperties": False})
    for sizes in ("a", ["a", "b"]):
        validator.validate({"sizes": sizes, "steps": 1, "rate": 1, "pair": [0, 0.9], "ranks": [1], "dtype": "bf16"})


@pytest.mark.parametrize("declared", [Options, Recipe, bench.Options])
def test_defaults_are_within_their_bounds(declared):
    required = {f.name: ("1",) if f.name == "size" else (1,) for f in fields(declared) if f.default is MISSING}
    check(declared, declared(**required))


def test_declared_names_are_those_of_the_tables():
    from ladder.bench.point import DTYPES
    from ladder.bench.ranks import BACKENDS
    from ladder.inference.fused import DECODE

    declared = schemas(bench.Options)
    for name, table in (("dtype", DTYPES), ("backend", BACKENDS), ("attention", DECODE)):
        assert set(declared[name]["enum"]) == set(table)
    for device in ("cpu", "cuda"):
        check(bench.Options, bench.Options(size=("tiny",), tp=(1,), device=device, **bench.defaults(device)))
