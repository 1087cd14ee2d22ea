"""What any calibration must obey, whatever its numbers: no GPU is needed to know it."""

import csv
import json

import numpy as np
import pytest

from ladder.bench.memory import need
from ladder.cost import RESERVED, part
from ladder.errors import UserError
from ladder.model.modeling import LadderConfig
from ladder.model.sizes import SIZES, size
from ladder.simulate.calibration import find_link, load, protocols
from ladder.simulate.implementation import IMPLEMENTATIONS
from ladder.simulate.model import Scenario, interval, predict
from ladder.simulate.run import ADDED, COLUMNS, grid

CALIBRATION = load()
BASE = Scenario("llama-3-70b", "standard", 8, 1, 1024, 512, "h100", "nvlink")
SEQUENTIAL = ["standard", "ladder", "ladder-2", "ladder-5", "ladder@16-31", "parallel", "spd", "desync-2x", "dtp-1"]
WIRINGS = [*SEQUENTIAL, "parallel-2norm", "partial", "desync-nx", "fal", "fal+", "upper_bound"]
LINKS = [*CALIBRATION.links, "pcie", "ethernet", "nvlink-one-shot", "5us+100GB/s", "200us+1GB/sx2"]


def tokens(points, **how):
    return predict(points, CALIBRATION, **how).tokens_per_s


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_ladder_lies_between_standard_and_no_communication(link, batch):
    points = [BASE._replace(wiring=w, link=link, batch=batch) for w in ("standard", "ladder", "upper_bound")]
    standard, ladder, silent = tokens(points, interference=False)
    assert standard <= ladder * (1 + 1e-9) <= silent * (1 + 2e-9)
    assert ladder <= 2 * standard


def test_one_rank_has_nothing_to_hide():
    points = [BASE._replace(model="llama-3-8b", tp=1, wiring=w) for w in WIRINGS]
    done = predict(points, CALIBRATION)
    assert done.tokens_per_s == pytest.approx(np.full(len(points), done.tokens_per_s[0]))
    assert np.isnan(done.hidden).all()
    assert done.exposed == pytest.approx(0)


def test_a_link_that_costs_nothing_makes_wirings_equal():
    points = [BASE._replace(wiring=w, link="0us+1e9GB/s") for w in WIRINGS]
    assert tokens(points) == pytest.approx(np.full(len(points), tokens(points[:1])[0]), rel=1e-4)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_latency_and_fewer_bytes_a_second_never_help(wiring):
    by_latency = tokens([BASE._replace(wiring=wiring, link=f"{us}us+300GB/s") for us in (0, 1, 5, 20, 80, 1000)])
    by_bandwidth = tokens([BASE._replace(wiring=wiring, link=f"20us+{gb}GB/s") for gb in (900, 300, 30, 3)])
    for found in (by_latency, by_bandwidth):
        assert (np.diff(found) <= 1e-9).all()


def test_every_table_can_be_combined():
    names = [(m, w, d) for m in SIZES for w in ("standard", "ladder") for d in ("h100", "l40s", "mi300x")]
    points = [BASE._replace(model=m, wiring=w, hardware=d, tp=2) for m, w, d in names]
    points += [BASE._replace(link=link, implementation=how) for link in LINKS for how in IMPLEMENTATIONS]
    done = predict(points, CALIBRATION, intervals=True)
    assert np.isfinite(done.tokens_per_s).all()
    assert (done.tokens_per_s > 0).all()
    for what in ("tokens_per_s", "speedup", "prefill_s"):
        low, high = interval(done, what, CALIBRATION)
        assert (low <= high).all()


def test_points_are_predicted_one_by_one_as_together():
    points = [BASE._replace(wiring=w, batch=b, tp=t) for w in WIRINGS[:4] for b in (1, 64) for t in (2, 8)]
    together = predict(points, CALIBRATION, intervals=True)
    for n in (0, 5, 11):
        alone = predict(points[n : n + 1], CALIBRATION, intervals=True)
        assert alone.tokens_per_s[0] == pytest.approx(together.tokens_per_s[n])
        assert interval(alone, "speedup", CALIBRATION)[0] == pytest.approx(
            interval(together, "speedup", CALIBRATION)[0][n]
        )


def test_intervals_are_wider_where_more_is_assumed():
    points = [BASE._replace(wiring="ladder"), BASE._replace(wiring="ladder", hardware="mi300x", link="mi300x-xgmi")]
    low, high = interval(predict(points, CALIBRATION, intervals=True), "tokens_per_s", CALIBRATION)
    near, far = np.log(high / low)
    assert far > 1.5 * near


@pytest.mark.parametrize(("model", "tp"), [("llama-3.2-1b", 2), ("paper-1b", 4), ("llama-3-8b", 8)])
def test_weights_and_cache_are_those_that_the_benchmark_counts(model, tp):
    exact = need(LadderConfig(**size(model).config()), tp, 4, 100, 2)
    point = BASE._replace(model=model, tp=tp, batch=4, prompt=1, new_tokens=99, implementation="ladder")
    counted = predict([point], CALIBRATION).memory[0] - RESERVED
    assert counted == pytest.approx(exact.weights + exact.kv, rel=0.01)


def test_heads_that_do_not_divide_count_for_the_fullest_rank():
    mine = part(size("paper-3b"), np.array(8))
    assert mine.queries == 5 * 64
    assert mine.keys == 5 * 64


def test_latency_between_and_beyond_the_fitted_degrees():
    prm = CALIBRATION.parameters
    us = [protocols("nvlink", n, prm)[0][0] * 1e6 for n in (2, 3, 4, 8, 16, 32)]
    assert us == sorted(us)
    assert us[4] - us[3] == pytest.approx(us[3] - us[2])
    assert protocols("ib-ndr-2node", 8, prm)[0][0] == protocols("ib-ndr-2node", 16, prm)[0][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tp": 0}, "tp = 0 must be at least 1"),
        ({"batch": -1}, "batch = -1"),
        ({"new_tokens": 1}, "new_tokens = 1 must be at least 2"),
        ({"model": "gpt-5"}, "unknown size 'gpt-5'; known: .*llama-3-70b"),
        ({"wiring": "ladders"}, "unknown wiring 'ladders'; known: .*desync"),
        ({"hardware": "h300"}, "unknown hardware 'h300'; known: .*h100"),
        ({"link": "nvlonk"}, "unknown link 'nvlonk'; known: .*nvlink-p2p-off"),
        ({"link": "-3us+10GB/s"}, "latency -3 us must be 0 to"),
        ({"link": "3us+-10GB/s"}, "link '3us"),
        ({"wiring": "ladder@70-90"}, "outside the model"),
    ],
)
def test_a_wrong_point_is_named_with_its_line(tmp_path, change, words):
    path, out = tmp_path / "points.csv", tmp_path / "out.csv"
    write(path, [BASE, BASE._replace(**change)])
    with pytest.raises(UserError, match=words) as error:
        grid(path, out, CALIBRATION)
    assert "points.csv:3" in str(error.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'model'"),
        ("model,wiring\na,b\n", "no column 'tp'"),
        (",".join(COLUMNS) + "\n", "no points"),
        (",".join(COLUMNS) + "\nllama-3-8b,ladder,x,1,1,2,h100,nvlink\n", "csv:2: tp = 'x' must be a whole number"),
        (",".join(COLUMNS) + "\nllama-3-8b,ladder,2.5,1,1,2,h100,nvlink\n", "tp = '2.5' must be a whole number"),
    ],
)
def test_a_broken_csv_is_named(tmp_path, text, words):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        grid(path, tmp_path / "out.csv", CALIBRATION)


def write(path, points):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "mine"])
        writer.writerows([getattr(point, name) for name in COLUMNS] + ["kept"] for point in points)


def test_a_grid_keeps_its_columns_and_gives_no_speed_to_what_does_not_fit(tmp_path):
    path, out = tmp_path / "points.csv", tmp_path / "out.csv"
    write(path, [BASE._replace(wiring="ladder"), BASE._replace(tp=1)])
    said = grid(path, out, CALIBRATION, intervals=True)
    assert "1 of them fit" in said
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:9] == [*COLUMNS, "mine"]
    assert list(rows[0])[9 : 9 + len(ADDED)] == list(ADDED)
    fits, large = rows
    assert (fits["fits"], fits["origin"], fits["mine"]) == ("true", "simulated", "kept")
    assert float(fits["tokens_per_s_low"]) < float(fits["tokens_per_s"]) < float(fits["tokens_per_s_high"])
    assert float(fits["tokens_per_s"]) == pytest.approx(
        512 / (float(fits["prefill_s"]) + float(fits["decode_s"])), 1e-4
    )
    assert (large["fits"], large["tokens_per_s"], large["prefill_s"], large["hidden_share"]) == ("false", "", "", "")
    assert float(large["memory_gib"]) > 100


def test_a_file_that_is_no_calibration_is_refused(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"name": "x"}))
    with pytest.raises(UserError, match="not a calibration"):
        load(path)


def test_a_model_of_ones_own(tmp_path):
    """A config.json of the same shape is the same model; what cannot be counted is refused by name."""
    path = tmp_path / "config.json"
    config = size("llama-3-70b").config()
    path.write_text(json.dumps(config))
    assert tokens([BASE._replace(model=str(path))]) == pytest.approx(tokens([BASE]))
    for change, words in (
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_local_experts": 8}, "num_experts_per_tok"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4}"),
    ):
        other = tmp_path / f"{len(words)}.json"
        other.write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=words):
            tokens([BASE._replace(model=str(other))])


def test_typed_links():
    link = find_link("24us+370GB/sx2", CALIBRATION)
    assert (link.alpha(8), link.in_flight) == (24e-6, 2)
    assert link.beta(8) == pytest.approx(1.75 / 370e9)
