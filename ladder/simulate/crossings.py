"""Where the winner changes: over the batch, the link's latency, and the kind of all-reduce; and what speed costs."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ladder.links import LINKS
from ladder.simulate.calibration import Calibration
from ladder.simulate.model import Prediction, interval, predict

WORTH = 1.03  # speed-up below which there is nothing to gain: what repeats of a published point differ by
EXAMPLES = (1, 16, 64)  # batches whose gains stand in tables, and at which the latency is varied
LATENCIES = tuple(np.geomspace(1, 2000, 56).round(3).tolist())  # us of an all-reduce of no bytes
GB_PER_S = LINKS["h100-nvlink"].bus_bandwidth / 1e9  # of the links whose latency is varied
SWEPT = (8, 16)  # TP degrees there: the first that fits
NCCL, ONE_SHOT = "nvlink", "nvlink-one-shot"
CASES = (  # name, wiring, link, and the link of the standard that it is compared with
    ("standard_one_shot", "standard", ONE_SHOT, NCCL),
    ("ladder", "ladder", NCCL, NCCL),
    ("ladder_one_shot", "ladder", ONE_SHOT, NCCL),
    ("ladder_over_one_shot", "ladder", NCCL, ONE_SHOT),
)
CLUSTER = ("nvlink", "ib-ndr")  # links of the nodes whose speed is priced
PRICED = ("standard", "parallel", "ladder")
BUDGETS = (5, 10, 20, 50)  # ms per token whose price stands in the table
MS_PER_TOKEN = tuple(sorted({*np.geomspace(1, 100, 60).round(3).tolist(), *map(float, BUDGETS)}))


def ratio(logs: np.ndarray, base: np.ndarray, done: Prediction, calibration: Calibration) -> np.ndarray:
    """(value, low, high) in the first axis, of exp(logs - base); parameters' variations are in their first axis."""
    over = (logs - base).reshape(len(logs), -1)
    low, high = interval(replace(done, logs={"speedup": over}), "speedup", calibration)
    return np.stack([np.exp(over[0]), low, high]).reshape(3, *logs.shape[1:])


def short(value: float) -> float:
    """Five digits: what a page shows, and small files."""
    return float(f"{value:.5g}")


def shortened(values) -> list[float]:
    return [short(value) for value in values]


def examples(batches) -> list[int]:
    """The batches that stand in tables: those of EXAMPLES, or the first."""
    return [batch for batch in batches if batch in EXAMPLES] or list(batches[:1])


def above_from(x, y, level: float = 1.0) -> float | None:
    """The x from which on y stays above ``level``, interpolated on a logarithmic axis; the first x where it always is,
    None where it is not above in the end."""
    over = np.log(np.asarray(y, dtype=float) / level)
    below = np.flatnonzero(over <= 0)
    if not len(below):
        return float(x[0])
    n = below[-1]
    if n == len(x) - 1:
        return None
    share = -over[n] / (over[n + 1] - over[n])
    return short(x[n] * (x[n + 1] / x[n]) ** share)


def latency(question, calibration: Calibration) -> list[dict]:
    """Curves over the latency of a link of NVLink's bandwidth: speed-ups, and parallel over ladder, each (value, low,
    high). The latency itself is taken as known."""
    wirings = ("ladder", "parallel", "upper_bound")
    links = [f"{us}us+{GB_PER_S:g}GB/s" for us in LATENCIES]
    found = []
    for model in question.models:
        for batch in examples(question.batches):
            for tp in SWEPT:
                where = (tp, batch, calibration.hardware)
                points = [question.point(model, wiring, *where, link) for wiring in wirings for link in links]
                done = predict(points, calibration, intervals=True)
                if not done.fits[0]:
                    continue
                logs = done.logs["speedup"].reshape(-1, len(wirings), len(links))
                gains = ratio(logs, np.zeros_like(logs), done, calibration)
                over = ratio(logs[:, 1], logs[:, 0], done, calibration)
                curve = {"model": model, "tp": tp, "batch": batch, "us": list(LATENCIES)}
                curve |= {wiring: [shortened(ends) for ends in gains[:, n].T] for n, wiring in enumerate(wirings)}
                found.append(curve | {"parallel_over_ladder": [shortened(ends) for ends in over.T]})
                break
    return found


def one_shot(question, calibration: Calibration) -> list[dict]:
    """The speed-ups of CASES, each (value, low, high)."""
    places = [(tp, hardware) for link, tp, hardware in question.places if link == NCCL]
    settings = [(m, tp, batch, hw) for m in question.models for tp, hw in places for batch in question.batches]
    if not settings:
        return []
    made = list(dict.fromkeys(pair for _, wiring, link, base in CASES for pair in ((wiring, link), ("standard", base))))
    points = [question.point(m, w, tp, batch, hw, link) for m, tp, batch, hw in settings for w, link in made]
    done = predict(points, calibration, intervals=True)
    logs = done.logs["tokens_per_s"].reshape(-1, len(settings), len(made))
    found = [dict(zip(("model", "tp", "batch"), setting[:3], strict=True)) for setting in settings]
    for name, wiring, link, base in CASES:
        ours, theirs = (logs[:, :, made.index(which)] for which in ((wiring, link), ("standard", base)))
        for cell, ends in zip(found, ratio(ours, theirs, done, calibration).T, strict=True):
            cell[name] = shortened(ends)
    return [cell for cell, fits in zip(found, done.fits.reshape(len(settings), -1)[:, 0], strict=True) if fits]


def curves(cells: list[dict]) -> dict[tuple, list[dict]]:
    """The cells that fit, by (model, link, TP degree), each in order of the batch."""
    found = defaultdict(list)
    for cell in sorted((cell for cell in cells if cell["fits"]), key=lambda cell: cell["batch"]):
        found[cell["model"], cell["link"], cell["tp"]].append(cell)
    return dict(found)


def speed(cell: dict, wiring: str) -> tuple[float, float]:
    """(ms per token with prefill's share, tokens/s per GPU) of a wiring."""
    per_gpu = cell["per_gpu"] * (1 if wiring == "standard" else cell["speedup"][wiring][0])
    return 1e3 * cell["batch"] / (per_gpu * cell["tp"]), per_gpu


def cost(cells: list[dict]) -> list[dict]:
    """For each model and wiring: the most tokens/s per GPU that at most so many ms per token allow, over TP degrees on
    CLUSTER's links, batches interpolated; and that TP degree."""
    found = []
    for model in dict.fromkeys(cell["model"] for cell in cells):
        mine = curves([cell for cell in cells if cell["model"] == model and cell["link"] in CLUSTER])
        for wiring in PRICED:
            lines = [(tp, *np.transpose([speed(cell, wiring) for cell in curve])) for (_, _, tp), curve in mine.items()]
            if not lines:
                continue
            shortest = min(ms[0] for _, ms, _ in lines)
            best = {"ms": [], "per_gpu": [], "tp": []}
            for budget in sorted({shortest, *(ms for ms in MS_PER_TOKEN if ms > shortest)}):
                reached = [
                    (float(np.exp(np.interp(np.log(budget), np.log(ms), np.log(per_gpu)))), tp)
                    for tp, ms, per_gpu in lines
                    if ms[0] <= budget
                ]
                value, tp = max(reached)
                for key, one in (("ms", short(budget)), ("per_gpu", short(value)), ("tp", tp)):
                    best[key].append(one)
            found.append({"model": model, "wiring": wiring, **best})
    return found


def rows(study: dict) -> Iterator[dict]:
    """The answers as tidy rows. A crossing at the first batch or latency of the study means: there, or before. One that
    does not happen within the study has no row."""
    shown = examples(study["batches"])
    assumed = {(place["link"], place["tp"]): ", ".join(place["assumed"]) for place in study["places"]}
    for (model, link, tp), curve in curves(study["cells"]).items():
        note = f"assumed: {assumed[link, tp]}" if assumed[link, tp] else None
        what = {"model": model, "link": link, "tp": tp, "phase": "both", "note": note}
        for cell in curve:
            if cell["batch"] in shown:
                for wiring in ("parallel", "ladder", "upper_bound"):
                    where = what | {"batch": cell["batch"], "wiring": wiring}
                    yield gain(where, "speedup", cell["speedup"][wiring])
        over = [cell["parallel_over_ladder"] for cell in curve]
        yield from crossed(what | {"unit": "sequences"}, "batch", [cell["batch"] for cell in curve], over)
    yield from won(study)
    for curve in study["latency"]:
        yield from of_latency(curve)
    for cell in study["one_shot"]:
        if cell["batch"] in shown:
            what = {key: cell[key] for key in ("model", "tp", "batch")} | {"phase": "both"}
            for name, wiring, link, base in CASES:
                where = what | {"wiring": wiring, "link": link}
                yield gain(where, f"speedup_over_standard_on_{base}", cell[name])
    for line in study["cost"]:
        for ms, value, tp in zip(line["ms"], line["per_gpu"], line["tp"], strict=True):
            if ms in BUDGETS:
                what = {"model": line["model"], "wiring": line["wiring"], "tp": tp, "phase": "both"}
                what["note"] = "at the TP degree that gives most"
                name = f"tokens_per_second_per_gpu_within_{ms:g}_ms"
                yield what | {"metric": name, "value": value, "unit": "tokens/s"}


def gain(what: dict, metric: str, ends: list[float]) -> dict:
    note = "; ".join(filter(None, ("90 % interval", what.get("note"))))
    return what | {"metric": metric, "unit": "x", "note": note} | dict(zip(("value", "low", "high"), ends, strict=True))


def crossed(what: dict, axis: str, x: list, over: list[list[float]]) -> Iterator[dict]:
    """Where parallel overtakes ladder, from its speed over ladder's, each (value, low, high)."""
    for metric, which in (("ladder_lead_ends", 2), ("parallel_overtakes", 0), ("parallel_leads", 1)):
        if (at := above_from(x, [ends[which] for ends in over])) is not None:
            yield what | {"metric": f"{axis}_{metric}", "value": at}


def won(study: dict) -> Iterator[dict]:
    """How many cells of a model and link each wiring wins; in how many nothing is to be gained, or it is open."""
    for contest, names in study["contests"].items():
        groups = defaultdict(list)
        for cell in study["cells"]:
            if cell["fits"]:
                groups[cell["model"], cell["link"]].append(cell["leaders"][contest])
        for (model, link), leaders in groups.items():
            what = {"model": model, "link": link, "unit": "settings", "n": len(leaders), "note": contest}
            for name in names:
                yield what | {"metric": "won", "wiring": name, "value": leaders.count([name])}
            yield what | {"metric": "nothing_to_gain", "value": leaders.count([])}
            yield what | {"metric": "not_decidable", "value": sum(len(some) > 1 for some in leaders)}


def of_latency(curve: dict) -> Iterator[dict]:
    what = {key: curve[key] for key in ("model", "tp", "batch")}
    what |= {"link": f"any latency, {GB_PER_S:g} GB/s", "phase": "both"}
    gains = [ends[0] for ends in curve["ladder"]]
    peak = int(np.argmax(gains))
    yield gain(what | {"wiring": "ladder"}, "peak_gain", curve["ladder"][peak])
    us = what | {"unit": "us"}
    yield us | {"wiring": "ladder", "metric": "latency_of_peak_gain", "value": curve["us"][peak]}
    yield from crossed(us, "latency", curve["us"], curve["parallel_over_ladder"])
    if (end := above_from(curve["us"], 1 / np.array(gains), 1 / WORTH)) is not None:
        yield us | {"wiring": "ladder", "metric": "latency_gain_ends", "value": end}
