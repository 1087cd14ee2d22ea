"""Interleaved timing of several decoders: A B C, B C A, C A B, ... until the machine is warm, then for the record."""

import time
from collections.abc import Callable, Hashable

import torch

from ladder.bench.rows import stable

WARMUP_ROUNDS = 12  # at most
Decoders = dict[Hashable, object]


class Timer:
    """Times rounds of ``decoders`` (each with prefill() and step()) on one device.

    clock: seconds. together: called before and after each sample; on real ranks it lines them up and gives the
    slowest one's seconds.
    """

    def __init__(
        self,
        decoders: Decoders,
        new_tokens: int,
        device: str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
        start: Callable[[], None] = lambda: None,
        slowest: Callable[[float], float] = lambda seconds: seconds,
        watch: Callable | None = None,
    ):
        self.decoders, self.new_tokens, self.device, self.clock = decoders, new_tokens, device, clock
        self.start, self.slowest, self.watch = start, slowest, watch
        self.host: dict[Hashable, list[float]] = {key: [] for key in decoders}  # until a decode step is launched
        self.warmup: dict[str, int] = {}

    def round(self, phase: str, turn: int) -> dict[Hashable, float]:
        """Seconds of one prefill or decode step of every decoder; ``turn`` rotates their order."""
        names = list(self.decoders)
        turn %= len(names)
        found = {}
        for key in names[turn:] + names[:turn]:
            work = getattr(self.decoders[key], "prefill" if phase == "prefill" else "step")
            self.start()
            begin = self.clock()
            if self.watch:
                self.watch(key, phase, work)
            else:
                work()
            if self.device == "cuda":
                if phase == "decode":
                    self.host[key].append(self.clock() - begin)
                torch.cuda.synchronize()
            found[key] = self.slowest(self.clock() - begin)
        return {key: found[key] for key in names}

    def warm(self, phase: str, rounds: int) -> None:
        """Rounds until no decoder becomes faster, ``rounds`` at most; a decode step needs tokens left to read."""
        histories = {key: [] for key in self.decoders}
        rounds = rounds if phase == "prefill" else min(rounds, self.new_tokens)
        for turn in range(rounds):
            for key, seconds in self.round(phase, turn).items():
                histories[key].append(seconds)
            if all(map(stable, histories.values())):
                break
        self.warmup[phase] = turn + 1

    def samples(self, prefills: int, warmup: int = WARMUP_ROUNDS) -> dict[str, dict[Hashable, list[float]]]:
        """phase -> decoder -> seconds: ``prefills`` prefills and one decode pass of the new tokens each."""
        found = {phase: {key: [] for key in self.decoders} for phase in ("prefill", "decode")}
        for phase, rounds in (("prefill", prefills), ("decode", self.new_tokens)):
            self.warm(phase, min(warmup, 2 * rounds))
            if phase == "decode":
                for decoder in self.decoders.values():
                    decoder.prefill()
                for seconds in self.host.values():
                    seconds.clear()
            for turn in range(rounds):
                for key, seconds in self.round(phase, turn).items():
                    found[phase][key].append(seconds)
        return found
