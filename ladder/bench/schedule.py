"""The two-resource schedule: what a wiring should take, given how long modules and all-reduces take.

Compute and communication are two in-order resources. A module runs when the compute resource is free and every
all-reduce that the wiring waits for has landed; an all-reduce runs when the link is free and its modules are
done. The order comes from the same wiring table that the model runs on.
"""

from collections.abc import Callable, Sequence

from ladder.wiring import Row, trace


def schedule(
    rows: Sequence[Row], module_seconds: Callable[[int], float], reduce_seconds: float, in_flight: int = 1
) -> list[dict]:
    """The timeline of one step: dicts with lane (compute, communication), index, start and end in seconds.

    module_seconds: seconds that module n computes; reduce_seconds: seconds of one all-reduce, of which ``in_flight``
    may be under way at once.
    """
    now, lanes = 0.0, [0.0] * in_flight
    landed: dict[int, float] = {}
    spans = []
    for event in trace(rows):
        if event.kind == "compute":
            end = now + module_seconds(event.index)
            spans.append({"lane": "compute", "index": event.index, "start": now, "end": end})
            now = end
        elif event.kind == "launch":
            lane = lanes.index(min(lanes))
            start = max(now, lanes[lane])
            end = lanes[lane] = landed[event.index] = start + reduce_seconds
            spans.append({"lane": "communication", "index": event.index, "start": start, "end": end})
        else:
            now = max(now, landed[event.index])
    return spans


def length(spans: list[dict]) -> float:
    """Seconds from the first start to the last end."""
    return max((span["end"] for span in spans), default=0.0)
