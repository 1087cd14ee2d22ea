"""The schedule, the emulated link and the statistics, on clocks that do not depend on the machine."""

import json
from pathlib import Path

import pytest
import torch

from ladder.bench.bandwidth import copy_bandwidth
from ladder.bench.baseline import Baseline
from ladder.bench.plain import logits
from ladder.bench.point import BenchCase
from ladder.bench.rows import extrapolated, stable
from ladder.bench.statistics import estimate, hidden, matters
from ladder.bench.timing import Timer
from ladder.cli import main
from ladder.inference.fused import Fused
from ladder.model.modeling import LadderConfig
from ladder.model.sizes import size
from ladder.parallel.communicators import EmulatedLink, Solo
from ladder.reading import read_json
from ladder.residual import Module, run
from ladder.schedule import length, timeline
from ladder.wiring import PATTERNS, table

LAYERS = 8
ATTENTION, MLP = 1.0, 3.0


def module_seconds(n):
    return MLP if n % 2 else ATTENTION


def seconds(wiring, reduce, layers=LAYERS):
    return length(timeline(table(wiring, layers, 2), module_seconds, reduce))


@pytest.mark.parametrize("reduce", [0.0, 0.5, 2.0, 5.0])
def test_schedule_equals_closed_forms(reduce):
    compute = LAYERS * (ATTENTION + MLP)
    assert seconds("upper_bound", reduce) == compute
    assert seconds("standard", reduce) == pytest.approx(compute + 2 * LAYERS * reduce)
    assert seconds("parallel", reduce) == pytest.approx(compute + LAYERS * reduce)
    # ladder in steady state: each module takes the longer of its compute and the all-reduce behind it
    per_layer = seconds("ladder", reduce, 50) - seconds("ladder", reduce, 49)
    assert per_layer == pytest.approx(max(ATTENTION, reduce) + max(MLP, reduce))


def test_who_hides_what():
    """desync-4x waits once in two layers; partial as ladder; dtp-2 hides everything here."""
    compute = LAYERS * (ATTENTION + MLP)
    assert seconds("spd", 2.0) == seconds("parallel", 2.0) == seconds("desync-2x", 2.0) == compute + LAYERS * 2.0
    assert seconds("desync-4x", 2.0) == compute + LAYERS / 2 * 2.0
    assert seconds("desync-nx", 2.0) == compute + 2.0
    assert seconds("partial", 2.0) == seconds("ladder", 2.0)
    assert seconds("upper_bound", 2.0) == seconds("dtp-2", 2.0) < seconds("ladder", 2.0)


@pytest.mark.parametrize("reduce", [0.1, 1.0, 4.0, 20.0])
def test_bounds(reduce):
    assert seconds("upper_bound", reduce) <= seconds("ladder", reduce) <= seconds("standard", reduce)
    assert seconds("standard", reduce) <= 2 * seconds("ladder", reduce)


def test_no_communication_makes_all_wirings_equal():
    assert len({seconds(w, 0.0) for w in ("standard", "ladder", "parallel", "ladder-2", "upper_bound")}) == 1


class FakeClock(EmulatedLink):
    """A link on a clock that only the modules and the waits advance."""

    def __init__(self, alpha):
        super().__init__(2, alpha, virtual=True)
        self.compute = 0.0

    def now(self):
        return self.compute + self._skipped

    def modules(self):
        """Modules that return their input and advance the clock."""

        def module(n):
            def compute(x):
                self.compute += module_seconds(n)
                return x

            return Module(lambda x: x, compute)

        return [module(n) for n in range(2 * LAYERS)]


@pytest.mark.parametrize("wiring", [*PATTERNS, "ladder-2", "ladder@4-7", "dtp-2", "desync-4x@2-6"])
@pytest.mark.parametrize("alpha", [0.5, 2.0, 5.0])
def test_executor_on_the_emulated_link_takes_what_the_schedule_says(wiring, alpha):
    link = FakeClock(alpha)

    run(torch.ones(1), link.modules(), table(wiring, LAYERS, 2), link.all_reduce, lambda signal: signal)
    assert link.now() == pytest.approx(seconds(wiring, alpha))


def test_a_reducer_that_waits_at_once_hides_nothing():
    link = FakeClock(2.0)

    class Early:
        def __init__(self, handle):
            self.value = handle.wait()

        def wait(self):
            return self.value

    run(torch.ones(1), link.modules(), table("ladder", LAYERS), lambda partial: Early(link.all_reduce(partial)))
    assert link.now() == pytest.approx(seconds("standard", 2.0))


def test_a_wait_is_never_early():
    link = EmulatedLink(2, 2e-3)
    start = link.now()
    link.all_reduce(torch.ones(1)).wait()
    assert link.now() - start >= 2e-3


def test_the_link_is_serial_and_charges_bytes():
    link = FakeClock(1.0)
    link.beta = 0.25
    link.all_reduce(torch.ones(1))  # 4 bytes: 2 s
    link.all_reduce(torch.ones(2)).wait()  # 8 bytes: 3 s, behind the first
    assert link.now() == 5.0
    with pytest.raises(ValueError, match="alpha = -1"):
        EmulatedLink(2, -1.0)


def test_hidden_and_its_interval():
    share = estimate(hidden, [3.0] * 9 + [3.2], [2.0] * 10, [1.0] * 9 + [1.1])
    assert share["value"] == 0.5
    assert share["low"] <= 0.5 <= share["high"]
    assert share["n"] == 10
    assert not matters([1.1, 1.1], [1.0, 1.0])
    assert matters([1.3, 1.3], [1.0, 1.0])


def test_a_link_with_two_in_flight():
    """ladder: while a module computes, the all-reduces of the two before it may be under way."""
    link = FakeClock(2.0)
    link._free = [0.0, 0.0]
    for _ in range(3):
        last = link.all_reduce(torch.ones(1))
    last.wait()
    assert link.now() == 4.0
    slow = timeline(table("ladder", LAYERS), module_seconds, 4.0, in_flight=1)
    assert length(timeline(table("ladder", LAYERS), module_seconds, 4.0, in_flight=2)) < length(slow)
    with pytest.raises(ValueError, match="in_flight = 0"):
        EmulatedLink(2, 1.0, in_flight=0)


def test_extrapolation_adds_the_same_for_every_layer():
    """A head of 2 s and layers of 3 s: 80 layers from 4 and 2."""
    key = ("ladder", "eager")
    found = extrapolated({key: [14.0, 14.0]}, {key: [8.0, 8.0]}, 4, 2, 80)
    assert found == {key: [242.0, 242.0]}


class Ticking:
    """A decoder whose steps take 1, 1/2, 1/4, ... s more than 1 s on a clock of its own."""

    def __init__(self):
        self.time, self.calls, self.prefills = 0.0, 0, 0

    def step(self):
        self.time += 1 + 2.0**-self.calls
        self.calls += 1

    def prefill(self):
        self.prefills += 1
        self.time += 1


def test_the_timer_warms_up_until_times_stand_still_and_rotates_the_order():
    one, other, seen = Ticking(), Ticking(), []

    def watch(key, phase, work):
        seen.append(key)
        work()

    timer = Timer({"one": one, "other": other}, 12, clock=lambda: one.time + other.time, watch=watch)
    samples = timer.samples(prefills=3)
    assert timer.warmup == {"prefill": 6, "decode": 10}  # medians of three rounds within 5 %
    assert {phase: len(found["one"]) for phase, found in samples.items()} == {"prefill": 3, "decode": 12}
    assert max(samples["decode"]["one"]) < 1.01
    assert seen[:4] == ["one", "other", "other", "one"]
    assert one.prefills == 6 + 3 + 1  # the decode pass begins behind a prompt


def test_the_steadiest_times_need_two_windows():
    assert not stable([1.0] * 5)
    assert stable([9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert not stable([2.0, 2.0, 2.0, 1.0, 1.0, 1.0])


def bench(words: str, out="out") -> dict[str, dict]:
    """Records of `ladder bench` by file name."""
    assert main(["bench", *words.split(), "--out", str(out)]) == 0
    return {path.name: read_json(path) for path in sorted(Path(out).glob("*.json")) if "trace" not in path.name}


TOY = "--size tiny --layers 2 --prompt 4 --new-tokens 4 --prefills 2"


@pytest.fixture(autouse=True)
def small_copies(monkeypatch):
    import torch._dynamo  # its import during a timed step would be measured

    from ladder.bench import rank0 as emulation

    monkeypatch.setattr(
        emulation, "copy_bandwidth", lambda *args, **kwargs: copy_bandwidth("cpu", torch.float32, size=2**16)
    )
    emulation.bandwidth.cache_clear()


def test_one_rank_end_to_end(tmp_path, monkeypatch):
    """`ladder bench --emulate` at toy size: checked, complete, every number with its origin and link."""
    monkeypatch.chdir(tmp_path)
    words = f"{TOY} --tp 2 --emulate --rho 0.8 --trace --wirings standard ladder spd dtp-1 fal upper_bound"
    (record,) = bench(words).values()
    rows = record["rows"]
    assert {row["origin"] for row in rows} == {"emulated", "measured"}
    assert {row["metric"] for row in rows if row["origin"] == "measured"} == {"copy_bandwidth", "step_bytes"}
    assert all(row["note"].startswith("2 of 10 layers") and row["timed_layers"] == 2 for row in rows)
    assert {row["dtype"] for row in rows} == {"fp32"}
    differences = {r["wiring"]: r["value"] for r in rows if r["metric"] == "logits_difference"}
    assert set(differences) == {"standard", "ladder", "spd", "dtp-1", "fal"}
    assert max(differences.values()) < 1e-4
    assert len([r for r in rows if r["metric"] == "implementation_difference"]) == 6
    counts = {r["wiring"]: r["value"] for r in rows if r["metric"] == "all_reduces"}
    assert counts == {"standard": 4, "ladder": 4, "spd": 2, "dtp-1": 3, "fal": 3, "upper_bound": 0}
    for metric in ("seconds", "seconds_virtual", "speedup", "speedup_virtual"):
        found = {(r["wiring"], r["phase"], r["compute"], r["rho"]) for r in rows if r["metric"] == metric}
        assert len([key for key in found if key[1] != "both"]) == 12, metric
    timed = [r for r in rows if r["metric"] in ("seconds", "tokens_per_second", "tokens_per_second_per_gpu")]
    assert all(r["n"] and r["low"] <= r["value"] <= r["high"] and r["link"] for r in timed)
    lanes = {span["lane"] for span in record["timelines"]["ladder"]}
    assert lanes == {"compute", "communication"}
    assert len(record["timelines"]["ladder"]) == 8
    (trace,) = tmp_path.glob("out/*.trace.json")
    assert len([e for e in read_json(trace)["traceEvents"] if e["ph"] == "X"]) > 8


def test_a_config_json_is_timed_where_the_decode_path_runs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = {"model_type": "mistral", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "head_dim": 24, "intermediate_size": 96, "vocab_size": 128}
    words = "--size mine/config.json --prompt 4 --new-tokens 4 --prefills 2 --tp 2 --emulate --rho 0.8"
    path = Path("mine/config.json")
    path.parent.mkdir()
    path.write_text(json.dumps(config))
    (record,) = bench(f"{words} --wirings standard upper_bound").values()
    assert record["rows"][0]["model"] == "mine"
    for change in ({"model_type": "qwen3"}, {"sliding_window": 77}):
        path.write_text(json.dumps(config | change))
        assert main(["bench", *words.split(), "--out", "other"]) == 1
        told = capsys.readouterr().err
        assert str(path) in told
        assert str(*change.values()) in told


def test_a_grid_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    """One record a point; the link that rho set at the first point holds for all; nothing is measured twice."""
    monkeypatch.chdir(tmp_path)
    words = f"{TOY} --tp 2 --emulate --wirings standard upper_bound --rho 0.8"
    (first,) = bench(words).values()
    both = bench(f"{words} --batch 1 2")
    assert "2 points, 1 of them finished" in capsys.readouterr().err
    names = ["tiny-2l-tp2-b1-p4-n4-fp32-rho0.8.json", "tiny-2l-tp2-b2-p4-n4-fp32-rho0.8.json"]
    assert list(both) == names
    assert both[names[0]] == first
    assert both[names[1]]["link"] == first["link"] | {"rho": None}
    assert main(["bench", *f"{words} --seed 3 --out out".split()]) == 1
    assert (
        f"out/{names[0]}: made with seed = 0, not 3; choose another --out, or --replace it" in capsys.readouterr().err
    )
    assert bench(f"{words} --seed 3 --replace")[names[0]]["settings"]["seed"] == 3


def test_named_links_depth_and_one_rank_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = f"{TOY} --emulate --wirings standard ladder upper_bound --extrapolate"
    (record,) = bench(f"{words} --tp 2 --link ethernet-10g").values()
    assert record["link"]["alpha"] == pytest.approx(100e-6)
    (other,) = bench(f"{words} --tp 2 --link ib-ndr-2node", "other").values()
    assert all("the link's latency is known for 16 ranks" in row["note"] for row in other["rows"])
    assert all(r["note"].startswith("extrapolated from 2 of 10 layers") for r in record["rows"])
    (alone,) = bench(f"{words} --tp 1 --rho 0.4 0.8", "alone").values()
    assert {r["origin"] for r in alone["rows"]} == {"measured"}


@pytest.mark.slow
def test_one_rank_beside_plain_transformers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "--size tiny --layers 1 --tp 1 --prompt 4 --new-tokens 4 --prefills 2 --emulate --baseline"
    (record,) = bench(f"{words} --wirings standard upper_bound --compute eager compiled").values()
    found = [r for r in record["rows"] if r["metric"] == "seconds" and r["compute"] == "transformers"]
    assert [r["phase"] for r in found] == ["prefill", "decode"]
    (ratio,) = [r for r in record["rows"] if r["metric"] == "over_transformers" and r["phase"] == "decode"]
    assert (ratio["wiring"], ratio["compute"], ratio["n"]) == ("standard", "compiled", 4)


@pytest.mark.slow
def test_plain_transformers_as_a_baseline():
    """Same weights, same logits as the decode path; compiled, so its first step takes a while."""
    config = LadderConfig(**size("tiny").config(num_hidden_layers=1, num_key_value_heads=2))
    point = BenchCase(config, 1, 2, 4, 3, ("standard",))
    model = point.shard(0)
    baseline = Baseline(model, point)
    engine = point.engine(Fused(model), "standard", Solo().all_reduce)
    torch.testing.assert_close(logits(baseline, 3), logits(engine, 3), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--size tinny --tp 2", "unknown size 'tinny'; known: codellama-34b"),
        ("--size tiny --tp 3", "tensor-parallel degree 3 does not divide the model's num_attention_heads (4)"),
        ("--size tiny --tp 2 --wirings standard laddr upper_bound", "unknown wiring 'laddr'"),
        ("--size tiny --tp 2 --emulate --rho 0", "must be above 0"),
        ("--size tiny --tp 2 --emulate --link nvlnk", "unknown link 'nvlnk'; known: a100-nvlink"),
        ("--size tiny --tp 2 --link h100-nvlink", "--rho and --link set an emulated link; add --emulate"),
        ("--size tiny --tp 2 --backend ncl", "unknown backend 'ncl'; known: gloo, multimem, nccl"),
        ("--size tiny --tp 2 --emulate --backend nccl", "--backend is what real ranks reduce with"),
        ("--size tiny --tp 2 --compute graphs", "--compute graphs needs a GPU"),
        ("--size tiny --tp 2 --emulate --attention flash", "unknown attention 'flash'"),
        ("--size tiny --tp 2 --emulate --extrapolate", "--extrapolate needs --layers of at least 2"),
        ("--size tiny --tp 2 --layers 11", "--layers 11: tiny has 10"),
        ("--size tiny --tp 2 --emulate --baseline", "--baseline times plain transformers on one rank; use --tp 1"),
        ("--size llama-3.2-1b --tp 16", "num_key_value_heads (8); --replicate-kv gives several ranks the same one"),
        ("--size llama-3.2-1b --tp 16 --replicate-kv --wirings standard spd", "--wirings spd: with several ranks on"),
        ("--size llama-3.1-405b --tp 8 --emulate --rho 1", "GiB on a rank"),
        ("--size tiny --tp 2 --device cuda", "--device cuda: torch finds no GPU"),
        ("--size tiny --tp 2 --emulate --wirings standard ladder", "--wirings lacks upper_bound"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, words, message):
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():  # as if it had been launched
        monkeypatch.setenv(key, value)
    assert main(["bench", *words.split(), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
