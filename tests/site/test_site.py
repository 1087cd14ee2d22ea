"""The site builds strictly, is whole, and refuses to be built from missing reports."""

import json
import re
import shutil

import pytest

import ladder

PAGES = [
    "index",
    "method",
    "wirings",
    "speed",
    "quality",
    "sensitivity",
    "convert",
    "adaptation",
    "claims",
    "reproduce",
]
PAGES += ["trust", "whatif", "scale", "families", "guide", "log", "api"]


@pytest.mark.slow
def test_every_page_and_every_download_is_there(built):
    for page in PAGES:
        text = (built / f"{page}.html").read_text(encoding="utf-8")
        links = re.findall(r'href="(reports/[^"#]+)"', text)
        assert [link for link in links if not (built / link).is_file()] == [], page
    assert (built / "reports" / "analysis" / "speed.csv").is_file()
    assert (built / "reports" / "all").is_file()


def test_the_page_for_a_wrong_address_works_below_any_path(built):
    assert re.findall(r'(?:href|src)="/', (built / "404.html").read_text(encoding="utf-8")) == []


@pytest.mark.slow
def test_search_knows_figures_tables_tasks_models_and_devices(built):
    index = json.loads((built / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    places = {row["location"]: row for row in index}
    assert {"speed.html#table-overlap", "speed.html#figure-speed-by-model-size"} <= set(places)
    assert "whatif.html#hardware=rtx-4090" in places
    assert "whatif.html#model=qwen3-32b" in places
    assert "whatif.html#link=pcie4-host-staged" in places
    assert "noise floor" in places["quality.html#table-pretraining-table"]["text"].lower()
    assert len(places) == len(index)
    for place in places:
        page, _, anchor = place.partition("#")
        if anchor and "=" not in anchor:
            assert f'id="{anchor}"' in (built / page).read_text(encoding="utf-8"), place


@pytest.mark.slow
def test_a_page_loads_what_it_uses(built):
    for page in PAGES:
        text = (built / f"{page}.html").read_text(encoding="utf-8")
        assert ("katex" in text) == ('class="arithmatex"' in text), page
        assert ("simulate.js" in text) == (page == "whatif"), page


@pytest.mark.slow
def test_the_api_page_has_the_public_names(built):
    text = (built / "api.html").read_text(encoding="utf-8")
    assert [name for name in ladder.__all__ if f".{name}" not in text] == []
    assert ":class:" not in text
    assert ":func:" not in text


@pytest.mark.slow
def test_a_run_has_an_address_on_the_site(built):
    runs = [
        (page, run)
        for page in PAGES
        for run in re.findall(r'class="run"[^>]* href="([^"]+)"', (built / f"{page}.html").read_text(encoding="utf-8"))
    ]
    ids = set(re.findall(r'id="(run-\w+)"', (built / "reproduce.html").read_text(encoding="utf-8")))
    assert runs
    assert {href.partition("#")[2] for _, href in runs} <= ids
    assert not [page for page in PAGES if 'href="http://127' in (built / f"{page}.html").read_text(encoding="utf-8")]


@pytest.mark.slow
def test_fragments_are_not_pages(built):
    assert list((built / "reports").rglob("*.html")) == []


@pytest.mark.slow
def test_no_page_names_a_foreign_script_or_style(built):
    for page in PAGES:
        text = (built / f"{page}.html").read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="([^"]+)"', text)
        foreign = [url for url in loaded if re.match(r"(?:https?:)?//", url)]
        assert foreign == [], page


@pytest.mark.parametrize("page", [page for page in PAGES if page != "log"])  # the log's are dated
def test_written_pages_hold_no_measured_number(page, request):
    """Numbers with a decimal point, a times sign or a percent sign come from reports, except definitions."""
    text = (request.config.rootpath / "site" / f"{page}.md").read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    allowed = {"2501.06589", "1.5"}  # the paper's number; the unit times of the drawings
    found = set(re.findall(r"\b\d+\.\d+\b", text)) | set(re.findall(r"\d+ ?[×%]", text))
    assert {n for n in found if not any(n in a or a in n for a in allowed)} <= {"3.1", "3.2", "127.0", "0.1"}


@pytest.mark.slow
def test_a_missing_report_is_named(project, mkdocs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    (copy / "reports" / "pages" / "overlap.html").unlink()
    done = mkdocs(copy)
    assert done.returncode != 0
    assert "pages/overlap.html" in done.stderr
