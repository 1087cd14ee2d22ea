"""`ladder bench link`: the fit on times that are known, and the whole command on two real ranks."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.distributed as dist
from fleet import together

from ladder.bench import link as bench_link
from ladder.bench.link import fit, message_sizes, summary
from ladder.cli import main
from ladder.errors import UserError
from ladder.links import link
from ladder.parallel import group
from ladder.reading import read_json

ALPHA, BETA = 1e-4, 1e-9
SIZES = message_sizes(2**26)
FIRST = group.Group(0, 1, torch.device("cpu"), store=dist.HashStore())


def test_sizes_are_powers_of_four():
    assert SIZES == [2**10, 2**12, 2**14, 2**16, 2**18, 2**20, 2**22, 2**24, 2**26]
    assert message_sizes(5000) == [1024, 4096]


def test_the_fit_finds_what_made_the_times():
    found = fit(SIZES, [ALPHA + BETA * n for n in SIZES])
    assert found["alpha"] == pytest.approx(ALPHA)
    assert found["beta"] == pytest.approx(BETA)
    assert max(found["residual"], found["alpha_stderr"] / ALPHA, found["beta_stderr"] / BETA) < 1e-9


def test_standard_errors_are_as_large_as_the_errors():
    noise = np.random.default_rng(0).normal(1, 0.01, (400, len(SIZES)))
    seconds = np.array([ALPHA + BETA * n for n in SIZES])
    found = [fit(SIZES, list(seconds * row)) for row in noise]
    for key, true in (("alpha", ALPHA), ("beta", BETA)):
        off = np.array([(one[key] - true) / one[f"{key}_stderr"] for one in found])
        assert abs(off.mean()) < 0.2
        # Student's t with seven degrees of freedom has the variance 7 / 5.
        assert off.std() == pytest.approx((7 / 5) ** 0.5, rel=0.2)


def test_one_slow_size_is_told():
    seconds = [ALPHA + BETA * n for n in SIZES]
    seconds[4] *= 1.5
    assert 0.2 < fit(SIZES, seconds)["residual"] < 0.5


def test_times_that_do_not_grow_are_refused():
    with pytest.raises(UserError, match="do not grow with the message"):
        summary([[1e-3 / n, 1e-3 / n] for n in (1, 2, 3)], [1024, 4096, 16384])


def timed(these) -> list[list[float]]:
    return bench_link.measure([1024, 4096], 3, these.device)


@pytest.mark.ranks
def test_two_ranks_agree_on_the_times(tmp_path):
    samples, same = together(2, tmp_path, timed, timing=True)
    assert samples == same
    assert [len(row) for row in samples] == [3, 3]
    assert min(map(min, samples)) > 0


def test_a_link_is_written_from_the_times(tmp_path, monkeypatch, capfd):
    """The first of two ranks, whose clocks say what is known."""
    monkeypatch.setattr(
        bench_link, "measure", lambda sizes, rounds, device: [[ALPHA + BETA * n] * rounds for n in sizes]
    )
    monkeypatch.setattr(group, "join", lambda *_, **__: nullcontext(FIRST))
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    out, record = tmp_path / "office.json", tmp_path / "record.json"
    arguments = ["--tp", "2", "--max-bytes", "16384", "--rounds", "3", "--out", str(out), "--record", str(record)]
    assert main(["bench", "link", *arguments]) == 0
    found = link(out)
    assert (found.name, found.in_flight, found.origin) == ("office", 2, "measured")
    assert found.alpha(2) == pytest.approx(ALPHA)
    assert found.beta(2) == pytest.approx(BETA)
    content = read_json(out)
    assert [point["bytes"] for point in content["points"]] == [1024, 4096, 16384]
    for point in content["points"]:
        assert point["low"] <= point["value"] <= point["high"]
        assert point["fitted"] == pytest.approx(point["value"])
        assert point["n"] == 3
    assert content["provenance"]["versions"]["torch"]
    rows = read_json(record)["rows"]
    assert {row["origin"] for row in rows} == {"measured"}
    assert {(row["link"], row["backend"], row["tp"], row["stage"]) for row in rows} == {("office", "gloo", 2, "bench")}
    assert [row["note"] for row in rows if row["metric"] == "all_reduce_seconds"] == [
        "1024 bytes",
        "4096 bytes",
        "16384 bytes",
    ]
    assert {row["metric"]: row["unit"] for row in rows if "link_" in row["metric"]} == {
        "link_alpha": "s",
        "link_beta": "s/byte",
    }
    assert "office: alpha 100.0 +- 0.0 us" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tp", "1"], "must be at least 2"),
        (["--tp", "2", "--rounds", "1"], "must be at least 2"),
        (["--tp", "2", "--max-bytes", "4096"], "at least 16384"),
        (["--tp", "2", "--name", "h100-nvlink"], "built-in table"),
        (["--tp", "2", "--backend", "nccl"], "--device cuda"),
    ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, capsys, arguments, said):
    out = tmp_path / "office.json"
    assert main(["bench", "link", "--out", str(out), *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_the_file_must_be_json(tmp_path, capsys):
    assert main(["bench", "link", "--tp", "2", "--out", str(tmp_path / "office.yaml")]) == 1
    assert "ends in .json" in capsys.readouterr().err
