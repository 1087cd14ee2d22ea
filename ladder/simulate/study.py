"""Predict where each wiring wins, where none helps, and what the speed costs: models, TP degrees, links and batches.

    ladder simulate study --record study.json

Nothing is run. A wiring wins where it is faster than every other by more than the 90 % interval of their ratio. The
default implementation is `serving`, since the question is what to deploy; the calibration was fitted to `published`,
so what differs between the two (kernels, attention over filled positions, a sharded head) is assumed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ladder.errors import UserError, unknown_name
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.links import LINKS
from ladder.model.sizes import size
from ladder.schedule import order
from ladder.simulate import crossings
from ladder.simulate.calibration import DEFAULT, Calibration, load
from ladder.simulate.crossings import ratio, short, shortened
from ladder.simulate.model import Prediction, Scenario, predict
from ladder.simulate.points import check
from ladder.wiring import Wiring

MODELS = ("llama-3-8b", "codellama-34b", "llama-3-70b", "llama-3.1-405b")
WIRINGS = ("standard", "parallel", "ladder", "ladder-2", "spd", "desync-2x", "desync-4x", "upper_bound")
NEEDED = ("standard", "parallel", "ladder", "upper_bound")  # of which the questions are asked
DEGREES = (2, 4, 8, 16, 32, 64)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PROMPT, NEW_TOKENS = 1024, 512  # as in the published benchmark
ANY_TP, ALL = "wirings that are one function at every TP degree", "all wirings"  # the contests


class Place(NamedTuple):
    """A link with the TP degrees for which it makes sense, on the hardware that has it."""

    link: str
    words: str
    degrees: tuple[int, ...]
    hardware: str
    why: str


ACROSS = "nodes of 8 GPUs: fewer ranks stay inside a node"
PLACES = {
    place.link: place
    for place in (
        Place("nvlink", "NVLink", (2, 4, 8), "h100", "a node has 8 GPUs"),
        Place("nvlink-p2p-off", "P2P off", (2, 4, 8), "h100", "the same node without peer-to-peer"),
        Place("nvl72", "NVL72", (8, 16, 32, 64), "gb200", "a rack joins 72 GPUs"),
        Place("ib-ndr-2node", "IB, 2 nodes", (16,), "h100", "two nodes of 8, as in the published 405B runs"),
        Place("ib-ndr", "InfiniBand", (16, 32, 64), "h100", ACROSS),
        Place("roce-400g", "RoCE", (16, 32, 64), "h100", ACROSS),
        Place("ethernet-100g", "Ethernet", (16, 32, 64), "h100", ACROSS),
    )
}


class Question(NamedTuple):
    """What to predict: ``places`` are (link, TP degree, hardware); wirings equal in time are in ``same``, not here."""

    models: tuple[str, ...]
    wirings: tuple[str, ...]
    same: dict[str, list[str]]
    places: tuple[tuple[str, int, str], ...]
    batches: tuple[int, ...]
    implementation: str

    def point(self, model: str, wiring: str, tp: int, batch: int, hardware: str, link: str) -> Scenario:
        return Scenario(model, wiring, tp, batch, PROMPT, NEW_TOKENS, hardware, link, self.implementation)

    @property
    def contests(self) -> dict[str, list[str]]:
        """Who is compared with whom: a wiring that is tied to a TP degree needs a checkpoint for each."""
        runners = [wiring for wiring in self.wirings if wiring != "upper_bound"]
        return {ANY_TP: [wiring for wiring in runners if not Wiring.parse(wiring).tied], ALL: runners}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calibration", type=Path, default=DEFAULT, metavar="JSON", help="of `ladder calibrate`")
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL", help="default: %(default)s")
    parser.add_argument("--tp", type=int, nargs="+", default=list(DEGREES), help="default: %(default)s")
    parser.add_argument("--links", nargs="+", default=list(PLACES), metavar="LINK", help="default: %(default)s")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), help="default: %(default)s")
    parser.add_argument("--wirings", nargs="+", default=list(WIRINGS), metavar="WIRING", help="default: %(default)s")
    parser.add_argument("--hardware", help="on all links (default: on each what has it: gb200 on nvl72, else h100)")
    parser.add_argument("--implementation", default="serving", help="published, ladder or serving (default)")
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    calibration = load(args.calibration)
    question = asked(args, calibration)
    with job(args, "simulate", "study", origin="simulated", prompt=PROMPT, new_tokens=NEW_TOKENS) as this:
        found = study(question, calibration)
        this.finish([this.row(**row) for row in crossings.rows(found)], tracked=[], study=found)
    fitting = sum(cell["fits"] for cell in found["cells"])
    print(f"{args.record}: {len(found['cells'])} settings, {fitting} of them fit the memory of their device")


def asked(args: argparse.Namespace, calibration: Calibration) -> Question:
    """The question of the arguments. Raises UserError for unknown names and impossible numbers."""
    for link in args.links:
        if link not in PLACES:
            raise unknown_name("link of the study", link, PLACES)
    if missing := [wiring for wiring in NEEDED if wiring not in args.wirings]:
        raise UserError(f"--wirings lacks {missing[0]}; the study compares {', '.join(NEEDED)} and any others")
    chosen = [PLACES[link] for link in args.links]
    places = [(p.link, tp, args.hardware or p.hardware) for p in chosen for tp in p.degrees if tp in args.tp]
    if not places:
        degrees = "; ".join(f"{place.link}: {', '.join(map(str, place.degrees))}" for place in chosen)
        raise UserError(f"--tp {' '.join(map(str, args.tp))} is no degree of these links; they have {degrees}")
    first, same = {}, {}
    for wiring in dict.fromkeys(args.wirings):
        alike = tuple(order(wiring, size(model).layers) for model in args.models)
        if first.setdefault(alike, wiring) != wiring:
            same.setdefault(first[alike], []).append(wiring)
    batches = tuple(sorted(set(args.batches)))
    question = Question(tuple(args.models), tuple(first.values()), same, tuple(places), batches, args.implementation)
    for model in args.models:
        for link, tp, hardware in places:
            for batch in (batches[0], batches[-1]) if tp <= size(model).heads else ():
                check(question.point(model, "standard", tp, batch, hardware, link), calibration)
    return question


def study(question: Question, calibration: Calibration) -> dict:
    """All that the report shows, as plain values."""
    cells_ = cells(question, calibration)
    return {
        "calibration": calibration.name,
        "hardware": calibration.hardware,
        "implementation": question.implementation,
        "wirings": list(question.wirings),
        "same": question.same,
        "contests": question.contests,
        "batches": list(question.batches),
        "worth": crossings.WORTH,
        "places": [
            {"link": link, "words": PLACES[link].words, "why": PLACES[link].why, "tp": tp, "hardware": hardware}
            | {"assumed": assumed(link, tp, hardware, calibration)}
            for link, tp, hardware in question.places
        ],
        "cells": cells_,
        "cost": crossings.cost(cells_),
        "latency": crossings.latency(question, calibration),
        "one_shot": crossings.one_shot(question, calibration),
    }


def assumed(link: str, tp: int, hardware: str, calibration: Calibration) -> list[str]:
    """What stands on no measurement at this place, in words."""
    if link in calibration.links:
        measured, origin = calibration.degrees(link), ""
    else:
        measured, origin = LINKS[link].latency_us, LINKS[link].origin
    found = [] if tp in measured else [f"latency beyond {max(measured)} ranks"]
    found += ["the link's latency"] if origin.startswith(("assumed", "latency assumed")) and not found else []
    return found + ([] if hardware == calibration.hardware else [f"the {calibration.hardware}'s efficiencies"])


def cells(question: Question, calibration: Calibration) -> list[dict]:
    """Every model, place and batch: standard's tokens/s per GPU, speed-ups with their intervals, and who leads.

    A model whose heads are fewer than the ranks has no cell there. A cell that does not fit has no speed.
    """
    wirings = question.wirings
    settings = [
        (model, link, tp, batch, hardware)
        for model in question.models
        for link, tp, hardware in question.places
        for batch in question.batches
        if size(model).heads >= tp
    ]
    points = [question.point(m, w, tp, batch, hw, link) for m, link, tp, batch, hw in settings for w in wirings]
    done = predict(points, calibration, intervals=True)
    shape = (len(settings), len(wirings))
    logs = done.logs["speedup"].reshape(-1, *shape)
    gains = ratio(logs, np.zeros_like(logs), done, calibration)
    base = wirings.index("standard")
    per_gpu = done.tokens_per_s.reshape(shape)[:, base]
    over = ratio(logs[:, :, wirings.index("parallel")], logs[:, :, wirings.index("ladder")], done, calibration)
    first = {name: leading(logs, wirings, names, done, calibration) for name, names in question.contests.items()}
    found = []
    for n, (model, link, tp, batch, hardware) in enumerate(settings):
        cell = {"model": model, "link": link, "tp": tp, "batch": batch, "hardware": hardware}
        cell["fits"] = bool(done.fits.reshape(shape)[n, 0])
        if cell["fits"]:
            cell["per_gpu"] = short(per_gpu[n] / tp)
            cell["speedup"] = {wiring: shortened(gains[:, n, i]) for i, wiring in enumerate(wirings) if i != base}
            cell["parallel_over_ladder"] = shortened(over[:, n])
            worth = cell["speedup"]["upper_bound"][0] >= crossings.WORTH
            cell["leaders"] = {name: leaders[n] if worth else [] for name, leaders in first.items()}
        found.append(cell)
    return found


def leading(logs, wirings: Sequence[str], names: list[str], done: Prediction, calibration: Calibration) -> list[list]:
    """For each cell those of ``names`` that none is decidably faster than, the fastest first. A deeper ladder counts
    only where it is decidably faster than the plain one.

    logs: logarithms of speed-ups, (parameter values, cells, wirings).
    """
    chosen = logs[:, :, [wirings.index(name) for name in names]]
    best = chosen[0].argmax(axis=1)
    fastest = np.take_along_axis(chosen, best[None, :, None], axis=2)
    _, low, _ = ratio(np.broadcast_to(fastest, chosen.shape), chosen, done, calibration)
    found = []
    for slower, speeds in zip(low > 1, chosen[0], strict=True):
        kept = [names[i] for i in np.argsort(-speeds, kind="stable") if not slower[i]]
        found.append([name for name in kept if name == "ladder" or "ladder" not in kept or "ladder-" not in name])
    return found
