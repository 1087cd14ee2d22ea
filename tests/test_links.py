"""The table of links: complete, sourced, ordered as physics has it; files of measured links."""

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from ladder.errors import UserError
from ladder.files import write_json
from ladder.links import ALIASES, LINKS, ORIGINS, Link, link, rows

NAMES = ["h100-nvlink", "h200-nvlink", "a100-nvlink", "pcie4-host-staged", "pcie5-host-staged"]
NAMES += ["ib-ndr-2node", "ib-ndr", "ethernet-100g", "ethernet-10g", "roce-400g"]
NAMES += ["nvlink-one-shot", "nvl72", "mi300x-xgmi", "mi350x-xgmi", "v100-nvlink", "pcie4-p2p", "pcie5-p2p"]
NAMES += ["dgx-spark-roce", "dgx-spark-one-shot", "thunderbolt5"]
ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "reports/published/fig2_70b_throughput.csv"
MEASURED = Link("office", "two machines", {2: 250.5}, 1.1e9, "measured: here", "measured: here", in_flight=2)


def test_the_table_is_complete():
    assert sorted(LINKS) == sorted(NAMES)
    assert all(name == row.name for name, row in LINKS.items())


@pytest.mark.parametrize("row", LINKS.values(), ids=LINKS)
def test_every_number_says_where_it_is_from(row):
    for source in (row.latency_from, row.bandwidth_from):
        origin, _, words = source.partition(": ")
        assert origin in ORIGINS
        assert {"published": "github.com/", "fitted": "reports/published/", "assumed": ""}[origin] in words
    assert set(row.origin.replace("latency ", "").replace("bandwidth ", "").split(", ")) <= set(ORIGINS)
    assert row.latency_from in row.source
    assert row.bandwidth_from in row.source


@pytest.mark.parametrize("row", LINKS.values(), ids=LINKS)
def test_cost_is_positive_and_grows(row):
    ranks = (2, 3, 4, 6, 8, 12, 16, 32, 48, 64)
    for n in ranks:
        costs = [row.seconds(nbytes, n) for nbytes in (0, 1, 1024, 10**6, 10**9)]
        assert costs[0] > 0
        assert costs == sorted(set(costs))
    for nbytes in (0, 16384, 10**8):
        costs = [row.seconds(nbytes, n) for n in ranks]
        assert costs == sorted(costs)
    assert row.seconds(10**6, 1) == 0  # one rank has nothing to send
    assert row.in_flight == 1  # NCCL is serial


def test_faster_links_cost_less():
    near = ("nvlink-one-shot", "h100-nvlink", "pcie5-host-staged", "ethernet-100g", "ethernet-10g")
    far = ("ib-ndr", "ethernet-100g")
    for order, ranks, nbytes in ((near, 8, 16384), (near, 8, 10**8), (far, 16, 16384), (far, 64, 10**8)):
        costs = [LINKS[name].seconds(nbytes, ranks) for name in order]
        assert costs == sorted(costs)


def row_of(latency_us):
    return Link("x", "x", latency_us, 1e9, "assumed: x", "assumed: x")


def test_alpha_is_linear_in_the_logarithm_of_ranks():
    row = row_of({2: 10.0, 8: 30.0})
    assert [row.alpha(n) for n in (2, 4, 8)] == pytest.approx([10e-6, 20e-6, 30e-6])
    assert row.seconds(10**6, 4) == pytest.approx(20e-6 + 1.5 * 1e6 / 1e9)  # 2 (4 - 1) / 4 of the bytes cross the bus


@pytest.mark.parametrize(
    ("latency_us", "expected"),
    [
        ({2: 10.0, 4: 15.0, 8: 30.0}, {16: 45e-6, 64: 75e-6}),  # with the slope of the last two entries
        ({16: 40.0}, {2: 40e-6, 32: 50e-6, 256: 80e-6}),  # one entry: a tree of log2(ranks) equal levels
        ({2: 10.0, 4: 9.0}, {8: 9e-6}),  # as noise may have it: no row falls
        ({4: 20.0, 8: 30.0}, {2: 20e-6}),
    ],
)
def test_alpha_outside_the_table(latency_us, expected):
    found = {n: row_of(latency_us).alpha(n) for n in expected}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("name", "p2p"), [("h100-nvlink", "enabled"), ("pcie5-host-staged", "disabled")])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_fitted_latencies_are_what_the_published_speeds_say(name, p2p, ranks):
    speed = {}
    with FIGURE.open(newline="") as table:
        for r in csv.DictReader(table):
            if (r["tp"], r["batch"]) == (str(ranks), "1"):
                speed[r["architecture"], r["p2p"]] = float(r["value"])
    # Prompt 1024, 512 new tokens, fp16, width 8192, two all-reduces in each of 80 layers; the model without
    # communication is the same with and without peer-to-peer, and large messages go over NVLink in both.
    per_token = 1 / speed["standard", p2p] - 1 / speed["upper_bound", "enabled"]
    alpha, beta, width = LINKS[name].alpha(ranks), LINKS["h100-nvlink"].beta(ranks), 2 * 8192
    expected = 160 * (alpha + width * beta + (alpha + 1024 * width * beta) / 512)
    assert per_token == pytest.approx(expected, rel=0.005)


def test_an_unknown_link_lists_the_known():
    with pytest.raises(UserError) as error:
        link("nvlnk")
    assert all(name in str(error.value) for name in (*NAMES, *ALIASES))
    assert "`ladder bench link`" in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        link("nowhere.json")


def test_short_names():
    assert {name: link(name).name for name in ALIASES} == ALIASES
    assert not set(ALIASES) & set(LINKS)


def test_a_measured_link_comes_back_from_its_file(tmp_path):
    write_json(tmp_path / "office.json", {"schema": 1, "link": asdict(MEASURED)})
    assert link(tmp_path / "office.json") == MEASURED
    assert link(str(tmp_path / "office.json")).seconds(1000, 2) == MEASURED.seconds(1000, 2)
    assert link("a100-nvlink") is LINKS["a100-nvlink"]


@pytest.mark.parametrize(
    "change",
    [
        {"latency_us": {}},
        {"latency_us": {"2": -1.0}},
        {"latency_us": {"two": 1.0}},
        {"latency_us": {"1": 1.0}},
        {"latency_us": [1.0]},
        {"bus_bandwidth": 0},
        {"bus_bandwidth": "fast"},
        {"bus_bandwidth": math.inf},
        {"in_flight": 0},
        {"in_flight": 1.5},
        {"latency_from": "hearsay: someone"},
        {"colour": "blue"},
    ],
    ids=str,
)
def test_a_corrupted_file_is_one_sentence(tmp_path, change):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({"link": asdict(MEASURED) | change}))
    with pytest.raises(UserError) as error:
        link(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"link": 3}', '{"link": {"name": "x"}}'])
def test_a_file_of_something_else_is_one_sentence(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"other\.json: "):
        link(path)


def test_rows_are_plain_values():
    table = json.loads(json.dumps(rows()))
    assert [row["name"] for row in table] == list(LINKS)
    assert table[0]["latency_us"]["8"] == LINKS["h100-nvlink"].latency_us[8]
    assert set(table[0]) == {"name", "words", "latency_us", "bus_bandwidth", "in_flight", "source", "origin"}
