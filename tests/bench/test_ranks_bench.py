"""Real ranks over gloo: checked, timed, traced; backends by name."""

import pytest
from fleet import together

from ladder.bench import ranks
from ladder.bench.point import BenchCase
from ladder.cli import main
from ladder.model.modeling import LadderConfig
from ladder.model.sizes import size

WIRINGS = ("standard", "ladder", "upper_bound")


def point(**changes) -> BenchCase:
    config = LadderConfig(**size("tiny").config(num_hidden_layers=2), wiring="standard")
    return BenchCase(config, **{"tp": 2, "batch": 1, "prompt": 3, "new_tokens": 4, "wirings": WIRINGS} | changes)


def timed(these):
    return ranks.measure(these, point(), prefills=2, backend="gloo", trace=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return together(2, tmp_path_factory.mktemp("ranks"), timed, timing=True)[0]


@pytest.mark.ranks
def test_rows_are_complete_and_say_where_they_are_from(measured):
    rows, _ = measured
    shared = {(row["backend"], row["origin"], row["link"], row["tp"], row["dtype"]) for row in rows}
    assert shared == {("gloo", "measured", "loopback", 2, "fp32")}
    by_metric = {metric: [row for row in rows if row["metric"] == metric] for metric in {row["metric"] for row in rows}}
    differences = {row["wiring"]: row["value"] for row in by_metric["logits_difference"]}
    assert set(differences) == {"standard", "ladder"}
    assert max(differences.values()) < 1e-4
    assert {row["wiring"]: row["value"] for row in by_metric["all_reduces"]} == dict(
        zip(WIRINGS, (4, 4, 0), strict=True)
    )
    assert {(row["wiring"], row["phase"]) for row in by_metric["seconds"]} == {
        (wiring, phase) for wiring in WIRINGS for phase in ("prefill", "decode")
    }
    assert all(row["low"] <= row["value"] <= row["high"] for row in by_metric["seconds"])


@pytest.mark.ranks
def test_every_rank_is_in_the_timeline(measured):
    _, extra = measured
    assert set(extra["timelines"]) == set(WIRINGS)
    for rank in (0, 1):
        spans = [span for span in extra["timelines"]["ladder"] if span["rank"] == rank]
        compute = [span for span in spans if span["lane"] == "compute"]
        reduces = [span for span in spans if span["lane"] == "communication"]
        assert [(span["name"], span["layer"]) for span in compute] == [
            (name, layer) for layer in (0, 1) for name in ("attention", "mlp")
        ]
        assert all(span["start"] < span["end"] for span in spans)
        # ladder: the all-reduce of a module ends after the next module has begun
        assert len(reduces) == 4
        assert all(a["end"] > b["start"] for a, b in zip(reduces, compute[1:], strict=False))
    assert not [span for span in extra["timelines"]["upper_bound"] if span["lane"] == "communication"]


@pytest.mark.parametrize(
    ("device", "backend", "message"),
    [
        ("cpu", "rccl", "unknown backend 'rccl'; known: gloo, multimem, nccl, one-shot, two-shot"),
        ("cpu", "one-shot", "backend one-shot needs GPUs"),
        ("cuda", "nccl", "torch finds no GPU"),
    ],
)
def test_backends_that_are_not_there(device, backend, message, tmp_path, monkeypatch, capsys):
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    words = f"--size tiny --tp 2 --device {device} --backend {backend} --out {tmp_path}"
    assert main(["bench", *words.split()]) == 1
    assert message in capsys.readouterr().err


def off(these):
    ranks.difference = lambda *_: 1.0
    ranks.measure(these, point(wirings=("standard", "upper_bound")), 1, "gloo")


@pytest.mark.ranks
def test_a_wiring_whose_logits_are_off_is_not_timed(tmp_path):
    assert together(2, tmp_path, off, timing=True) == [1, 1]
    for rank in range(2):
        said = (tmp_path / f"{rank}.err").read_text().splitlines()[-1]
        assert "rank 0 on " in said
        assert "failed: RuntimeError: standard at TP 2: logits are off by 1.00e+00" in said
