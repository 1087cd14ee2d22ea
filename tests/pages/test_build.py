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

from ladder.analysis import build as analysis
from ladder.analysis import runs
from ladder.errors import UserError
from ladder.files import sha256
from ladder.metrics import unknown
from ladder.pages.build import add_arguments, build, main, pages
from ladder.pages.charts import Chart
from ladder.pages.page import Sources
from ladder.pages.theme import INK

ORIGINS = {"published", "measured", "emulated", "simulated"}
PAGES = pages()
CHARTS = [item for page in PAGES for item in page.items if isinstance(item, Chart)]


@pytest.fixture(scope="module")
def empty(tmp_path_factory, published):
    """(directory, summary) of a report without any record of ours."""
    out = tmp_path_factory.mktemp("empty")
    return out, build([tmp_path_factory.mktemp("nothing")], published, {}, out)


@pytest.mark.parametrize("kind", ["reports", "empty"])
def test_every_page_is_whole_with_and_without_own_numbers(kind, request):
    out, summary = request.getfixturevalue(kind)
    names = {item.name for page in PAGES for item in page.items} | {f"{p.name}.answer" for p in PAGES if p.answer}
    assert {path.name.removesuffix(".html") for path in (out / "pages").glob("*.html")} == names
    assert summary["fragments"] == len(names)
    for path in (out / "pages").glob("*.html"):
        text = re.sub(r"<[^>]*>", " ", path.read_text())
        assert len(text.strip()) > 20, path
        assert not {"nan", "None", "NaN", "inf"} & set(re.findall(r"\w+", text)), path


def test_the_fragments_are_those_that_the_pages_include(request):
    included = set()
    for path in (request.config.rootpath / "site").glob("*.md"):
        included |= set(re.findall(r'--8<-- "pages/(.+)\.html"', path.read_text()))
    assert included == {item.name for page in PAGES for item in page.items} | {
        f"{page.name}.answer" for page in PAGES if page.answer
    }


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


def test_every_derived_table_has_an_origin_and_no_unknown_column(reports, tables):
    out, _ = reports
    schema = json.loads((out / "analysis" / "schema.json").read_text())
    assert set(schema) == set(tables)
    for name, table in tables.items():
        assert list(schema[name]) == list(table.columns)
        assert unknown(table.columns) == []
        if "origin" in table and name not in ("links", "calibration"):  # theirs say which number is from where
            assert set(table["origin"]) <= ORIGINS, name
    assert schema["speed"]["speedup"] == {"label": "tokens/s over standard", "unit": "×", "scale": 1, "better": 1}


def test_a_column_that_is_in_no_table_of_metrics_is_refused(full, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "TABLES", analysis.TABLES | {"others": lambda frames: pd.DataFrame({"odd": [1]})})
    with pytest.raises(ValueError, match="odd"):
        analysis.write(full, tmp_path)


def test_mixed_commits_and_configurations_are_warnings(full):
    records = [dict(r, provenance=dict(r["provenance"], commit=c)) for r, c in zip(full.records, "ab", strict=False)]
    records[0]["provenance"]["dirty"] = True
    records[1]["provenance"]["config_digest"] = "other"
    warnings = runs.provenance(replace(full, records=records), None)["warnings"]
    assert len(warnings) == 3
    assert "2 commits (a, b)" in warnings[0]


def test_no_records_are_a_warning(bare):
    assert "only published numbers and kept" in runs.provenance(bare, "x")["warnings"][0]


def test_kept_records_are_no_part_of_the_run(reports, full):
    _, summary = reports
    kept = [r for r in full.records if r["kept"]]
    kept += [r for study in full.studies.values() for r in study.records]
    assert {r["path"].split("/")[0] for r in kept} == {"measured"}
    assert summary["kept"]["records"] == len(kept)
    assert summary["kept"]["hardware"] == ["1 x NVIDIA H200", "Toy CPU, 2 cores"]


def test_every_drawing_is_there_in_both_themes_with_words_and_its_specification(reports):
    out, _ = reports
    drawn = 0
    for page in (out / "pages").glob("*.html"):
        for name, alt in re.findall(r'src="reports/pages/([\w.-]+)\.svg" alt="([^"]*)"', page.read_text()):
            path = out / "pages" / f"{name}.svg"
            ElementTree.parse(path)
            assert INK not in path.read_text()
            assert len(alt) > 20
            drawn += 1
            if not name.endswith("-dark"):
                text = (out / "pages" / f"{name}.js").read_text()
                assert json.loads(text.partition(" = ")[2].rstrip(";\n"))["layer"]
    assert drawn >= 2 * len([chart for chart in CHARTS if not chart.name.startswith(("scale", "predict"))])


def test_sentences_find_their_numbers_in_complete_records(tables):
    """None falls back to less, where there are rows to speak of."""
    sources = Sources(tables)
    for page in PAGES:
        for item in page.items:
            title = getattr(item, "title", "")
            if callable(title) and len(item.rows(sources) if isinstance(item, Chart) else item.select(sources)):
                assert title(sources)
        if page.answer and page.name not in ("scale", "trust"):  # no such records among the toys
            assert page.answer(sources)


def test_a_title_is_one_sentence_and_so_is_a_caption(reports):
    out, _ = reports
    for chart in CHARTS:
        text = (out / "pages" / f"{chart.name}.html").read_text()
        (title,) = re.findall(r'<p class="finding"><strong>(.*)</strong></p>', text)
        assert title.endswith(".")
        assert len(title) < 420, chart.name
        assert len(chart.caption) < 160, chart.name


def test_labels_name_the_ranks_that_a_checkpoint_is_for(reports):
    out, _ = reports
    for page in ("pretraining_table", "sensitivity_table", "adaptation_table"):
        text = (out / "pages" / f"{page}.html").read_text()
        assert "(T = 2)" in text, page
        assert "ladder (T" not in text, page


def test_a_table_has_key_columns_intervals_and_a_filter_where_it_is_long(reports):
    text = (reports[0] / "pages" / "pretraining_table.html").read_text()
    assert 'type="search"' in text
    assert 'class="interval"' in text
    assert "all columns" in text
    assert re.search(r'<td class="number more"', text)
    head = re.search(r"<thead>(.*)</thead>", text).group(1)
    assert (
        head.count("<th") == len(re.search(r"<tr><th.*?</tr>", text.partition("<tbody>")[2]).group().split("</t")) - 2
    )


def test_home_answers_three_questions_from_the_records(reports, empty, tables):
    words = [(out / "pages" / "home.html").read_text() for out, _ in (reports, empty)]
    assert all(text.count("<li>") == 3 for text in words)
    assert all("1.31×" in text and "1.16×" in text for text in words)  # published: fig2_70b_throughput.csv
    hidden = tables["over_rho"].query('wiring == "ladder" and clock == "wall" and rho <= 1')["hidden"].dropna()
    assert f"{100 * hidden.max():.0f} %" in words[0]
    claims = tables["claims"]["verdict"]
    assert f"{(claims == 'not tested at this scale').sum()} of {len(claims)}" in words[0]
    assert "23 of 23" in words[1]
    assert "nothing yet" in words[1]


def test_records_csv_has_every_row(reports, full):
    out, _ = reports
    assert len(pd.read_csv(out / "records.csv", low_memory=False)) == len(full.ours) > 100


@pytest.mark.parametrize(("text", "words"), [("{", "not valid JSON"), ("[]", "must be an object")])
def test_a_broken_configuration_is_refused(records, text, words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UserError, match=words):
        main(parser.parse_args(["--records", str(records), "--config-json", text]))
