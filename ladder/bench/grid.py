"""The points of a benchmark, by name: what the command times, and what the pipeline expects of it (no torch)."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Shape(NamedTuple):
    """What to time: a model, over how many ranks, with how many tokens."""

    size: str
    tp: int
    batch: int
    prompt: int
    new_tokens: int


def points(
    shapes: dict[str, Sequence], emulate: bool, rho: Sequence[float] = (), link: Sequence[str] = (), backend: str = ""
) -> list[tuple[Shape, str]]:
    """(shape, what reduces there) of all combinations; those of one shape stand beside each other: they share weights.

    shapes: the values of each field of ``Shape``. What reduces is an emulated link (``rho0.4``, ``h100-nvlink``),
    nothing on one rank (``alone``), or the ``backend`` of real ranks.
    """
    found = []
    for combination in itertools.product(*(shapes[field] for field in Shape._fields)):
        shape = Shape(*combination)
        on = [backend] if not emulate else ["alone"] if shape.tp == 1 else [name for name, _ in links(rho, link)]
        found += [(shape, name) for name in on]
    return found


def links(rho: Sequence[float], named: Sequence[str]) -> list[tuple[str, float | str]]:
    """What points on emulated links are called after, and what the link is set by."""
    files = [(name.rpartition("/")[2].removesuffix(".json"), name) for name in named]
    return [(f"rho{value:g}", value) for value in rho] + files


def model(shape: Shape) -> str:
    """What its model is called: of a config.json, the folder that holds it."""
    path = Path(shape.size)
    return (path.parent.name or "config") if path.name == "config.json" else path.name.removesuffix(".json")


def name(shape: Shape, on: str, dtype: str, layers: int | None = None) -> str:
    """What a point, its record and its job are called."""
    size = model(shape) if layers is None else f"{model(shape)}-{layers}l"
    return f"{size}-tp{shape.tp}-b{shape.batch}-p{shape.prompt}-n{shape.new_tokens}-{dtype}-{on}"
