"""The schedule of a forward pass on two in-order resources, compute and communication.

A module runs when the compute resource is free and every all-reduce that the wiring waits for has landed; an all-reduce
runs when the link is free and its modules are done. The order of computing, launching and waiting is that of the model:
it is that of the wiring's operations (ladder.residual), so every wiring can be scheduled.

While an all-reduce is under way, compute runs at 1 / (1 + slowdown) of its speed: both want the same memory bandwidth
and processors. In the steady state of ladder a module of w seconds beside an all-reduce of c seconds then takes

    max(c, w + slowdown * min(w, c / (1 + slowdown)))

Seconds may be floats or arrays, one element a point; all points of a call share the order.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from ladder.residual import Table
from ladder.wiring import table

LETTERS = {"compute": "c", "launch": "l", "wait": "w"}


def letters(rows: Table) -> str:
    """What happens in order: ``c`` the next module computes, ``l`` the next all-reduce is launched, ``w`` the oldest
    one is waited for. (:func:`ladder.residual.run` does each of the three in order, so no numbers are needed.)"""
    return "".join(LETTERS[event.kind] for event in rows.events)


@cache
def order(wiring: str, layers: int) -> str:
    """The :func:`letters` of a wiring, which are the same at any TP degree above 1."""
    return letters(table(wiring, layers, 2))


def seconds(order: str, modules: Sequence, reduce, slowdown=0.0, in_flight: int = 1, spans: list | None = None):
    """Seconds of one pass.

    order: of :func:`letters`. modules: seconds of each module by itself, repeated from the start when there are more of
    them in ``order``. reduce: seconds of one all-reduce, of which ``in_flight`` may be under way at once. spans: a list
    to which the timeline is added, dicts with lane (compute, communication), index, start and end.
    """
    now, lanes, landed = 0.0, [0.0] * in_flight, []
    module = wait = 0
    for letter in order:
        if letter == "c":
            start, work = now, modules[module % len(modules)]
            beside = np.maximum(_latest(lanes) - now, 0.0)  # seconds for which some all-reduce is still under way
            now = now + work + slowdown * np.minimum(work, beside / (1 + slowdown))
            if spans is not None:
                spans.append({"lane": "compute", "index": module, "start": float(start), "end": float(now)})
            module += 1
        elif letter == "l":
            lane = len(landed) % in_flight  # all take as long, so this one is free first
            start = np.maximum(now, lanes[lane])
            lanes[lane] = start + reduce
            if spans is not None:
                end = float(lanes[lane])
                spans.append({"lane": "communication", "index": len(landed), "start": float(start), "end": end})
            landed.append(lanes[lane])
        else:
            now = np.maximum(now, landed[wait])
            wait += 1
    return now


def timeline(
    rows: Table,
    module_seconds: Callable[[int], float],
    reduce: float,
    in_flight: int = 1,
    slowdown: float = 0.0,
) -> list[dict]:
    """The spans of one pass under a wiring's ``rows``: module n computes for ``module_seconds(n)`` by itself."""
    spans: list[dict] = []
    seconds(letters(rows), [module_seconds(n) for n in range(len(rows))], reduce, slowdown, in_flight, spans)
    return spans


def length(spans: list[dict]) -> float:
    """Seconds from the first start to the last end."""
    return max((span["end"] for span in spans), default=0.0)


def _latest(lanes: list):
    latest = lanes[0]
    for lane in lanes[1:]:
        latest = np.maximum(latest, lane)
    return latest
