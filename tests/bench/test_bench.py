"""The schedule, the emulated link and the statistics, on clocks that do not depend on the machine."""

import pytest
import torch

from ladder.bench.schedule import length, schedule
from ladder.bench.statistics import estimate, hidden, matters
from ladder.cli import main
from ladder.files import read_json
from ladder.parallel.communicators import EmulatedLink
from ladder.wiring import PATTERNS, Module, run, table

LAYERS = 8
ATTENTION, MLP = 1.0, 3.0


def module_seconds(n):
    return MLP if n % 2 else ATTENTION


def seconds(wiring, reduce, layers=LAYERS):
    return length(schedule(table(wiring, layers, 2), module_seconds, reduce))


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


def test_one_rank_end_to_end(tmp_path, monkeypatch):
    """`ladder bench --emulate` at toy size: checked, complete, every number with its origin and link."""
    import torch._dynamo  # noqa: F401 (its import during a timed step would be measured)

    monkeypatch.chdir(tmp_path)
    words = "--size tiny --layers 2 --tp 2 --emulate --rho 0.8 --prompt 4 --new-tokens 4 --prefills 2"
    words += " --wirings standard ladder spd dtp-1 fal upper_bound"
    assert main(["bench", *words.split(), "--record", "bench.json"]) == 0
    record = read_json("bench.json")
    rows = record["rows"]
    assert {row["origin"] for row in rows} == {"emulated"}
    assert all(row["note"] == "2 of 10 layers" for row in rows)
    differences = {r["wiring"]: r["value"] for r in rows if r["metric"] == "logits_difference"}
    assert set(differences) == {"standard", "ladder", "spd", "dtp-1", "fal"}
    assert max(differences.values()) < 1e-4
    counts = {r["wiring"]: r["value"] for r in rows if r["metric"] == "all_reduces"}
    assert counts == {"standard": 4, "ladder": 4, "spd": 2, "dtp-1": 3, "fal": 3, "upper_bound": 0}
    for metric in ("seconds", "seconds_virtual", "speedup", "speedup_virtual"):
        found = {(r["wiring"], r["phase"]) for r in rows if r["metric"] == metric}
        assert len(found) == 12, metric
    lanes = {span["lane"] for span in record["timelines"]["ladder"]}
    assert lanes == {"compute", "communication"}
    assert len(record["timelines"]["ladder"]) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--size tinny --tp 2", "unknown size 'tinny'; known: codellama-34b"),
        ("--size tiny --tp 3", "tensor-parallel degree 3 does not divide the model's num_attention_heads (4)"),
        ("--size tiny --tp 2 --wirings standard laddr upper_bound", "unknown wiring 'laddr'"),
        ("--size tiny --tp 2 --emulate --rho 0", "must be above 0"),
        ("--size llama-3.2-1b --tp 16", "num_key_value_heads (8); --replicate-kv gives several ranks the same one"),
        ("--size llama-3.2-1b --tp 16 --replicate-kv --wirings standard spd", "--wirings spd: with several ranks on"),
        ("--size tiny --tp 2 --device cuda", "needs as many GPUs"),
        ("--size tiny --tp 2 --emulate --wirings standard ladder", "needs the wirings 'standard' and 'upper_bound'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, words, message):
    assert main(["bench", *words.split(), "--record", str(tmp_path / "r.json")]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "r.json").exists()
