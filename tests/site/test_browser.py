"""What a person sees: looked at with Chromium, wide and narrow, light and dark."""

import csv
import itertools
import re
from urllib.parse import urlsplit

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
PAGES += ["trust", "whatif", "scale", "families", "log"]
# at least so many drawings
FIGURES = {
    "index": 3,
    "simulator": 1,
    "whatif": 4,
    "scale": 3,
    "wirings": 15,
    "speed": 17,
    "quality": 8,
    "sensitivity": 1,
    "adaptation": 3,
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
    assert page.complaints == []
    assert {urlsplit(url).netloc for url in page.requested if not url.startswith("data:")} == {urlsplit(address).netloc}
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    tags = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(e => e.tagName)")
    assert tags.count("H1") == 1
    assert all(int(b[1]) - int(a[1]) <= 1 for a, b in itertools.pairwise(tags))
    drawings = page.locator(".chart svg").all()
    assert len(drawings) >= FIGURES.get(name, 0)
    for drawing in drawings:
        box = drawing.bounding_box()
        assert box["width"] > 100
        assert box["height"] > 50
    assert page.evaluate(NAMELESS) == []
    assert all(ratio >= 4.5 for ratio in page.evaluate(CONTRAST))


def test_equations_are_typeset(page, address):
    page.goto(f"{address}method.html")
    assert page.locator(".katex").count() >= 6
    assert page.locator(".katex-error").count() == 0


def test_tables_sort_by_mouse_and_by_keyboard(page, address):
    page.goto(f"{address}speed.html")
    table = page.locator("#table-overlap table")
    head = table.get_by_role("columnheader", name="ms per step")

    def column() -> list[float]:
        cells = table.locator("tbody tr td:nth-child(6)").all_inner_texts()
        return [float(re.match(r"[\d.]+", text).group()) for text in cells]

    assert column() != sorted(column())
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    page.keyboard.press("Enter")  # the button has the focus
    assert head.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), reverse=True)
    other = table.get_by_role("columnheader", name="Wiring")
    other.get_by_role("button").press("Space")
    assert head.get_attribute("aria-sort") is None
    words = table.locator("tbody th").all_inner_texts()
    assert words == sorted(words)


def test_empty_cells_stay_at_the_end(page, address):
    page.goto(f"{address}speed.html")
    table = page.locator("#table-speed-by-model-size table")
    button = table.get_by_role("columnheader", name="upper bound").get_by_role("button")
    for _ in range(2):
        button.click()
        cells = table.locator("tbody tr td:nth-child(8)").all_inner_texts()
        empty = [text.startswith("–") for text in cells]
        assert any(empty)
        assert empty == sorted(empty)


def test_a_csv_downloads(page, address, tmp_path):
    page.goto(f"{address}quality.html")
    with page.expect_download() as waiting:
        page.locator("#table-pretraining .downloads a").click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert path.name == "pretraining.csv"
    assert {row["origin"] for row in rows} >= {"published", "measured"}


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_wide_tables_scroll_in_their_own_frame_and_by_keyboard(page, address):
    page.goto(f"{address}speed.html")
    frame = page.locator("#table-overlap .scroll")
    assert frame.evaluate("e => e.scrollWidth > e.clientWidth")
    frame.focus()
    assert frame.evaluate("e => e === document.activeElement")


def test_the_first_stop_of_the_keyboard_is_the_skip_link(page, address):
    page.goto(f"{address}speed.html")
    page.keyboard.press("Tab")
    assert "skip" in page.evaluate("document.activeElement.textContent").lower()
