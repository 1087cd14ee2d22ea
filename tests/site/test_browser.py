"""What a person sees: looked at with Chromium, wide and narrow, light and dark."""

import csv
import gzip
import itertools
import os
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.browser

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
PAGES += ["trust", "whatif", "scale", "families", "log", "changelog", "api"]
# at least so many charts, or drawings of wirings
FIGURES = {
    "index": 2,
    "trust": 1,
    "whatif": 4,
    "wirings": 15,
    "speed": 14,
    "quality": 8,
    "sensitivity": 1,
    "adaptation": 5,
}
VIEWS = {"wide": (1280, "light"), "phone": (390, "light"), "dark": (1280, "dark")}
# In the page: the lowest contrast of drawn text against the page's background, WCAG's definition.
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = rgb(getComputedStyle(document.body).backgroundColor).slice(0, 3);
  const texts = [...document.querySelectorAll(".chart svg text")];
  return texts.map((text) => {
    const [r, g, b, a = 1] = rgb(getComputedStyle(text).fill);
    const front = [r, g, b].map((v, i) => a * v + (1 - a) * back[i]);
    const [low, high] = [light(front), light(back)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  });
}"""
# In the page: drawings and images without an accessible name.
NAMELESS = """() => [...document.querySelectorAll(".md-content svg, .md-content img")].filter((image) => {
  if (image.closest("[aria-hidden=true]")) return false;
  const ids = (image.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean);
  const words = ids.map((id) => document.getElementById(id)?.textContent || "").join(" ");
  return !(words || image.getAttribute("alt") || image.getAttribute("aria-label") || "").trim();
}).map((image) => image.outerHTML.slice(0, 120))"""


@pytest.fixture
def page(browser, request):
    width, scheme = VIEWS[getattr(request, "param", "wide")]
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    opened.complaints = []
    opened.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("response", lambda r: opened.complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    opened.requested = []
    opened.on("request", lambda r: opened.requested.append(r.url))
    yield opened
    context.close()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("page", VIEWS, indirect=True)
def test_page(page, address, name):
    page.goto(f"{address}{name}.html")
    charts = page.locator(".panel[data-chart]")
    for n in range(charts.count()):  # each is drawn when it is scrolled to
        charts.nth(n).scroll_into_view_if_needed()
        charts.nth(n).locator(".drawn svg").wait_for()
    assert page.complaints == []
    assert {urlsplit(url).netloc for url in page.requested if not url.startswith("data:")} == {urlsplit(address).netloc}
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    tags = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(e => e.tagName)")
    assert tags.count("H1") == 1
    assert all(int(b[1]) - int(a[1]) <= 1 for a, b in itertools.pairwise(tags))
    drawings = page.locator(".panel > svg, .panel .drawn > svg").all()
    assert len(drawings) >= FIGURES.get(name, 0)
    for drawing in drawings:
        box = drawing.bounding_box()
        assert 100 < box["width"] <= page.viewport_size["width"]
        assert box["height"] > 50
    assert page.evaluate(NAMELESS) == []
    assert all(ratio >= 4.5 for ratio in page.evaluate(CONTRAST))


def test_equations_are_typeset(page, address):
    page.goto(f"{address}method.html")
    assert page.locator(".katex").count() >= 6
    assert page.locator(".katex-error").count() == 0


def test_tables_sort_by_mouse_and_by_keyboard(page, address):
    page.goto(f"{address}speed.html")
    page.locator("#table-overlap summary").click()
    table = page.locator("#table-overlap table")
    head = table.get_by_role("columnheader", name="decode step")

    def column() -> list[float]:
        at = head.evaluate("e => e.cellIndex + 1")
        cells = table.locator(f"tbody tr td:nth-child({at})").all_inner_texts()
        return [float(re.match(r"[\d.]+", text).group()) for text in cells]

    assert column() != sorted(column())
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    page.keyboard.press("Enter")  # the button has the focus
    assert head.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), reverse=True)
    table.get_by_role("columnheader", name="Wiring").get_by_role("button").press("Space")
    assert head.get_attribute("aria-sort") is None


def test_empty_cells_stay_at_the_end(page, address):
    page.goto(f"{address}speed.html")
    page.locator("#table-speed-by-model-size-table summary").click()
    table = page.locator("#table-speed-by-model-size-table table")
    head = table.get_by_role("columnheader", name="upper bound")
    at = head.evaluate("e => e.cellIndex + 1")
    for _ in range(2):
        head.get_by_role("button").click()
        empty = [text.startswith("–") for text in table.locator(f"tbody tr td:nth-child({at})").all_inner_texts()]
        assert any(empty)
        assert empty == sorted(empty)


def test_a_long_table_is_filtered(page, address):
    page.goto(f"{address}quality.html")
    box = page.locator("#table-pretraining-table")
    box.locator("summary").click()
    box.get_by_role("searchbox").fill("ladder-2 cloze")
    rows = box.locator("tbody tr:visible").all_inner_texts()
    assert rows
    assert all("ladder-2" in row and "cloze" in row for row in rows)
    assert f"{len(rows)} of" in box.locator(".count").inner_text()


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_a_phone_shows_the_key_columns_and_the_rest_on_demand(page, address):
    page.goto(f"{address}speed.html")
    box = page.locator("#table-equal-speed")
    shown = box.locator("thead tr:last-child th:visible").count()
    box.get_by_label("all columns").check()
    assert 2 <= shown < box.locator("thead tr:last-child th:visible").count()


def test_a_chart_tells_its_numbers_and_follows_the_theme(page, address):
    page.goto(f"{address}speed.html")
    panel = page.locator('[data-chart="hidden"]')
    panel.scroll_into_view_if_needed()
    panel.locator(".drawn path[aria-roledescription=point]").last.hover(force=True)
    page.locator("#vg-tooltip-element.visible").wait_for()
    assert "communication hidden" in page.locator("#vg-tooltip-element").inner_text()
    colour = "() => getComputedStyle(document.querySelector('.drawn text')).fill"
    light = page.evaluate(colour)
    page.evaluate("document.body.setAttribute('data-md-color-scheme', 'slate')")
    page.wait_for_function(f"({colour})() !== '{light}'")


def test_without_scripts_and_on_paper_the_drawings_are_files(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}speed.html")
    assert page.locator(".panel img.light").count() > 10
    page.locator(".panel img.light").first.scroll_into_view_if_needed()
    assert page.locator(".panel img.light").first.bounding_box()["width"] > 100
    page.emulate_media(media="print")
    assert not page.locator(".panel img.dark").first.is_visible()
    context.close()


def test_home_is_light_before_charts_are_scrolled_to(page, address):
    sizes = []
    page.on("response", lambda r: sizes.append(len(r.body())) if r.ok else None)
    page.goto(f"{address}index.html")
    page.wait_for_load_state("networkidle")
    assert not any("vega.js" in url for url in page.requested)
    assert page.get_by_role("link", name="for my model").bounding_box()["y"] < 900  # on the first screen


def test_a_csv_downloads(page, address, tmp_path):
    page.goto(f"{address}quality.html")
    with page.expect_download() as waiting:
        page.locator("#table-others-quality .downloads a").click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert path.name == "others.csv"
    assert {row["origin"] for row in rows} == {"published"}


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_wide_tables_scroll_in_their_own_frame_and_by_keyboard(page, address):
    page.goto(f"{address}speed.html")
    box = page.locator("#table-equal-speed")
    box.get_by_label("all columns").check()
    frame = box.locator(".scroll")
    assert frame.evaluate("e => e.scrollWidth > e.clientWidth")
    frame.focus()
    assert frame.evaluate("e => e === document.activeElement")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("page", ["wide", "dark"], indirect=True)
def test_no_serious_barrier(page, address, name):
    """Axe: contrast, names, roles, order of headings."""
    from axe_playwright_python.sync_playwright import Axe

    page.goto(f"{address}{name}.html")
    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = [
        (rule["id"], [node["html"][:150] for node in rule["nodes"]][:3])
        for rule in violations
        if rule["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_home_is_light(page, address):
    """In bytes as hosts send them, compressed; the index of the search is among them."""
    sizes = {}
    page.on("response", lambda response: sizes.update({response.url: len(gzip.compress(response.body()))}))
    page.goto(f"{address}index.html", wait_until="networkidle")
    assert 50_000 < sum(sizes.values()) < 400_000
    assert not [url for url in sizes if "katex" in url or "simulate" in url]


def test_tabs_stay_and_pages_have_neighbours_and_contents(page, address):
    page.goto(f"{address}quality.html")
    tabs = page.locator(".md-tabs__link:visible")
    assert tabs.all_inner_texts() == ["Home", "What if", "Results", "Claims", "Trust", "Use"]
    page.mouse.wheel(0, 4000)
    page.wait_for_timeout(300)
    assert 0 <= tabs.first.bounding_box()["y"] < 120
    assert page.locator(".md-sidebar--primary .md-nav__link[href^='#']:visible").count() >= 3
    assert page.locator(".md-footer__link--prev").get_attribute("href") == "scale.html"
    assert page.locator(".md-footer__link--next").get_attribute("href") == "sensitivity.html"
    footer = page.locator("footer")
    for name in ("Log", "Changelog", "API"):
        assert footer.get_by_role("link", name=name, exact=True).count() == 1


def test_search_finds_a_device_and_a_table(page, address):
    page.goto(f"{address}index.html", wait_until="networkidle")
    asked = {"share of communication hidden": "#table-overlap", "RTX 4090": "#hardware=rtx-4090"}
    for words, place in asked.items():
        page.locator(".md-search__input").click()
        page.locator(".md-search__input").fill("")
        page.locator(".md-search__input").press_sequentially(words)
        found = page.locator(f".md-search-result__link[href*='{place}']").first
        found.wait_for()
    found.click()
    page.locator(".card").first.wait_for()
    assert page.get_by_label("GPU", exact=True).input_value() == "rtx-4090"


def test_a_wrong_address_leads_on(page, address):
    page.goto(f"{address}deep/below/nothing.html")
    page.get_by_role("link", name="Quality").click()
    assert page.url == f"{address}quality.html"


def test_paper_has_whole_tables(page, address):
    """The longest and the widest table of each page: every row and column on the sheet."""
    page.set_viewport_size({"width": 720, "height": 1000})  # of A4 less its margins
    page.emulate_media(media="print")
    for name in PAGES:
        page.goto(f"{address}{name}.html")
        cut = page.locator(".results .scroll:visible").evaluate_all(
            "all => all.filter(e => e.scrollHeight > e.clientHeight + 1 && getComputedStyle(e).overflowY !== 'visible')"
            ".map(e => e.getAttribute('aria-labelledby'))"
        )
        assert cut == [], name
        wide = page.locator(".results table:visible").evaluate_all(
            "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.closest('[id]').id)"
        )
        assert wide == [], name


def test_runs_lead_to_mlflow_only_at_home(page, address):
    page.goto(f"{address}reproduce.html")
    runs = page.locator("a.run")
    assert runs.count() > 3
    assert re.fullmatch(r"http://127\.0\.0\.1:5000/#/runs/\w{32}", runs.first.get_attribute("href"))


@pytest.mark.slow
def test_a_published_site_works_below_a_path_and_has_no_dead_link(page, project, served, tmp_path):
    """`mkdocs gh-deploy` into a bare repository; its tree, served below /ladder/; every link of every page."""

    def git(*words, cwd=None):
        subprocess.run(["git", *words], cwd=cwd, check=True, capture_output=True)

    work, bare = tmp_path / "work", tmp_path / "bare.git"
    shutil.copytree(project, work, symlinks=True)
    git("init", "--bare", "-q", str(bare))
    git("init", "-q", cwd=work)
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "a", cwd=work)
    git("remote", "add", "origin", str(bare), cwd=work)
    environment = os.environ | {"SITE_URL": "https://someone.example/ladder/", "NO_MKDOCS_2_WARNING": "1"}
    environment |= {f"GIT_{who}_{key}": "a@b" for who in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    command = [sys.executable, "-m", "mkdocs", "gh-deploy", "--strict", "--no-history", "--quiet"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "served"
    git("clone", "-q", "--branch", "gh-pages", str(bare), str(root / "ladder"))
    pages = sorted((root / "ladder").glob("*.html"))
    sitemap = (root / "ladder" / "sitemap.xml").read_text(encoding="utf-8")
    for path in pages:
        if path.stem != "404":
            assert f"https://someone.example/ladder/{path.name.replace('index.html', '')}" in sitemap
    with served(root) as address:
        broken = []
        for path in pages:
            page.goto(f"{address}ladder/{path.name}")
            links = page.locator("a[href], link[rel=stylesheet], script[src]").evaluate_all(
                "all => all.map(e => e.href || e.src)"
            )
            for link in {link for link in links if link.startswith(address)}:
                target, _, anchor = link.partition("#")
                file = root / unquote(urlsplit(target).path.lstrip("/"))
                file = file / "index.html" if file.is_dir() else file
                ids = "" if not file.is_file() or file.suffix != ".html" else file.read_text(encoding="utf-8")
                known = not anchor or "=" in anchor or path.stem == "whatif" or f'id="{unquote(anchor)}"' in ids
                if not file.is_file() or not known:
                    broken.append((path.name, link))
        assert broken == []
        assert not [words for words in page.complaints if "404" not in words]
        page.goto(f"{address}ladder/no/such/page")
        page.get_by_role("link", name="Scale").click()
        assert page.url == f"{address}ladder/scale.html"


def test_the_first_stop_of_the_keyboard_is_the_skip_link(page, address):
    page.goto(f"{address}speed.html")
    page.keyboard.press("Tab")
    assert "skip" in page.evaluate("document.activeElement.textContent").lower()
