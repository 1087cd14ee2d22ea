"""A report is complete, the same in every run, and its manifest is true."""

import argparse
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pandas as pd
import pytest
import toy_records

from ladder.errors import UserError
from ladder.files import sha256
from ladder.report import (
    adaptation_tables,
    batch_figures,
    benchmark_tables,
    curve_figures,
    equal_time,
    frames,
    noise_tables,
    quality_figures,
    quality_tables,
    recovery,
    run_tables,
    sensitivity,
    shape_tables,
    speed_figures,
    speed_tables,
    studies,
    wiring_tables,
)
from ladder.report.build import add_arguments, main

WITH_TABLES = (speed_tables, shape_tables, benchmark_tables, quality_tables, adaptation_tables, sensitivity)
WITH_TABLES += (wiring_tables, run_tables, recovery, noise_tables, studies, equal_time)
WITH_FIGURES = (
    speed_figures,
    batch_figures,
    quality_figures,
    noise_tables,
    studies,
    equal_time,
    curve_figures,
    recovery,
    sensitivity,
)
TABLES = [t for m in WITH_TABLES for t in m.TABLES]
FIGURES = [f for m in WITH_FIGURES for f in m.FIGURES]
ORIGINS = {"published", "measured", "emulated", "simulated"}


@pytest.mark.parametrize("make", TABLES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["full", "bare"])
def test_every_table_renders_with_and_without_own_numbers(make, kind, request):
    table = make(request.getfixturevalue(kind))
    assert table.caption
    assert all(len(row) == len(table.columns) for row in table.rows)
    for cell in (cell for row in table.rows for cell in row):
        assert cell.text or cell.reason, f"{table.name}: an empty cell without a reason"
        assert "nan" not in cell.text.split()
    tidy = table.tidy()
    if "value" in tidy:
        assert set(tidy.loc[tidy["value"].notna(), "origin"]) <= ORIGINS


@pytest.mark.parametrize("make", FIGURES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["full", "bare"])
def test_every_figure_has_words_with_and_without_own_numbers(make, kind, request):
    figure = make(request.getfixturevalue(kind))
    assert figure.caption
    for panel in figure.panels:
        assert "nan" not in panel.alt.split()
        assert len(panel.alt) > 20


@pytest.mark.slow
def test_the_command_imports_no_torch_and_two_runs_give_the_same_bytes(reports, records, published, measured, tmp_path):
    out, _ = reports
    command = ["report", "--records", str(records), "--published", str(published), "--out", str(tmp_path)]
    command += ["--measured", str(measured), "--config-json", '{"name": "default"}']
    code = f"import sys; sys.argv = ['ladder']; from ladder.cli import main; assert main({command}) == 0; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    files = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    (tmp_path / ".ladder").unlink()  # the command's mark; `reports` is made without it
    assert files == [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert [f for f in files if (out / f).read_bytes() != (tmp_path / f).read_bytes()] == []


def test_manifest_lists_every_file_with_its_digest(reports, published):
    out, _ = reports
    manifest = json.loads((out / "all").read_text())
    made = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} - {"all"}
    own = {name for name in manifest["files"] if not name.startswith("published/")}
    assert own == made
    assert all(sha256(out / name) == manifest["files"][name] for name in own)
    assert manifest["files"]["published/headline_claims.csv"] == sha256(published / "headline_claims.csv")
    assert manifest["profiles"] == ["default"]
    assert manifest["commits"] == [toy_records.PROVENANCE["commit"]]
    assert manifest["hardware"] == ["Toy CPU, 2 cores"]
    assert manifest["warnings"] == []


def test_mixed_commits_and_configurations_are_warnings(full):
    records = [dict(r, provenance=dict(r["provenance"], commit=c)) for r, c in zip(full.records, "ab", strict=False)]
    records[0]["provenance"]["dirty"] = True
    records[1]["provenance"]["config_digest"] = "other"
    warnings = run_tables.provenance(replace(full, records=records), None)["warnings"]
    assert len(warnings) == 3
    assert "2 commits (a and b)" in warnings[0]


def test_no_records_are_a_warning(bare):
    assert "only published numbers and kept" in run_tables.provenance(bare, "x")["warnings"][0]


def test_drawings_follow_the_page_and_can_be_read_aloud(reports):
    out, _ = reports
    for path in sorted((out / "figures").glob("*.svg")):
        root = ElementTree.parse(path).getroot()
        text = path.read_text()
        assert root.get("role") == "img", path
        names = root.get("aria-labelledby").split()
        named = {e.get("id"): e.text for e in root if e.get("id") in names}
        assert len(named) == 2, path
        assert all(named.values()), path
        assert "currentColor" in text, path
        assert "<style" not in text, path
        assert "#010203" not in text, path
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(ids) == len(set(ids)), path
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
        assert used <= set(ids), path


def test_ids_of_figures_differ_so_that_they_can_share_a_page(reports):
    out, _ = reports
    ids = [i for p in (out / "figures").glob("*.svg") for i in re.findall(r'\bid="([^"]+)"', p.read_text())]
    assert len(ids) == len(set(ids))


def test_csv_of_a_table_holds_provenance_and_seeds(reports):
    out, _ = reports
    rows = pd.read_csv(out / "tables" / "pretraining.csv")
    own = rows[rows["origin"] == "measured"]
    assert {"hardware", "commit", "mlflow_run_id", "low", "high", "n", "seed"} <= set(rows.columns)
    assert set(own["seed"].dropna()) == {0, 1}
    assert own["note"].str.contains("mean of 2 seeds").any()
    assert own["note"].str.contains("paired with standard").any()


def test_labels_name_the_ranks_that_a_checkpoint_is_for(reports):
    out, _ = reports
    for page in ("tables/pretraining", "figures/pretraining", "tables/sensitivity", "figures/loss_curves"):
        text = (out / f"{page}.html").read_text()
        assert "spd (T = 2)" in text or "desync-2x (T = 2)" in text, page
        assert "ladder (T" not in text, page
    assert "spd (T = 2) in 50 % of layers (5-9)" in (out / "tables" / "adaptation.html").read_text()


def test_a_run_of_another_length_is_shown_and_not_compared(tmp_path, published):
    """Its number of steps stands in the table, its differences to standard nowhere."""
    for wiring, loss in (("standard", 5.4), ("ladder", 5.5), ("fal", 5.6)):
        toy_records.training(tmp_path, "pretrain", "tiny", wiring, 0, loss, steps=60 if wiring == "fal" else 120)
        toy_records.evaluation(tmp_path, "tiny", wiring, "pretrained", 0, loss, 0.3)
    data = frames.read([tmp_path], published)
    table = quality_tables.pretraining(data)
    names = [column.name for column in table.columns]
    rows = {row[0].text: dict(zip(names, row, strict=True)) for row in table.rows}
    assert {name: rows[name]["steps"].text for name in rows} == {
        "standard": "120", "ladder": "120", "fal": "60", "parallel": ""
    }  # fmt: skip
    assert "another number of steps" in rows["fal"]["perplexity − standard"].reason
    assert rows["ladder"]["perplexity − standard"].text.startswith("+0.1")
    assert "fal" not in table.caption
    for make in (quality_figures.pretraining, curve_figures.loss_curves):
        assert "fal: trained for another number of steps." in make(data).caption
    assert set(quality_figures.own_changes(data)["wiring"]) == {"standard", "ladder"}


def test_published_rows_stand_beside_ladders_only(full):
    """The paper's hybrid is a ladder; another wiring in as many layers has no row there."""
    table = adaptation_tables.adaptation(full)
    average = {row[0].text: row[2].text for row in table.rows if row[1].text == "adapted"}
    assert average["ladder in 50 % of layers (5-9)"] == "56.24"
    assert average["spd (T = 2) in 50 % of layers (5-9)"] == ""


def test_empty_cells_say_why_and_are_never_zero(reports):
    out, _ = reports
    rows = pd.read_csv(out / "tables" / "cross_node.csv")
    empty = rows[rows["value"].isna()]
    assert len(empty)
    assert empty["note"].str.startswith("empty: ").all()
    assert "two nodes of 8 GPUs" in (out / "tables" / "cross_node.html").read_text()


def test_too_fast_a_link_leaves_the_share_empty(tmp_path, published, full):
    rows = full.ours[~full.ours["metric"].str.startswith("hidden")]
    table = speed_tables.overlap(replace(full, ours=rows))
    hidden = [i for i, column in enumerate(table.columns) if column.name == "hidden, %"]
    assert len(hidden) == 3
    assert {row[i].reason for row in table.rows for i in hidden} == {speed_tables.TOO_FAST}


def test_records_csv_has_every_row(reports, full):
    out, _ = reports
    assert len(pd.read_csv(out / "records.csv")) == len(full.ours) > 100


@pytest.mark.parametrize(("text", "words"), [("{", "not valid JSON"), ("[]", "must be an object")])
def test_a_broken_configuration_is_refused(records, text, words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UserError, match=words):
        main(parser.parse_args(["--records", str(records), "--config-json", text]))
