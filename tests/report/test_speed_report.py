"""Tables and captions of speed: which rows belong together, and what is said about them."""

import json

import pytest
import toy_records

from ladder import links
from ladder.report import batch_figures, benchmark_tables, finding, frames, setting, shape_tables, speed_tables
from ladder.report.points import every, headline, over_rho, points, sweeps
from ladder.report.style import hardware_words


@pytest.fixture
def read(tmp_path, published):
    """Frames of what has been written to ``tmp_path`` since."""
    return lambda: frames.read([tmp_path], published)


def column(table, name):
    at = next(i for i, c in enumerate(table.columns) if c.name == name)
    return [row[at].text for row in table.rows]


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
    reasons = [cell.reason for cell in setting.own(point, "Computed", "Hardware")]
    assert reasons == ["an old record, which does not say", ""]


def test_curves_are_of_one_setting(full):
    (curve,) = [c for c in over_rho(points(full)) if len(c) > 1]
    assert [p.rho for p in curve] == [0.05, 0.4, 0.8, 1.5]
    assert [p.key["record"] for p in finding.against_links(full)] == [p.key["record"] for p in curve]
    batches = [[p.key["batch"] for p in sweep] for sweep in sweeps(points(full), "batch")]
    assert batches == [[1, 4, 16, 64]] * 2
    assert [[p.key["tp"] for p in sweep] for sweep in sweeps(points(full), "tp")] == [[2, 4, 8]]
    shown = headline(points(full))
    assert {p.key["model"] for p in shown} == {"paper-1b-8l", "paper-1b", "llama-3-70b"}
    assert not any("@" in wiring for p in shown for wiring in p.wirings)


def test_every_row_names_hardware_and_origin(full):
    for make in (*speed_tables.TABLES, *shape_tables.TABLES, benchmark_tables.compiled, benchmark_tables.decode_limit):
        table = make(full)
        origins = set(column(table, "Origin"))
        assert origins <= {"published", "emulated", "measured", "this run"}, table.name
        assert {"H100", "H200", "Toy CPU, 2 cores", ""} >= set(column(table, "Hardware")), table.name
    assert {"H100", "H200", "Toy CPU, 2 cores"} <= set(column(speed_tables.by_model_size(full), "Hardware"))


def test_a_cell_tells_how_it_was_timed(reports):
    out, _ = reports
    page = (out / "tables" / "overlap.html").read_text()
    assert "emulated; emulated; h100-nvlink; bf16; graphs; 1 x NVIDIA H200; 1024 prompt tokens; 512 new tokens" in page
    assert "; n = 59; 95 % interval" in page


@pytest.mark.parametrize(("slow", "words"), [(1.0, "ladder still leads by"), (0.85, "parallel has caught up")])
def test_caption_says_whether_parallel_catches_up(tmp_path, read, slow, words):
    toy_records.kept(tmp_path, parallel=slow)
    caption = batch_figures.by_batch(read()).caption
    published, _, own = caption.partition("Emulated here")
    assert "parallel has caught up" in published
    assert words in own


def test_frontier_has_a_point_for_every_batch(full):
    figure = batch_figures.pareto(full)
    own = figure.data[figure.data["origin"] == "emulated"]
    assert set(own["metric"]) == {"seconds", "tokens_per_second_per_gpu"}
    assert set(own["batch"]) == {1, 4, 16, 64}
    assert own["hardware"].nunique() == 2


@pytest.mark.parametrize(("slower", "words"), [({}, "not slower beyond noise"), ({"ladder": 1.2}, ": slower beyond")])
def test_fast_link(tmp_path, read, slower, words):
    toy_records.speed(tmp_path, slower=slower)
    assert shape_tables.fast_link(read()).caption.count(words) == 2  # eager and compiled


def test_hybrid_has_a_share_of_the_gain(full):
    table = shape_tables.hybrid_speed(full)
    assert column(table, "of the layers, %") == ["50", "50", "50"]
    assert 0 < float(column(table, "share of the gain, %")[-1]) < 100
    assert "50 % of the layers have" in table.caption


def test_larger_ladder_stands_beside_table_5(full):
    table = shape_tables.equal_speed(full)
    assert column(table, "parameters, ratio") == ["1.25", "1.29", *["1.28"] * (len(table.rows) - 2)]
    assert "paper-1b-larger ladder" in column(table, "Larger")
    ratios = [row for cells in table.rows for cell in cells for row in cell.rows if "two records" in str(row["note"])]
    assert ratios
    assert all(row["low"] is None for row in ratios)  # not timed in turn


def test_compiling_is_held_to_its_bar(tmp_path, read):
    toy_records.speed(tmp_path)
    assert "no more than 5 points" in benchmark_tables.compiled(read()).caption
    for path in (tmp_path / "bench").glob("*.json"):
        record = json.loads(path.read_text())
        for row in record["rows"]:
            if row.get("compute") == "compiled" and row["metric"].startswith("hidden") and row["wiring"] == "ladder":
                row["value"] -= 0.2
        path.write_text(json.dumps(record))
    caption = benchmark_tables.compiled(read()).caption
    assert "costs more than 5 points of the share hidden: at most +20.0 (ladder" in caption
    assert "Compiled decode is faster: 1.25×" in caption


def test_decode_at_the_limit_stands_beside_transformers(full):
    table = benchmark_tables.decode_limit(full)
    rows = {(row[0].text, row[1].text): row for row in table.rows}
    ours, theirs = (rows["llama-3.1-8b, TP 1, batch 1", f"bf16, {way}"] for way in ("graphs", "transformers"))
    names = [c.name for c in table.columns]
    faster = ours[names.index("× transformers")]
    assert faster.sort == pytest.approx(theirs[3].sort / ours[3].sort)
    assert theirs[names.index("of the limit, %")].reason
    assert "90 % on H200" in table.caption


@pytest.mark.parametrize(
    ("off", "words"), [(1.04, "within 10 %"), (0.8, "not within 10 % for paper-1b-8l: at worst −20")]
)
def test_emulation_is_held_against_the_network(tmp_path, read, off, words):
    toy_records.network(tmp_path, off)
    table = benchmark_tables.network(read())
    assert words in table.caption  # the serial link, which is further off, is for comparison only
    assert len(table.rows) == 16
    for row in table.rows:
        real, guess, ratio = (cell.sort for cell in row[-3:])
        assert ratio == pytest.approx(guess / real)


def test_links_have_their_sources(tmp_path, read):
    what = {"stage": "bench", "run": "link", "tp": 2, "link": "mine", "backend": "gloo", "origin": "measured"}
    rows = [what | {"metric": "link_alpha", "value": 5e-5, "unit": "s", "note": "largest relative residual 0.1"}]
    rows.append(rows[0] | {"metric": "link_beta", "value": 1e-9, "unit": "s/byte"})
    toy_records.write(tmp_path, "link", rows)
    table = benchmark_tables.presets(read())
    assert column(table, "Link") == [*links.LINKS, "mine"]
    assert column(table, "2 ranks")[-1] == "50.0"
    assert all(row[-1].note for row in table.rows)
    assert table.shown()["Origin"].str.contains("h100-nvlink: ").sum() == 1  # the CSV has them too


def test_kept_records_are_no_part_of_the_run(reports, full):
    out, summary = reports
    kept = [r for r in full.records if r["kept"]]
    kept += [r for study in full.studies.values() for r in study.records]
    assert {r["path"].split("/")[0] for r in kept} == {"measured"}
    assert summary["kept"] == {
        "records": len(kept),
        "hardware": ["1 x NVIDIA H200", "Toy CPU, 2 cores"],
        "commits": sorted({r["provenance"]["commit"] for r in kept}),
    }
    assert summary["warnings"] == []
    assert "kept in the repository" in summary["captions"]["runs"]
    assert "f" * 10 in (out / "tables" / "runs.html").read_text()
