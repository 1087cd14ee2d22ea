"""The table of accelerators: complete, plausible, sourced; files that describe one."""

import json
import math
import re
from dataclasses import asdict

import pytest

from ladder.devices import DEVICES, REPORTED, Device, device, reported
from ladder.errors import UserError
from ladder.files import write_json

MINE = Device("mine", "a prototype", 96e9, 4e12, 5e14, "its maker", power_w=500)


def test_what_the_simulator_must_know_is_there():
    assert {"h100", "h200", "a100-80g", "mi300x", "l40s"} <= set(DEVICES)
    assert all(name == row.name for name, row in DEVICES.items())
    assert device("h100") is DEVICES["h100"]


@pytest.mark.parametrize("row", DEVICES.values(), ids=DEVICES)
def test_numbers_are_plausible_and_sourced(row):
    assert "data sheet" in row.source or "white paper" in row.source
    assert "memory: " in row.source
    sold = int(re.search(r"(\d+) GB", row.words)[1]) * 2**30  # all data sheets mean GiB
    apple, shared = row.words.startswith("Apple"), "shared" in row.words
    assert (0.7 if shared else 0.9) * sold < row.memory_bytes <= sold
    assert (
        (20 if apple else 100) < row.flops / row.bandwidth < 500
    )  # FLOP a byte; with sparsity or fp8 it would be twice as much
    assert 50 < row.power_w < 1500


def test_h100():
    assert (DEVICES["h100"].bandwidth, DEVICES["h100"].flops) == (3.35e12, 989.4e12)
    assert 85.0e9 < DEVICES["h100"].memory_bytes < 85.5e9


def test_an_unknown_device_lists_the_known():
    with pytest.raises(UserError, match="unknown hardware 'h101'") as error:
        device("h101")
    assert all(name in str(error.value) for name in DEVICES)
    with pytest.raises(UserError, match="no such file"):
        device("nowhere.json")


def test_a_device_comes_back_from_its_file(tmp_path):
    write_json(tmp_path / "mine.json", {"device": asdict(MINE)})
    assert device(tmp_path / "mine.json") == device(str(tmp_path / "mine.json")) == MINE
    fields = asdict(MINE)
    del fields["power_w"]
    write_json(tmp_path / "less.json", {"device": fields})
    assert device(tmp_path / "less.json").power_w is None


@pytest.mark.parametrize(
    "change",
    [
        {"memory_bytes": 0},
        {"bandwidth": -1.0},
        {"flops": math.inf},
        {"flops": "fast"},
        {"power_w": 0},
        {"source": ""},
        {"colour": "blue"},
    ],
    ids=str,
)
def test_a_corrupted_file_is_one_sentence(tmp_path, change):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({"device": asdict(MINE) | change}))
    with pytest.raises(UserError) as error:
        device(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"device": 3}', '{"device": {"name": "x"}}'])
def test_a_file_of_something_else_is_one_sentence(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"other\.json: "):
        device(path)


def test_what_torch_reports_is_a_row():
    assert set(REPORTED.values()) == {name for name, row in DEVICES.items() if "Apple" not in row.words}
    assert reported("NVIDIA GB200") is DEVICES["gb200"]
    assert reported("NVIDIA H200 NVL") is None
