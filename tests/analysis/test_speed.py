"""Speed and the benchmark itself: which rows belong together, and what is derived from them."""

import pytest
import toy_records

from ladder import links
from ladder.analysis import benchmark, frames, speed
from ladder.analysis.points import every, headline, over_rho, points, sweeps
from ladder.looks import hardware_words


@pytest.fixture
def read(tmp_path, published):
    """Frames of what has been written to ``tmp_path`` since."""
    return lambda: frames.read([tmp_path], published)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("8 x NVIDIA H100 80GB HBM3", "8 × H100"),
        ("1 x NVIDIA A100-SXM4-80GB", "A100"),
        ("Intel(R) Xeon(R) Gold 6430 CPU @ 2.10GHz, 2 cores", "Xeon Gold 6430, 2 cores"),
        ("AMD EPYC, 2 cores", "EPYC, 2 cores"),
        (None, "not recorded"),
    ],
)
def test_hardware_in_short_words(name, words):
    assert hardware_words(name) == words


def test_rows_of_two_records_never_make_one_point(full):
    for point in every(full):
        assert point.rows["record"].nunique() == 1
        assert set(point.shared["record"]) <= set(point.rows["record"])


def test_library_and_network_are_no_points_of_ours(full):
    found = every(full)
    assert not any(p.key["compute"] == "transformers" for p in found)
    assert not any("namespaces" in p.link for p in found)
    assert [p.key["model"] for p in every(full, library=True)] == ["llama-3.1-8b"]


@pytest.mark.parametrize(("compiled", "way"), [(0.8, "compiled"), (1.3, "eager")])
def test_the_faster_way_of_computing_is_shown(tmp_path, read, monkeypatch, compiled, way):
    monkeypatch.setitem(toy_records.FAST, "compiled", compiled)
    toy_records.speed(tmp_path)
    assert {p.key["compute"] for p in points(read())} == {way}
    assert len(every(read())) == 2 * len(points(read())) == 8


def test_a_point_measured_twice_counts_once_the_later(tmp_path, read):
    for name, started, slower in (("b", "2026-02-01T00:00:00Z", 2.0), ("c", "2026-01-01T00:00:00Z", 1.0)):
        rows = toy_records.timed(toy_records.rank(name), toy_records.ALL, [1e-3] * 16, 1e-3, {"ladder": slower}, "x")
        toy_records.write(tmp_path, name, rows, provenance={"started": started})
    assert [p.key["record"] for p in every(read())] == ["b.json"]


def test_old_rows_without_the_new_columns_are_shown(tmp_path, read):
    toy_records.ranks(tmp_path)
    (point,) = points(read())
    assert point.how == ""
    assert point.throughput_gain("ladder")["value"] == pytest.approx(11 / 9)


def test_curves_are_of_one_setting(full):
    (curve,) = [c for c in over_rho(points(full)) if len(c) > 1]
    assert [p.rho for p in curve] == [0.05, 0.4, 0.8, 1.5]
    assert [p.key["record"] for p in speed.against_links(full)] == [p.key["record"] for p in curve]
    batches = [[p.key["batch"] for p in sweep] for sweep in sweeps(points(full), "batch")]
    assert batches == [[1, 4, 16, 64]] * 2
    assert [[p.key["tp"] for p in sweep] for sweep in sweeps(points(full), "tp")] == [[2, 4, 8]]
    shown = headline(points(full))
    assert {p.key["model"] for p in shown} == {"paper-1b-8l", "paper-1b", "llama-3-70b"}
    assert not any("@" in wiring for p in shown for wiring in p.wirings)


def test_every_row_names_hardware_and_origin(tables):
    for name in ("speed", "compiled", "decode_limit"):
        assert set(tables[name]["origin"]) <= {"published", "emulated", "measured"}, name
        assert set(tables[name]["hardware"]) <= {"H100", "H200", "Toy CPU, 2 cores"}, name
    assert {"H100", "H200", "Toy CPU, 2 cores"} == set(tables["speed"]["hardware"])


def test_published_speedups_are_ratios_of_the_published_speeds(tables):
    rows = tables["speed"].query('file == "fig2_70b_throughput" and tp == 8 and batch == 1 and p2p == "enabled"')
    speeds = rows.set_index("wiring")
    ratio = speeds["tokens_per_second"]["ladder"] / speeds["tokens_per_second"]["standard"]
    assert speeds["speedup"]["ladder"] == ratio
    assert not tables["speed"].query('model in ("34B", "176B")')["trusted"].any()


def test_time_saved_follows_from_the_speedup_and_its_interval(tables):
    row = tables["speed"].query('wiring == "ladder" and decode_speedup.notna()').iloc[0]
    for end in ("", "_low", "_high"):
        assert row[f"decode_saved{end}"] == pytest.approx(100 * (1 - 1 / row[f"decode_speedup{end}"]))


@pytest.mark.parametrize(("slower", "seen"), [({}, False), ({"ladder": 1.2}, True)])
def test_a_fast_link_shows_whether_ladder_costs(tmp_path, read, slower, seen):
    toy_records.speed(tmp_path, slower=slower)
    rows = speed.speed(read()).query('wiring == "ladder" and view.str.contains("fast", na=False)')
    assert rows["slower"].tolist() == [seen, seen]  # eager and compiled


def test_a_share_hidden_that_was_not_told_is_empty(full, tables):
    rows = tables["speed"].query('rho == 0.05 and wiring == "ladder"')
    assert rows["decode_hidden_wall"].isna().all()
    assert "wall" not in set(tables["over_rho"].query("rho == 0.05").dropna(subset=["hidden"])["clock"])


def test_hybrid_has_a_share_of_the_gain(tables):
    rows = tables["speed"].dropna(subset=["share_of_gain"])
    assert rows["layers_share"].tolist() == [0.5]
    assert rows["share_of_gain"].between(0, 1).all()


def test_compiling_is_held_against_eager(tmp_path, read):
    toy_records.speed(tmp_path)
    rows = benchmark.compiled(read())
    assert set(rows.dropna(subset=["hidden_lost"])["wiring"]) == {"parallel", "ladder"}
    assert (rows["hidden_lost"].dropna() == rows["hidden_eager"].dropna() - rows["hidden_compiled"].dropna()).all()
    assert set(rows["decode_compile_speedup"]) == {1.25}


def test_decode_at_the_limit_stands_beside_transformers(tables):
    rows = tables["decode_limit"].query('model == "llama-3.1-8b"').set_index("compute")
    ours, theirs = rows.loc["graphs"], rows.loc["transformers"]
    assert ours["over_transformers"] == pytest.approx(theirs["decode_s"] / ours["decode_s"])
    assert ours["roofline_fraction"] == pytest.approx(0.9)


def test_emulation_is_held_against_the_network(tmp_path, read):
    toy_records.network(tmp_path, 0.8)
    rows = benchmark.network(read())
    assert len(rows) == 16
    assert rows["emulated_over_real"].tolist() == pytest.approx((rows["emulated_s"] / rows["real_s"]).tolist())
    counted = rows[rows["counted"]]
    assert set(counted["wiring"]) == {"standard", "ladder"}
    assert not counted["emulated_as"].str.contains("serial").any()  # that is for comparison only
    assert counted["emulated_speedup"].tolist() == pytest.approx(counted["real_speedup"].tolist())


def test_links_have_their_sources(tmp_path, read):
    what = {"stage": "bench", "run": "link", "tp": 2, "link": "mine", "backend": "gloo", "origin": "measured"}
    rows = [what | {"metric": "link_alpha", "value": 5e-5, "unit": "s", "note": "largest relative residual 0.1"}]
    rows.append(rows[0] | {"metric": "link_beta", "value": 1e-9, "unit": "s/byte"})
    toy_records.write(tmp_path, "link", rows)
    made = benchmark.presets(read())
    assert list(dict.fromkeys(made["link"])) == [*links.LINKS, "mine"]
    assert made.iloc[-1]["latency_us"] == pytest.approx(50)
    assert made["source"].notna().all()
