"""One rank of a tensor-parallel group, alone on this machine: compute is real, the link is emulated."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from ladder.bench.decoder import (
    Decoder,
    Watch,
    difference,
    expected_order,
    logits,
    order,
    random_weight,
    unsharded,
)
from ladder.bench.schedule import length, schedule
from ladder.bench.statistics import estimate, hidden, matters
from ladder.errors import UserError
from ladder.model.modeling import LadderConfig, LadderForCausalLM, build
from ladder.parallel.communicators import EmulatedLink, ThreadedRanks
from ladder.records import cores
from ladder.wiring import pattern, table, trace

CHECKED_STEPS = 4  # decode steps whose logits are compared with the unsharded model
TOLERANCE = 1e-4  # of logits with a standard deviation of about 1, in fp32


@dataclass
class Point:
    """What to time: ``tp`` ranks, ``batch`` sequences of ``prompt`` tokens, ``new_tokens`` decode steps each."""

    config: LadderConfig
    tp: int
    batch: int
    prompt: int
    new_tokens: int
    wirings: list[str]
    seed: int = 0
    replicate_kv: bool = False

    @property
    def checked_steps(self) -> int:
        return min(CHECKED_STEPS, self.new_tokens)

    def shard(self, rank: int, weight, copy: bool = True, config: LadderConfig | None = None) -> LadderForCausalLM:
        """Rank ``rank``'s part of the model (or of one of another ``config``)."""
        return build(config or self.config, rank, self.tp, weight, copy, replicate_kv=self.replicate_kv)

    def ids(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.batch, self.prompt + self.new_tokens)
        return torch.randint(0, self.config.vocab_size, shape, generator=generator)


def check_logits(point: Point) -> dict[str, float]:
    """Largest difference in logits between ``tp`` virtual ranks and the unsharded model, per wiring.

    A wiring for timing only has no logits to compare. Raises RuntimeError if a wiring is off, so that no number is
    reported for a wrong model.
    """
    weight = random_weight(point.seed)
    with torch.device("meta"):
        names = dict(LadderForCausalLM(point.config).named_parameters())
    full = {name: weight(name, parameter) for name, parameter in names.items()}
    ids = point.ids()[:, : point.prompt + point.checked_steps]
    differences = {}
    for wiring in point.wirings:
        if pattern(wiring.partition("@")[0]).timing_only:
            continue
        whole = build(point.config, 0, 1, lambda name, _: full[name], copy=False)
        expected = logits(unsharded(whole, wiring, point.tp, ids, point.prompt), point.checked_steps)

        def rank_difference(rank, all_reduce, wiring=wiring, expected=expected):
            part = point.shard(rank, lambda name, _: full[name], copy=False)
            decoder = Decoder(part, wiring, point.tp, ids, point.prompt, all_reduce)
            return difference(logits(decoder, point.checked_steps), expected, decoder.rows, rank, point.tp)

        differences[wiring] = max(ThreadedRanks(point.tp).run(rank_difference))
        if not differences[wiring] < TOLERANCE:
            raise RuntimeError(f"{wiring} at TP {point.tp}: logits are off by {differences[wiring]:.2e}; not timed")
    return differences


class Bench:
    """Rank 0's shard, and what was measured on it."""

    def __init__(self, point: Point):
        self.point = point
        self.model = point.shard(0, random_weight(point.seed))
        self.layers = point.config.num_hidden_layers

    def decoders(self, all_reduce) -> dict[str, Decoder]:
        ids = self.point.ids()
        return {
            w: Decoder(self.model, w, self.point.tp, ids, self.point.prompt, all_reduce) for w in self.point.wirings
        }

    def module_times(self, rounds: int = 20, warm: int = 5) -> dict[str, np.ndarray]:
        """Median seconds of each of the 2L modules, without communication, in prefill and in decode."""
        decoder = Decoder(self.model, "upper_bound", self.point.tp, self.point.ids(), self.point.prompt, None)
        found = {}
        for phase, count in (("prefill", warm), ("decode", min(warm + rounds, self.point.new_tokens))):
            decoder.prefill()
            samples = []
            for _ in range(count):
                with Watch(self.model, time.thread_time) as watch:
                    decoder.prefill() if phase == "prefill" else decoder.step()
                samples.append(watch.seconds())
            found[phase] = np.median(samples[warm:] or samples, axis=0)
        return found

    def link(self, rho: float, modules: dict[str, np.ndarray]) -> dict[str, float]:
        """alpha and beta of a link on which an all-reduce takes rho x the mean module's time in both phases."""
        per_token = self.point.batch * self.point.config.hidden_size * self.model.dtype.itemsize
        decode, prefill = rho * modules["decode"].mean(), rho * modules["prefill"].mean()
        # A phase with longer messages cannot have a shorter all-reduce than the other.
        beta = max(0.0, (prefill - decode) / (per_token * (self.point.prompt - 1))) if self.point.prompt > 1 else 0.0
        return {"alpha": float(max(0.0, decode - beta * per_token)), "beta": float(beta)}

    def check_order(self) -> dict[str, int]:
        """Number of all-reduces of a decode step per wiring, launched and waited for in the table's order."""
        counts = {}
        for wiring, decoder in self.decoders(EmulatedLink(self.point.tp, 0.0).all_reduce).items():
            decoder.prefill()
            seen = order(decoder)
            if seen != expected_order(decoder):
                raise RuntimeError(f"{wiring}: all-reduces are not launched and waited for as its table says")
            counts[wiring] = sum(kind == "launch" for kind, _ in seen)
        return counts

    def time(self, link: dict[str, float], virtual: bool, prefills: int) -> tuple[dict, dict[str, np.ndarray]]:
        """(phase -> wiring -> seconds, phase -> median seconds of each module meanwhile).

        Samples are interleaved: ``prefills`` prefills and one decode pass of new tokens.
        """
        emulated = EmulatedLink(self.point.tp, **link, virtual=virtual)
        decoders = self.decoders(emulated.all_reduce)
        samples = {phase: {w: [] for w in decoders} for phase in ("prefill", "decode")}
        modules = {phase: [] for phase in samples}

        def sample(phase: str, round_: int) -> None:
            names = list(decoders)
            turn = round_ % len(names)
            for wiring in names[turn:] + names[:turn]:
                decoder = decoders[wiring]
                with Watch(self.model, time.thread_time) as watch:
                    start = emulated.now()
                    decoder.prefill() if phase == "prefill" else decoder.step()
                    samples[phase][wiring].append(emulated.now() - start)
                if round_:
                    modules[phase].append(watch.seconds())

        for round_ in range(prefills + 1):
            sample("prefill", round_)
        for round_ in range(self.point.new_tokens):
            sample("decode", round_)
        for phase in samples.values():  # the first round warms caches and the allocator
            for values in phase.values():
                del values[0]
        return samples, {phase: np.median(seconds, axis=0) for phase, seconds in modules.items()}

    def timeline(self, wiring: str, link: dict[str, float], rounds: int = 9) -> list[dict]:
        """What really happened in the median of ``rounds`` decode steps: spans with lane, name, layer, start, end."""
        emulated = EmulatedLink(self.point.tp, **link)
        decoder = Decoder(self.model, wiring, self.point.tp, self.point.ids(), self.point.prompt, emulated.all_reduce)
        decoder.prefill()
        rounds = min(rounds, self.point.new_tokens)
        steps = []
        for _ in range(rounds):
            emulated.intervals.clear()
            start = emulated.now()
            with Watch(self.model, emulated.now) as watch:
                decoder.step()
            spans = [span("compute", n, n, begin - start, end - start) for n, begin, end in watch.spans]
            launches = [event.modules for event in trace(decoder.rows) if event.kind == "launch"]
            spans += [
                span("communication", i, max(launches[i]), begin - start, end - start)
                for i, (begin, end) in enumerate(emulated.intervals)
            ]
            steps.append((emulated.now() - start, spans))
        return sorted(steps, key=lambda step: step[0])[rounds // 2][1]


def span(lane: str, index: int, module: int, start: float, end: float) -> dict:
    kind = ("attention", "mlp")[module % 2] if lane == "compute" else "all-reduce"
    number = module // 2 if lane == "compute" else index
    return {"lane": lane, "name": f"{kind} {number}", "layer": module // 2, "start": start, "end": end}


def measure(point: Point, rhos: list[float], prefills: int, say=lambda line: None) -> tuple[list[dict], dict]:
    """Everything about one point: (tidy rows, extra for the record)."""
    if "standard" not in point.wirings or "upper_bound" not in point.wirings:
        raise UserError(
            "the benchmark needs the wirings 'standard' and 'upper_bound': shares and speed-ups refer to them"
        )
    say(f"checking logits of {point.tp} virtual ranks against the unsharded model")
    torch.set_num_threads(cores())
    differences = check_logits(point)
    torch.set_num_threads(1)  # one rank's compute resource; and the virtual clock is this thread's
    bench = Bench(point)
    counts = bench.check_order()
    bench.module_times()  # warms caches and the allocator
    what = {"tp": point.tp, "batch": point.batch, "prompt": point.prompt, "new_tokens": point.new_tokens}
    what |= {"backend": "emulated", "origin": "emulated"}
    rows = []
    for wiring in point.wirings:
        if wiring in differences:
            value = differences[wiring]
            rows.append({**what, "wiring": wiring, "metric": "logits_difference", "value": value, "unit": "1"})
        rows.append({**what, "wiring": wiring, "metric": "all_reduces", "value": counts[wiring], "unit": "per step"})
    links, timelines, seconds_of = {}, {}, {}
    for rho in rhos:
        say(f"timing {', '.join(point.wirings)} at rho {rho:g}")
        # Anew for each rho: the machine's speed drifts, and the link is to follow it.
        links[f"{rho:g}"] = link = bench.link(rho, bench.module_times())
        name = f"emulated, serial, {link['alpha'] * 1e3:.2f} ms + {1e-9 / max(link['beta'], 1e-15):.2f} GB/s"
        here = {**what, "rho": rho, "link": name}
        wall, _ = bench.time(link, virtual=False, prefills=prefills)
        virtual, modules = bench.time(link, virtual=True, prefills=prefills)
        for phase, seconds in modules.items():
            found = here | {"phase": phase}
            mean = {"metric": "module_seconds", "value": float(seconds.mean()), "unit": "s", "n": len(seconds)}
            rows += [{**found, **mean}, *compare(wall[phase], virtual[phase], found)]
            rows += scheduled(point, bench, seconds, virtual[phase], link, found)
        rows += throughput(point, wall, here)
        seconds_of[rho] = {
            "decode": whole_step(modules["decode"], virtual["decode"]["upper_bound"]).tolist(),
            "mean": float(modules["decode"].mean()),  # what rho refers to
        }
    middle = sorted(rhos)[len(rhos) // 2]
    for wiring in point.wirings:
        timelines[wiring] = bench.timeline(wiring, links[f"{middle:g}"])
    extra = {"timelines": timelines, "timeline_rho": middle, "links": links, "module_seconds": seconds_of[middle]}
    return rows, extra


def compare(wall: dict, virtual: dict | None, what: dict) -> list[dict]:
    """Rows of one phase: seconds, speed-up over standard, share of communication hidden."""
    rows = []
    for clock, samples in (("", wall), ("_virtual", virtual)):
        if samples is None:
            continue
        standard, silent = samples["standard"], samples["upper_bound"]
        for wiring, values in samples.items():
            here = {**what, "wiring": wiring}
            rows.append({**here, "metric": "seconds" + clock, "unit": "s", **estimate(lambda t: t, values)})
            ratio = estimate(lambda a, b: a / b, standard, values)
            rows.append({**here, "metric": "speedup" + clock, "unit": "x", **ratio})
            if matters(standard, silent):
                share = estimate(hidden, standard, values, silent)
                rows.append({**here, "metric": "hidden" + (clock or "_wall"), "unit": "fraction", **share})
    return rows


def scheduled(point: Point, bench: Bench, modules, virtual: dict, link: dict, what: dict) -> list[dict]:
    """Rows of the share that the two-resource schedule hides, given the measured module times."""
    modules = whole_step(modules, virtual["upper_bound"])
    tokens = point.prompt if what["phase"] == "prefill" else 1
    size = point.batch * tokens * point.config.hidden_size * bench.model.dtype.itemsize
    reduce = link["alpha"] + size * link["beta"]
    times = {w: length(schedule(table(w, bench.layers, point.tp), lambda n: modules[n], reduce)) for w in point.wirings}
    if not matters(virtual["standard"], virtual["upper_bound"]):
        return []
    return [
        {
            **what,
            "wiring": wiring,
            "metric": "hidden_schedule",
            "value": float(hidden(times["standard"], seconds, times["upper_bound"])),
            "unit": "fraction",
        }
        for wiring, seconds in times.items()
    ]


def whole_step(modules: np.ndarray, silent: list[float]) -> np.ndarray:
    """Module times that add up to a silent step's: what it computes outside its modules (norms, residual additions, the
    head) hides communication too, and is spread over them in proportion."""
    return modules * (np.median(silent) / modules.sum())


def throughput(point: Point, samples: dict, what: dict) -> list[dict]:
    """Rows of batch x new tokens / (prefill + decode time), from the medians (the paper's definition)."""
    rows = []
    for wiring in point.wirings:
        prefill, decode = (float(np.median(samples[phase][wiring])) for phase in ("prefill", "decode"))
        value = point.batch * point.new_tokens / (prefill + point.new_tokens * decode)
        rows.append({**what, "wiring": wiring, "phase": "both", "metric": "tokens_per_second", "unit": "tokens/s"})
        rows[-1] |= {"value": value, "n": len(samples["decode"][wiring])}
    return rows
