"""Timelines as a trace viewer reads them."""

from itertools import pairwise

import pytest
import torch

from ladder.bench.trace import profiled, write_trace
from ladder.reading import read_json
from ladder.schedule import timeline
from ladder.wiring import table

META = {"hardware": "a CPU", "link": "emulated", "origin": "emulated", "commit": "abc"}


def span(lane, index, start, end):
    """As of a measured timeline."""
    name = f"all-reduce {index}" if lane == "communication" else f"{('attention', 'mlp')[index % 2]} {index // 2}"
    return {"lane": lane, "name": name, "layer": index // 2, "start": start, "end": end}


def test_a_small_trace(tmp_path):
    spans = [
        span("compute", 1, 2e-3, 5e-3),
        span("compute", 0, 0.0, 1.5e-3),
        span("communication", 0, 1.5e-3, 2.0000004e-3),
    ]
    write_trace(tmp_path / "trace.json", {"ladder": spans}, META)
    where = {"pid": 1, "tid": 1}
    assert read_json(tmp_path / "trace.json") == {
        "traceEvents": [
            {"ph": "M", "name": "process_name", **where, "args": {"name": "ladder, rank 0"}},
            {"ph": "M", "name": "thread_name", **where, "args": {"name": "compute"}},
            {"ph": "X", "name": "attention 0", "cat": "compute", **where, "ts": 0, "dur": 1500, "args": {"layer": 0}},
            {"ph": "X", "name": "mlp 0", "cat": "compute", **where, "ts": 2000, "dur": 3000, "args": {"layer": 0}},
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "communication"}},
            {
                "ph": "X",
                "name": "all-reduce 0",
                "cat": "communication",
                "pid": 1,
                "tid": 2,
                "ts": 1500,
                "dur": 500,
                "args": {"layer": 0},
            },
        ],
        "displayTimeUnit": "ms",
        "otherData": META,
    }


def check(path, processes):
    """Integer ids, one name each, times at or after 0, and no overlap on a thread."""
    events = read_json(path)["traceEvents"]
    assert all(type(event[key]) is int for event in events for key in ("pid", "tid"))
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == processes
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert len(threads) >= 2 * len(processes)
    for thread, lane in threads.items():
        times = [(e["ts"], e["dur"]) for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == thread]
        assert all(e["cat"] == lane for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == thread)
        assert all(ts >= 0 and dur >= 0 for ts, dur in times)
        assert all(round((ts + dur) * 1e3) <= round(after * 1e3) for (ts, dur), (after, _) in pairwise(times))
    return events


def test_neighbours_still_touch_after_rounding_and_ranks_are_processes(tmp_path):
    timelines = {}
    for wiring in ("standard", "ladder"):
        spans = timeline(table(wiring, 3), lambda n: 1e-3 / 7, 1e-3 / 3)
        timelines[wiring] = [
            span(s["lane"], s["index"], s["start"], s["end"]) | {"rank": rank} for s in spans for rank in (1, 0)
        ]
    write_trace(tmp_path / "trace.json", timelines, META)
    names = [f"{wiring}, rank {rank}" for wiring in ("standard", "ladder") for rank in (0, 1)]
    events = check(tmp_path / "trace.json", names)
    assert sum(event["ph"] == "X" for event in events) == sum(map(len, timelines.values()))


def test_all_reduces_under_way_at_once_have_threads_of_their_own(tmp_path):
    spans = [span("communication", n, n, n + 2.0) for n in range(4)]
    write_trace(tmp_path / "trace.json", {"ladder": spans}, META)
    threads = [e["tid"] for e in check(tmp_path / "trace.json", ["ladder, rank 0"]) if e["ph"] == "X"]
    assert len(set(threads)) == 2


def test_modules_that_compute_at_once_are_refused_and_nothing_is_written(tmp_path):
    spans = [span("compute", 0, 0.0, 2.0), span("compute", 1, 1.0, 3.0)]
    with pytest.raises(ValueError, match="ladder: two modules compute at once on rank 0"):
        write_trace(tmp_path / "trace.json", {"ladder": spans}, META)
    assert not list(tmp_path.iterdir())


def test_a_profile_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError, match="halfway"), profiled(tmp_path / "broken.json"):
        raise RuntimeError("halfway")
    with profiled(tmp_path / "profile.json"):
        torch.ones(8, 8) @ torch.ones(8, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]
    assert any(event["name"] == "aten::mm" for event in read_json(tmp_path / "profile.json")["traceEvents"])
