"""What conversion costs, layer set by layer set: each layer alone, the last n, and a set that grows by its cheapest.

The growing set is greedy: it takes the layer that adds least to the loss of some windows, and every set so chosen is
measured on other windows. A layer's cost mostly grows with the set, so what it added when it was last tried bounds it
from below, and only the layers that look cheapest are tried again.

A pass keeps the stream before each layer, in memory: that of another table begins where the two part.
"""

import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise, takewhile
from typing import NamedTuple

import numpy as np

from ladder.evaluate.metrics import standard_error
from ladder.model.chosen import ALONE, CHOSEN, FREE, LAST
from ladder.residual import Module, ResidualStream, Table
from ladder.wiring import Wiring

EXPONENT = math.log(sys.float_info.max)  # nats whose perplexity is a float
TRIED = 4  # layers that one step of the choice tries at most
LOGITS = 2**23  # at once; their sums stay in the cache


class ScanPoint(NamedTuple):
    """A rewired model's losses: ``loss`` [N] mean of each window, in nats; ``change`` [N] against the original's."""

    metric: str
    wiring: Wiring
    loss: np.ndarray
    change: np.ndarray
    added: int | None = None  # the layer that this step of a choice added

    @property
    def layers(self) -> tuple[int, ...]:
        return self.wiring.layers or ()

    @property
    def spelled(self) -> str:
        return str(self.wiring) if self.layers else "standard"

    @property
    def perplexity(self) -> float:
        """Infinite where it is beyond a float (a loss above 709 nats)."""
        return math.exp(self.loss.mean()) if self.loss.mean() < EXPONENT else math.inf

    @property
    def stderr(self) -> float:
        return standard_error("loss_change", self.change)

    @property
    def free(self) -> bool:
        return self.change.mean() <= max(FREE, 2 * self.stderr)


class KeptStream(ResidualStream):
    """A stream that begins where the last of ``kept`` stood, and adds to it how it stands before each further layer."""

    def __init__(self, kept: list[dict], *args):
        super().__init__(*args)
        self.kept, self.begins = kept, 2 * (len(kept) - 1)

    def run(self, module: Module) -> None:
        if self.module < self.begins:
            self.module += 1
            return
        if self.module == self.begins:
            vars(self).update(copied(self.kept[-1]))
        elif self.module % 2 == 0:
            self.kept.append(copied(vars(self)))
        super().run(module)


def copied(state: dict) -> dict:
    """What a stream's later modules depend on; sums and shares change in place, tensors never do."""
    same = {name: state[name] for name in ("module", "x", "held", "signal")}
    return same | {"sums": deque(state["sums"]), "shares": dict(state["shares"])}


class Pass(NamedTuple):
    """One table's reading of some windows: ``loss`` [N], and ``kept[b][l]``, batch b's stream before layer l."""

    table: Table
    loss: np.ndarray
    kept: list[list[dict]]


class Reader:
    """``model``, under any table of one wiring and degree, on ``windows`` [N, S + 1], ``batch`` of them at once."""

    def __init__(self, model, windows: np.ndarray, batch: int, told: Callable = lambda count: None):
        self.model, self.told = model, told
        self.batches = np.split(windows, range(batch, len(windows), batch))

    def read(self, table: Table, before: Pass | None = None) -> Pass:
        """``before``: a pass that was made already, of this reader; what its table has in common is not run again."""
        import torch

        from ladder.train.batches import Batch
        from ladder.train.losses import measure

        rewiring = self.model.rewiring
        rewiring.table = table
        losses, streams = [], []
        common = 0 if before is None else alike(table, before.table)
        with torch.inference_mode():
            for number, part in enumerate(self.batches):
                kept = [] if before is None else before.kept[number][: common + 1]
                rewiring.begin = partial(KeptStream, kept)
                batch = Batch(part[:, :-1], part[:, 1:], None)
                _, values = measure(self.model, batch, self.model.device, {"loss": 1.0}, most=LOGITS)
                losses.append(values["loss"].double().mean(1).cpu())
                streams.append(kept)
        rewiring.begin = ResidualStream
        self.told(1)
        return Pass(table, torch.cat(losses).numpy(), streams)


def alike(one: Table, other: Table) -> int:
    """How many layers, from the first, the two tables run by the same operations; at least the last one differs."""
    modules = sum(1 for _ in takewhile(lambda steps: steps[0] == steps[1], zip(one.steps, other.steps, strict=True)))
    return min(modules, len(one) - 1) // 2


def passes(layers: int) -> int:
    """How many passes the scan of one wiring makes at most."""
    return 3 * layers + 2 + sum(min(TRIED, left) for left in range(1, layers + 1))


def scan(
    model, wiring: Wiring, choice: np.ndarray, heldout: np.ndarray, batch: int, told: Callable = lambda count: None
) -> Iterator[ScanPoint]:
    """Rewire ``model`` in place and yield point by point: the original, each layer alone (on the windows to choose on),
    the last n and the chosen n (on those held out), n = 1 to all.

    wiring: of all layers, with its degree; choice, heldout: token ids [N, S + 1]; told(n): n more :func:`passes` done.
    """
    from ladder.model.forms import layers_of
    from ladder.model.rewire import rewire

    count = len(layers_of(model))
    rewire(model, wiring.name, wiring.tp)
    on_choice, on_heldout = Reader(model, choice, batch, told), Reader(model, heldout, batch, told)

    def table(layers: tuple[int, ...]) -> Table:
        return replace(wiring, layers=layers).table(count)

    standard = Wiring("standard").table(count)
    base, original = on_choice.read(standard), on_heldout.read(standard)

    def point(metric: str, layers: tuple[int, ...], loss: np.ndarray, before: np.ndarray, added=None) -> ScanPoint:
        return ScanPoint(metric, replace(wiring, layers=layers), loss, loss - before, added)

    yield point(LAST, (), original.loss, original.loss)
    costs = {}
    for layer in range(count):
        loss = on_choice.read(table((layer,)), base).loss
        costs[layer] = (loss - base.loss).mean()
        yield point(ALONE, (layer,), loss, base.loss)
    for first in reversed(range(count)):
        layers = tuple(range(first, count))
        yield point(LAST, layers, on_heldout.read(table(layers), original).loss, original.loss)
    heldout_pass = original
    for before, layers in pairwise([(), *grow(on_choice, table, base, costs)]):
        heldout_pass = on_heldout.read(table(layers), heldout_pass)
        (added,) = set(layers) - set(before)
        yield point(CHOSEN, layers, heldout_pass.loss, original.loss, added)


def grow(reader: Reader, table: Callable, here: Pass, costs: dict[int, float]) -> Iterator[tuple[int, ...]]:
    """Sets of layers, each with one more than the one before: of those tried, the one that adds least to the loss.

    table: of a set of layers; here: the original's pass; costs: what each layer adds to it.
    """
    layers: tuple[int, ...] = ()
    while costs:
        best, candidates = None, sorted(costs, key=costs.get)[:TRIED]
        for number, layer in enumerate(candidates):
            if best is not None and costs[best[0]] <= costs[layer]:
                reader.told(len(candidates) - number)
                break
            tried = reader.read(table(tuple(sorted((*layers, layer)))), here)
            costs[layer] = (tried.loss - here.loss).mean()
            if best is None or costs[layer] < costs[best[0]]:
                best = layer, tried
        added, here = best
        del costs[added]
        layers = tuple(sorted((*layers, added)))
        yield layers
