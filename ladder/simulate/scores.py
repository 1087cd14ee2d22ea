"""How far predictions are from published numbers: groups, errors, the authors' own repeats, and who wins.

An entry is a dict of :func:`ladder.simulate.validate.compare`.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ladder.simulate.model import Scenario
from ladder.simulate.published import REPEAT

# What is compared: metric and unit in the record, and what the column of the rows is multiplied by to get there.
WHAT = {
    "speedup": ("speedup", "x", 1),
    "tokens_per_s": ("tokens_per_second", "tokens/s", 1),
    "prefill_s": ("prefill_seconds", "s", 1),
    "memory_gb": ("memory_bytes", "bytes", 1e9),
}
ENOUGH = 8  # numbers that an R2 takes
NEAR = 0.03  # lead of one wiring over another below which no winner is named
POINT = ("model", "wiring", "tp", "batch", "prompt", "new_tokens", "link")
FIT, LINK = "70B, rows of the fit", "405B, rows of the fit"
HELD_OUT = "70B, ladder and parallel"
OTHER = "70B, other wirings"
SOURCES = "70B, other sources"
UNSEEN = "8B, never fitted"
GROUPS = (
    HELD_OUT,
    OTHER,
    SOURCES,
    UNSEEN,
    "1B and 3B",
    "405B on two nodes",
    FIT,
    LINK,
)


def group(point: Scenario, line: dict) -> str | None:
    """The group of GROUPS that a published row is scored in; None: it is not scored."""
    if line["use"] in ("calibration", "link"):
        return FIT if line["use"] == "calibration" else LINK
    if line["use"] == "excluded":
        return None
    if point.model == "llama-3-70b" and line["set"] == "70B, Figure 2":
        return HELD_OUT if point.wiring in ("ladder", "parallel") else OTHER
    names = {"llama-3-70b": SOURCES, "llama-3-8b": UNSEEN, "llama-3.1-405b": "405B on two nodes"}
    return names.get(point.model, "1B and 3B")


def once(entries: list[dict]) -> list[dict]:
    """Mark as ``copy`` what repeats another scored number of the same point: the same, or the same rounded."""
    cells = defaultdict(list)
    for entry in entries:
        entry["copy"] = False
        if entry["group"]:
            cells[(*(entry[key] for key in POINT), entry["what"])].append(entry)
    for cell in cells.values():
        for one, other in combinations(cell, 2):
            if one["published"] == other["published"] or round(one["published"], 2) == other["published"]:
                other["copy"] = True
            elif one["published"] == round(other["published"], 2):
                one["copy"] = True
    return entries


def statistics(entries: Sequence[dict]) -> list[dict]:
    """Of each group and each thing compared: relative errors (``median``, ``p90``, ``max``), ``bias`` (the median with
    its sign), share ``inside`` the 90 % intervals, errors ``without_`` interference; of speed-ups also ``r2``, and of
    ladder's the errors of the simulator (``ladder_``) and of the rule of thumb (``rule_``)."""
    found = []
    for name in GROUPS:
        for what in WHAT:
            mine = [e for e in entries if (e["group"], e["what"]) == (name, what) and not e["copy"]]
            if not mine:
                continue
            row = {"group": name, "what": what, "n": len(mine), **spread(mine, "predicted", "")}
            row["bias"] = short(np.median([e["predicted"] / e["published"] - 1 for e in mine]))
            if mine[0]["low"] is not None:
                row["inside"] = sum(e["low"] <= e["published"] <= e["high"] for e in mine) / len(mine)
            if mine[0]["without"] is not None:
                row |= spread(mine, "without", "without_")
            if what == "speedup":
                if len(mine) >= ENOUGH:
                    seen, made = (np.array([e[key] for e in mine]) for key in ("published", "predicted"))
                    row["r2"] = short(1 - np.square(seen - made).sum() / np.square(seen - seen.mean()).sum())
                ruled = [e for e in mine if e["rule"] is not None]
                row |= {"rule_n": len(ruled), **spread(ruled, "predicted", "ladder_"), **spread(ruled, "rule", "rule_")}
            found.append(row)
    return found


def spread(entries: Sequence[dict], key: str, prefix: str) -> dict:
    """Median, 90th percentile and largest of the relative errors of ``key``."""
    if not entries:
        return {}
    off = np.abs([e[key] / e["published"] - 1 for e in entries])
    values = {"median": np.median(off), "p90": np.quantile(off, 0.9), "max": off.max()}
    return {prefix + name: short(value) for name, value in values.items()}


def repeats(entries: Sequence[dict]) -> dict[str, dict]:
    """How far published repeats of one cell differ, of each thing compared: number of pairs, median and p90."""
    cells = defaultdict(list)
    for entry in entries:
        same = cells[(*(entry[key] for key in POINT), entry["what"])]
        valid = entry["use"] in ("calibration", "validation") or entry["reason"] == REPEAT
        if valid and not entry["copy"] and entry["published"] not in same:
            same.append(entry["published"])
    found = {}
    for what in WHAT:
        off = [abs(a / b - 1) for key, same in cells.items() if key[-1] == what for a, b in combinations(same, 2)]
        if off:
            p90, most = np.quantile(off, 0.9), max(off)
            found[what] = {"pairs": len(off), "median": short(np.median(off)), "p90": short(p90), "max": short(most)}
    return found


def winners(entries: Sequence[dict]) -> dict[str, dict]:
    """Whether ladder or parallel wins as published, where their predictions are further apart than NEAR or not."""
    cells = defaultdict(dict)
    for e in entries:
        if e["group"] and e["what"] == "speedup":
            cells[(e["set"], *(e[key] for key in POINT if key != "wiring"))][e["wiring"]] = e
    pairs = [(cell["ladder"], cell["parallel"]) for cell in cells.values() if {"ladder", "parallel"} <= cell.keys()]
    found = {"near": NEAR, "far": {"n": 0, "right": 0}, "close": {"n": 0, "right": 0}}
    for ladder, parallel in pairs:
        lead, seen = (ladder[key] / parallel[key] - 1 for key in ("predicted", "published"))
        counts = found["far" if abs(lead) > NEAR else "close"]
        counts["n"] += 1
        counts["right"] += lead * seen > 0
    return found


def short(value, digits: int = 6) -> float | None:
    """So many significant digits, as JSON takes them."""
    return None if value is None or math.isnan(value) else float(f"{value:.{digits}g}")
