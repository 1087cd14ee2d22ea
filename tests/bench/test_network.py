"""The real slow path and what the emulation says of it, at toy size (needs root and TAP devices)."""

import os
import time

import pytest
import torch
import torch.distributed as dist
from fleet import together

from ladder.bench import slowpath
from ladder.bench.statistics import affine
from ladder.cli import main
from ladder.errors import UserError
from ladder.reading import read_json


def allowed() -> bool:
    try:
        slowpath.check_possible()
    except UserError:
        return False
    return True


possible = pytest.mark.skipif(not allowed(), reason="needs network namespaces and TAP devices: run as root")
DELAY = 3e-3
WIRINGS = ("standard", "upper_bound")


def round_trip(these) -> float:
    with slowpath.slow_path(DELAY, these), these.connected("gloo"):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(torch.ones(1))
        return time.perf_counter() - start


@pytest.mark.ranks
@possible
def test_packets_are_delayed_and_nothing_is_left(tmp_path):
    before = os.readlink("/proc/self/ns/net"), os.listdir("/sys/class/net")
    assert min(together(2, tmp_path, round_trip, backend=None, timing=True)) >= DELAY
    assert (os.readlink("/proc/self/ns/net"), os.listdir("/sys/class/net")) == before


@pytest.mark.ranks
@possible
def test_the_command(tmp_path, capfd):
    words = "--size tiny --layers 1 --delay-us 500 --prompt 3 --new-tokens 4 --prefills 2"
    assert main(["bench", "network", *words.split(), "--wirings", *WIRINGS, "--record", str(tmp_path / "r.json")]) == 0
    record = read_json(tmp_path / "r.json")
    rows = record["rows"]
    real, links = "two namespaces, 500 us one way", {row["link"] for row in rows}
    assert links == {real, f"{real}: emulated, 2 in flight", f"{real}: emulated, serial"}
    assert {(row["origin"], row["backend"]) for row in rows if row["link"] == real} == {("measured", "gloo")}
    assert {(row["origin"], row["backend"]) for row in rows if row["link"] != real} == {("emulated", "emulated")}
    assert {row["timed_layers"] for row in rows} == {1}
    ratios = {(r["link"], r["wiring"], r["phase"]) for r in rows if r["metric"] == "emulated_over_real"}
    assert ratios == {(li, w, p) for li in links - {real} for w in WIRINGS for p in ("prefill", "decode")}
    reduces = {row["phase"]: row for row in rows if row["metric"] == "all_reduce_seconds"}
    assert all(row["low"] >= 500e-6 for row in reduces.values())
    assert reduces["prefill"]["note"] == f"{3 * 96 * 4} bytes"
    assert "emulated / real" in capfd.readouterr().err


def test_where_it_is_not_allowed_it_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slowpath, "TUN", str(tmp_path / "tun"))
    assert main(["bench", "network", "--size", "tiny", "--record", str(tmp_path / "r.json")]) == 1
    assert "which is not allowed here: run it as root (in a container: with" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_a_line_through_two_measurements():
    alpha, beta = affine(100, 1100, 1e-3, 2e-3)
    assert (alpha + 100 * beta, alpha + 1100 * beta) == pytest.approx((1e-3, 2e-3))
    assert affine(100, 1100, 2e-3, 1e-3) == (2e-3, 0.0)  # noise, not a negative cost a byte
    assert affine(100, 100, 2e-3, 2e-3) == (2e-3, 0.0)
