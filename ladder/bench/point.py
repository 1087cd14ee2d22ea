"""One thing to time, and the checks that must pass before it is timed."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ladder.bench.plain import Decoder, logits, random_weight
from ladder.inference.engine import Engine
from ladder.inference.fused import Fused
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.rewire import set_virtual_ranks
from ladder.parallel.communicators import ThreadedRanks
from ladder.parallel.shard import build
from ladder.residual import Table
from ladder.wiring import Wiring, table

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CHECKED_STEPS = 2  # decode steps whose logits are compared
TOLERANCE = 1e-4  # of the sharded model's logits, which have a standard deviation of about 1, in fp32
# Of the timed path's logits against the plain model's, relative in the norm: rounding differs, nothing else may.
ROUNDING = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.03}
CHECKED_BATCH, CHECKED_PROMPT = 4, 128  # in fp32 no fused attention kernel keeps the scores small
CHECKED_LAYERS = 2  # on a GPU, so that the unsharded model of any size fits on one


@dataclass(frozen=True)
class BenchCase:
    """What to time: ``tp`` ranks, ``batch`` sequences of ``prompt`` tokens, ``new_tokens`` decode steps each.

    config: of the layers that run. compute: ways of :class:`Engine`, timed against each other.
    """

    config: LadderConfig
    tp: int
    batch: int
    prompt: int
    new_tokens: int
    wirings: tuple[str, ...]
    seed: int = 0
    replicate_kv: bool = False
    device: str = "cpu"
    dtype: str = "fp32"
    compute: tuple[str, ...] = ("eager",)
    attention: str = "matmul"

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def length(self) -> int:
        """Positions of the cache."""
        return self.prompt + self.new_tokens

    def rows(self, wiring: str, layers: int | None = None) -> Table:
        return table(wiring, layers or self.layers, self.tp)

    def shard(self, rank: int, weight=None, copy: bool = True) -> LadderForCausalLM:
        """Rank ``rank``'s part of the model."""
        weight = weight or random_weight(self.seed, self.device, DTYPES[self.dtype])
        return build(self.config, rank, self.tp, weight, copy, replicate_kv=self.replicate_kv)

    def ids(self) -> torch.Tensor:
        """Random tokens [batch, prompt + new tokens]."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(0, self.config.vocab_size, (self.batch, self.length), generator=generator).to(self.device)

    def engine(
        self, fused: Fused, wiring: str, all_reduce, compute: str = "eager", layers: int | None = None
    ) -> Engine:
        rows = self.rows(wiring, layers)
        return Engine(fused, rows, self.ids(), self.prompt, all_reduce, compute, self.attention)

    def checked(self) -> "BenchCase":
        """The smaller point whose logits are compared: fp32, few tokens, and on a GPU few layers."""
        small = {"new_tokens": min(CHECKED_STEPS, self.new_tokens), "dtype": "fp32", "compute": ("eager",)}
        small |= {"batch": min(CHECKED_BATCH, self.batch), "prompt": min(CHECKED_PROMPT, self.prompt)}
        if self.device == "cuda":
            layers = min(CHECKED_LAYERS, self.layers)
            small["config"] = type(self.config)(**self.config.to_dict() | {"num_hidden_layers": layers})
        return replace(self, **small)

    def checked_rows(self, wiring: str) -> Table | None:
        """The rows of ``checked()``: of a hybrid, those about its first change of wiring. None: it has no logits."""
        if Wiring.parse(wiring).timing_only:
            return None
        rows, count = self.rows(wiring), 2 * self.checked().layers
        changes = [n for n in range(2, len(rows), 2) if rows[n : n + 2] != rows[n - 2 : n]]
        start = min(max(0, changes[0] - 2), len(rows) - count) if changes else 0
        return Table(rows[start : start + count])


def unsharded(model: LadderForCausalLM, rows: Table, wiring: str, point: BenchCase) -> Decoder:
    """What ``tp`` ranks must give together: a whole model's generation, over virtual ranks if the wiring is tied."""
    set_virtual_ranks(model, point.tp if Wiring.parse(wiring).tied else 1)
    return Decoder(model, rows, point.ids(), point.prompt, model.rewiring.all_reduce)


def difference(found: torch.Tensor, expected: torch.Tensor, rows: Table, rank: int, tp: int) -> float:
    """Largest difference between rank ``rank``'s logits and the unsharded model's [..., vocabulary].

    Where the ranks' streams end apart, a rank's logits count in its own part of the vocabulary only.
    """
    apart = (found - expected).abs()
    return (apart.chunk(tp, -1)[rank] if rows.ends_apart else apart).max().item()


def refuse(wiring: str, point: BenchCase, value: float, limit: float, what: str) -> None:
    """No number is reported for a wrong model."""
    if not value < limit:
        raise RuntimeError(f"{wiring} at TP {point.tp}: {what} off by {value:.2e}; not timed")


def check_logits(point: BenchCase) -> dict[str, float]:
    """Largest difference in logits between ``tp`` ranks of the decode path and the unsharded plain model, per wiring.

    A wiring for timing only has no logits to compare. Raises RuntimeError if a wiring is off.
    """
    small = point.checked()
    weight = random_weight(point.seed, point.device)
    with torch.device("meta"):
        names = dict(LadderForCausalLM(small.config).named_parameters())
    full = {name: weight(name, parameter) for name, parameter in names.items()}
    whole = build(small.config, 0, 1, lambda name, _: full[name], copy=False)
    parts = [Fused(small.shard(rank, lambda name, _: full[name], copy=False)) for rank in range(point.tp)]
    differences = {}
    for wiring in point.wirings:
        rows = point.checked_rows(wiring)
        if rows is None:
            continue
        expected = logits(unsharded(whole, rows, wiring, small), small.new_tokens)

        def rank_difference(rank, all_reduce, rows=rows, expected=expected):
            engine = Engine(parts[rank], rows, small.ids(), small.prompt, all_reduce, "eager", point.attention)
            return difference(logits(engine, small.new_tokens), expected, rows, rank, point.tp)

        differences[wiring] = max(ThreadedRanks(point.tp).run(rank_difference))
        refuse(wiring, point, differences[wiring], TOLERANCE, "logits are")
    return differences


def check_path(point: BenchCase, fused: Fused, all_reduce) -> dict[tuple[str, str], float]:
    """(wiring, compute) -> relative difference in logits between the timed path and the plain model on the same rank.

    On real ranks every rank must call this. Raises RuntimeError where rounding cannot be the reason.
    """
    steps = min(CHECKED_STEPS, point.new_tokens)
    differences = {}
    for wiring in point.wirings:
        expected = logits(Decoder(fused.model, point.rows(wiring), point.ids(), point.prompt, all_reduce), steps)
        for compute in point.compute:
            engine = point.engine(fused, wiring, all_reduce, compute)
            if compute == "graphs":
                engine.capture()
            found = logits(engine, steps)
            apart = ((found - expected).float().norm() / expected.float().norm()).item()
            refuse(wiring, point, apart, ROUNDING[point.dtype], f"the {compute} path's logits are")
            differences[wiring, compute] = apart
    return differences


def check_order(point: BenchCase, engine: Callable[[str], Engine]) -> dict[str, int]:
    """Number of all-reduces of a decode step per wiring, launched and waited for in the table's order, or RuntimeError.

    engine: makes one of a wiring.
    """
    counts = {}
    for wiring in point.wirings:
        found = engine(wiring)
        found.prefill()
        seen = order(found)
        if seen != [(event.kind, event.index) for event in found.rows.events]:
            raise RuntimeError(f"{wiring}: all-reduces are not launched and waited for as its table says")
        counts[wiring] = sum(kind == "launch" for kind, _ in seen)
    return counts


def order(engine: Engine) -> list[tuple[str, int]]:
    """Computing, launching and waiting as they really happen in one decode step: [(kind, module or all-reduce)]."""
    seen: list[tuple[str, int]] = []
    real, launched = engine.all_reduce, 0

    class Noted:
        def __init__(self, handle, index):
            self.handle, self.index = handle, index

        def wait(self):
            seen.append(("wait", self.index))
            return self.handle.wait()

    def all_reduce(partial):
        nonlocal launched
        seen.append(("launch", launched))
        launched += 1
        return Noted(real(partial), launched - 1)

    engine.all_reduce = all_reduce
    engine.observe = lambda n, edge: seen.append(("compute", n)) if edge == "start" else None
    try:
        engine.step()
    finally:
        engine.all_reduce, engine.observe = real, None
    return seen
