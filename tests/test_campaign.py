"""A campaign: what runs within the time, what goes on when it is called again, which bars are met, what is refused."""

import csv
from pathlib import Path

import pytest

from ladder import campaign, cli

BENCH = "bench --size tiny --tp 1 --emulate --prompt 4 --new-tokens 2 --prefills 1 --wirings standard upper_bound"
H100 = Path(__file__).parents[1] / "config" / "campaigns" / "h100.yaml"


def write(path: Path, *entries: str, more: str = "") -> Path:
    path.write_text("entries:\n" + "".join(f"  - {entry}\n" for entry in entries) + more)
    return path


def entry(name: str, command: str, bars: str = "[]", minutes: float = 1) -> str:
    return f"{{name: {name}, minutes: {minutes}, commands: ['{command}'], bars: {bars}}}"


def run(*words) -> int:
    return cli.main(["campaign", *map(str, words)])


def rows(out: Path) -> list[dict]:
    return list(csv.DictReader((out / "campaign.csv").open()))


@pytest.mark.slow
def test_the_owed_gpu_measurements_run_when_pretended(tmp_path):
    chosen = ["decode-8b", "train-1b", "pretrain-data", "pretrain-ladder"]
    assert not run(H100, "--out", tmp_path / "out", "--work", tmp_path / "work", "--pretend", "--only", *chosen)
    assert {row["entry"]: row["status"] for row in rows(tmp_path / "out")} == dict.fromkeys(chosen, "done")


def test_entries_are_short_and_their_bars_can_be_met():
    entries = campaign.read(H100, {})
    assert all(entry.minutes <= campaign.LONGEST for entry in entries)
    for bar in (bar for entry in entries for bar in entry.bars):
        target = next(value for value in (bar.near, bar.least, bar.most) if value is not None)
        verdict = bar.verdict([{"metric": bar.metric, "value": target, **bar.where}])
        assert verdict["verdict"].startswith("met")


def test_bars_are_judged_and_what_is_done_is_not_run_again(tmp_path, capsys):
    bars = "[{metric: all_reduces, where: {wiring: standard}, most: -1}, {metric: copy_bandwidth, least: 1}]"
    file = write(
        tmp_path / "c.yaml", entry("one", f"{BENCH} --out {{out}}/one", bars), entry("two", "init --config no")
    )
    assert not run(file, "--out", tmp_path / "out")
    one, other, two = rows(tmp_path / "out")
    assert one["verdict"].startswith("missed by")
    assert other["verdict"].startswith("met by")
    assert two["status"].startswith("failed")
    assert "no" in two["status"]
    assert not run(file, "--out", tmp_path / "out")
    assert "one: done before" in capsys.readouterr().err
    assert len(rows(tmp_path / "out")) == 3


def test_what_does_not_fit_into_the_time_is_left_and_what_lacks_a_setting_says_so(tmp_path):
    file = write(tmp_path / "c.yaml", entry("long", "init", minutes=9), entry("needs", "init --config {model}"))
    assert not run(file, "--out", tmp_path / "out", "--minutes", 2)
    assert [row["status"].split(":")[0] for row in rows(tmp_path / "out")] == ["left", "needs --set model=..."]


def test_the_end_of_the_time_stops_what_runs(tmp_path):
    file = write(tmp_path / "c.yaml", entry("waits", f"{BENCH} --out {{out}}/waits", minutes=0))
    assert not run(file, "--out", tmp_path / "out", "--minutes", 0.001)
    assert rows(tmp_path / "out")[0]["status"].startswith("stopped")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (entry("a b", "init"), ["a b", "letters"]),
        (entry("a", "init", minutes=10), ["minutes", "10", "9"]),
        (entry("a", "init", bars="[{metric: x}]"), ["bars[0]", "least"]),
        (entry("a", "init", bars="[{metric: x, least: 1, most: 2}]"), ["least, most"]),
        (entry("a", "init", bars="[{metric: x, leest: 1}]"), ["leest"]),
        ("{name: a, minutes: 1}", ["commands"]),
        ("{name: a, minutes: 1, commands: [1]}", ["commands", "1"]),
        ("word", ["entries[0]"]),
    ],
)
def test_what_is_wrong_in_the_file_is_one_sentence(tmp_path, capsys, line, words):
    assert run(write(tmp_path / "c.yaml", line), "--plan") == 1
    error = capsys.readouterr().err
    assert "c.yaml" in error
    assert all(word in error for word in words)
    assert error.count("\n") == 1
