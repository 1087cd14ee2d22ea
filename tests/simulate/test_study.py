"""The scale study: who wins, where the winner changes, and what is refused."""

import argparse
import json

import numpy as np
import pytest

from ladder import records
from ladder.cli import main
from ladder.errors import UserError
from ladder.simulate import crossings
from ladder.simulate.calibration import load
from ladder.simulate.model import Scenario, predict
from ladder.simulate.study import add_arguments, asked, study
from ladder.wiring import Wiring

SMALL = ["--models", "llama-3-8b", "llama-3-70b", "--tp", "2", "8", "16", "--batches", "1", "16", "256"]
SMALL += ["--links", "nvlink", "ib-ndr", "ethernet-100g", "--record", "study.json"]


def question(*words: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return asked(parser.parse_args([*SMALL, *words]), load())


@pytest.fixture(scope="module")
def done():
    return study(question(), load())


def fitting(done, **where):
    return [c for c in done["cells"] if c["fits"] and all(c[key] == value for key, value in where.items())]


def test_cells_are_what_the_model_predicts(done):
    cell = fitting(done, model="llama-3-70b", link="nvlink", tp=8, batch=16)[0]
    point = Scenario("llama-3-70b", "ladder", 8, 16, 1024, 512, "h100", "nvlink", "serving")
    found = predict([point, point._replace(wiring="standard")], load(), intervals=True)
    assert cell["speedup"]["ladder"][0] == pytest.approx(found.speedup[0], rel=1e-4)
    assert cell["per_gpu"] == pytest.approx(found.tokens_per_s[1] / 8, rel=1e-4)
    value, low, high = cell["speedup"]["ladder"]
    assert low < value < high


def test_a_cell_that_does_not_fit_has_no_speed(done):
    cells = [cell for cell in done["cells"] if not cell["fits"]]
    assert {(cell["model"], cell["tp"]) for cell in cells} == {("llama-3-70b", 2)}
    assert all(cell.keys().isdisjoint({"per_gpu", "speedup", "leaders"}) for cell in cells)


def test_wirings_of_one_order_stand_for_each_other(done):
    assert done["same"] == {"parallel": ["spd", "desync-2x"]}
    assert done["wirings"] == ["standard", "parallel", "ladder", "ladder-2", "desync-4x", "upper_bound"]
    portable, every = done["contests"].values()
    assert not any(Wiring.parse(w).tied for w in portable)
    assert set(every) - set(portable) == {"desync-4x"}


def test_a_winner_leads_by_more_than_the_interval(done):
    contest = next(iter(done["contests"]))
    for cell in fitting(done):
        _, low, high = cell["parallel_over_ladder"]
        leaders = cell["leaders"][contest]
        if leaders == ["ladder"]:
            assert high < 1
        if leaders == ["parallel"]:
            assert low > 1
        if {"ladder", "parallel"} <= set(leaders):
            assert low <= 1 <= high
        assert not {"ladder", "ladder-2"} <= set(leaders), "a deeper ladder counts where it beats the plain one"


def test_ladder_wins_small_batches_on_nvlink_and_parallel_on_ethernet(done):
    contest = next(iter(done["contests"]))
    assert fitting(done, model="llama-3-70b", link="nvlink", tp=8, batch=1)[0]["leaders"][contest] == ["ladder"]
    for cell in fitting(done, link="ethernet-100g"):
        assert cell["leaders"][contest] == ["parallel"]


def test_nothing_to_gain_has_no_leaders(monkeypatch):
    monkeypatch.setattr(crossings, "WORTH", 100.0)
    found = study(question("--links", "nvlink", "--batches", "1"), load())
    assert all(leaders == [] for cell in fitting(found) for leaders in cell["leaders"].values())


def test_a_model_is_not_split_beyond_its_heads():
    found = study(question("--models", "llama-3-8b", "--tp", "32", "64", "--links", "ib-ndr"), load())
    assert {cell["tp"] for cell in found["cells"]} == {32}


def test_places_say_what_is_assumed():
    found = study(
        question("--links", "nvlink", "nvl72", "roce-400g", "--tp", "8", "16", "32", "--batches", "1"), load()
    )
    assumed = {(place["link"], place["tp"]): place["assumed"] for place in found["places"]}
    assert assumed["nvlink", 8] == assumed["roce-400g", 16] == []
    assert assumed["roce-400g", 32] == ["latency beyond 16 ranks"]
    assert assumed["nvl72", 8] == ["the link's latency", "the h100's efficiencies"]
    assert {place["hardware"] for place in found["places"] if place["link"] == "nvl72"} == {"gb200"}


def test_above_from():
    x = [1, 2, 4, 8]
    assert crossings.above_from(x, [0.5, 0.5, 2, 2]) == pytest.approx(2 * 2**0.5, rel=1e-4)
    assert crossings.above_from(x, [2, 0.5, 2, 4]) == pytest.approx(2 * 2**0.5, rel=1e-4), "the last crossing counts"
    assert crossings.above_from(x, [2, 2, 2, 2]) == 1
    assert crossings.above_from(x, [2, 2, 2, 1]) is None
    assert crossings.above_from(x, [1.5, 2, 2.5, 2.9], level=3) is None


def test_latency_first_helps_ladder_and_then_parallel(done):
    for curve in done["latency"]:
        gains, over = np.array(curve["ladder"])[:, 0], np.array(curve["parallel_over_ladder"])[:, 0]
        peak = gains.argmax()
        assert 0 < peak < len(gains) - 1
        assert gains[-1] < gains[peak]
        assert over[-1] > 1.5
    assert {(curve["model"], curve["tp"], curve["batch"]) for curve in done["latency"]} == {
        (model, 8, batch) for model in ("llama-3-8b", "llama-3-70b") for batch in (1, 16)
    }


def test_one_shot_cases_are_consistent(done):
    for cell in done["one_shot"]:
        ratio = cell["ladder"][0] / cell["standard_one_shot"][0]
        assert cell["ladder_over_one_shot"][0] == pytest.approx(ratio, rel=1e-3)
        assert cell["ladder_one_shot"][0] >= cell["standard_one_shot"][0]
    assert crossings.one_shot(question("--links", "ib-ndr"), load()) == []


def test_cost_is_the_best_of_the_cells(done):
    for line in done["cost"]:
        cells = [c for c in fitting(done, model=line["model"]) if c["link"] in crossings.CLUSTER]
        speeds = [crossings.speed(cell, line["wiring"]) for cell in cells]
        assert line["ms"][0] == pytest.approx(min(ms for ms, _ in speeds), rel=1e-4)
        assert max(line["per_gpu"]) == pytest.approx(max(value for _, value in speeds), rel=1e-4)
        assert line["per_gpu"] == sorted(line["per_gpu"]), "more time never costs throughput"


def test_the_command_writes_a_record(tmp_path):
    path = tmp_path / "study.json"
    assert main(["simulate", "study", *SMALL[:-2], "--links", "nvlink", "--record", str(path)]) == 0
    record = records.read(path)
    assert {row["origin"] for row in record["rows"]} == {"simulated"}
    assert {row["stage"] for row in record["rows"]} == {"simulate"}
    found = {row["metric"] for row in record["rows"]}
    assert {"speedup", "won", "not_decidable", "peak_gain", "latency_parallel_overtakes"} <= found
    assert {"speedup_over_standard_on_nvlink", "tokens_per_second_per_gpu_within_20_ms"} <= found
    wins = [row for row in record["rows"] if row["metric"] in ("won", "not_decidable", "nothing_to_gain")]
    for row in [row for row in wins if row["metric"] == "nothing_to_gain"]:
        same = [other for other in wins if all(other[key] == row[key] for key in ("model", "link", "note"))]
        assert sum(other["value"] for other in same) == row["n"]
    assert json.loads(path.read_text())["study"]["implementation"] == "serving"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--links", "carrier-pigeon"), "unknown link of the study 'carrier-pigeon'; known: ethernet-100g"),
        (("--tp", "3"), "--tp 3 is no degree of these links; they have nvlink: 2, 4, 8"),
        (("--batches", "0"), "batch = 0 must be at least 1"),
        (("--models", "gpt-5"), "unknown size 'gpt-5'"),
        (("--wirings", "standard", "ladder", "upper_bound"), "--wirings lacks parallel"),
        (("--hardware", "abacus"), "unknown hardware 'abacus'"),
        (("--implementation", "slow"), "unknown implementation 'slow'"),
    ],
)
def test_what_cannot_be_asked_is_refused(words, said):
    with pytest.raises(UserError) as error:
        question(*words)
    assert said in str(error.value)
