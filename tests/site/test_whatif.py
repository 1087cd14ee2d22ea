"""The what-if page in a browser, opened as a file: no server is needed."""

import re
import shutil
from urllib.parse import parse_qs, urlsplit

import pytest

from ladder.cli import main
from ladder.simulate.calibration import load
from ladder.simulate.model import Scenario, predict

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def whatif(request, tmp_path_factory):
    """The address of the page, built alone."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    root, copy = request.config.rootpath, tmp_path_factory.mktemp("whatif")
    shutil.copytree(root / "site" / "assets", copy / "site" / "assets")
    shutil.copy(root / "site" / "whatif.md", copy / "site")
    shutil.copy(root / "mkdocs.yml", copy)
    assert main(["simulate", "page", "--out", str(copy / "reports" / "whatif.html")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)  # snippets are looked up from here
        build(load_config("mkdocs.yml", nav=[{"What if": "whatif.md"}], plugins=[]))
    return (copy / "build" / "site" / "whatif.html").as_uri()


@pytest.fixture
def page(browser, request):
    width = getattr(request, "param", 1280)
    context = browser.new_context(viewport={"width": width, "height": 900})
    opened = context.new_page()
    opened.complaints = []
    opened.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    yield opened
    context.close()
    assert opened.complaints == []


def field(page, label: str):
    return page.locator("#whatif form").get_by_label(label)


def state(page) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(page.url).fragment).items()}


def cells(page, wiring: str) -> list[str]:
    """The row of a wiring, without intervals."""
    row = page.locator(f"#whatif tbody tr:has(th:text-is('{wiring}'))")
    return [text.split("\n")[0] for text in row.locator("td").all_inner_texts()]


def test_an_address_holds_the_state(page, whatif):
    page.goto(f"{whatif}#model=llama-3.1-405b&hardware=h200&link=ib&tp=16&batch=4&prompt=512&implementation=serving")
    assert field(page, "Model").input_value() == "llama-3.1-405b"
    assert field(page, "Link").input_value() == "ib-ndr"
    assert field(page, "Prompt tokens").input_value() == "512"
    assert field(page, "New tokens").input_value() == "512"
    point = Scenario("llama-3.1-405b", "ladder", 16, 4, 512, 512, "h200", "ib-ndr", "serving")
    ours = predict([point], load())
    assert cells(page, "ladder, partial")[:2] == [f"{ours.tokens_per_s[0]:.0f}", f"{ours.speedup[0]:.2f}×"]
    assert f"{ours.speedup[0]:.2f}×" in page.locator(".headline").inner_text()
    assert "simulated" in page.locator(".headline").inner_text()
    field(page, "Batch").fill("8")
    assert state(page)["batch"] == "8"
    shown, link = cells(page, "standard"), page.url
    page.goto("about:blank")
    page.goto(link)
    assert field(page, "Batch").input_value() == "8"
    assert cells(page, "standard") == shown


def test_a_typed_link_starts_from_the_chosen_one(page, whatif):
    page.goto(whatif)
    assert not field(page, "Latency").is_visible()
    before = cells(page, "ladder, partial")
    field(page, "Link").select_option("typed")
    latency = load().parameters["nvlink.latency_us.8"]
    assert float(field(page, "Latency").input_value()) == pytest.approx(latency, rel=0.01)
    field(page, "Latency").fill("80")
    field(page, "Bandwidth").fill("50")
    assert state(page)["link"] == "80us+50GB/s"
    assert "--link 80us+50GB/s " in page.locator(".terminal code").inner_text()
    ours = predict([Scenario("llama-3-70b", "ladder", 8, 1, 1024, 512, "h100", "80us+50GB/s")], load())
    after = cells(page, "ladder, partial")
    assert after != before
    assert after[1] == f"{ours.speedup[0]:.2f}×"
    page.goto(f"{whatif}#link=80us+50GB/s&tp=8")  # as a person types it
    page.reload()
    assert field(page, "Latency").input_value() == "80"
    assert cells(page, "ladder, partial") == after


def test_a_model_that_does_not_fit_has_no_speed(page, whatif):
    page.goto(f"{whatif}#model=llama-3.1-405b")
    answer = page.locator(".answer").inner_text()
    assert "Does not fit" in answer
    assert re.search(r"needs [\d.]+ GiB, and h100 has [\d.]+ GiB for it. It would fit at TP 16", answer)
    assert page.locator("#whatif svg, #whatif table").count() == 0
    field(page, "TP").fill("16")
    assert "×" in page.locator(".headline").inner_text()


IMPOSSIBLE = {
    "TP": ("0", "TP = 0 must be a whole number from 1 to 1024"),
    "Batch": ("1.5", "Batch = 1.5 must be a whole number"),
    "New tokens": ("1", "New tokens = 1 must be a whole number from 2"),
    "Latency": ("-3", "Latency = -3 must be a number from 0"),
    "Bandwidth": ("", "Bandwidth = nothing must be a number from 0.001"),
}


def test_impossible_values_are_refused_by_name_beside_the_field(page, whatif):
    page.goto(f"{whatif}#link=24us%2B370GB%2Fs")
    before, shown = page.url, page.locator(".headline").inner_text()
    for label, (value, words) in IMPOSSIBLE.items():
        wrong = field(page, label)
        possible = wrong.input_value()
        wrong.fill(value)
        assert wrong.get_attribute("aria-invalid") == "true"
        error = wrong.get_attribute("aria-describedby").split()[-1]
        assert words in page.locator(f"#{error}").inner_text()
        assert page.locator(".headline").inner_text() == "No prediction."
        assert page.locator("#whatif svg, #whatif table").count() == 0
        assert page.url == before
        wrong.fill(possible)
        assert page.locator(".headline").inner_text() == shown


def test_bad_values_in_a_link_fall_back_and_say_so(page, whatif):
    page.goto(f"{whatif}#model=gpt&tp=0&link=-3us%2B2GB%2Fs&batch=4&speed=9&hardware=constructor")
    note = page.locator(".note").inner_text()
    for words in ("Model = gpt is not known", "TP = 0 must", "Latency = -3 must", "speed is no setting"):
        assert words in note
    assert state(page) == state(page) | {"model": "llama-3-70b", "tp": "8", "link": "nvlink", "batch": "4"}
    field(page, "TP").fill("4")
    assert page.locator(".note").inner_text() == ""


def test_one_gpu_gains_nothing(page, whatif):
    page.goto(f"{whatif}#model=llama-3-8b&tp=1")
    assert "One GPU communicates nothing" in page.locator(".answer").inner_text()
    assert cells(page, "ladder, partial")[1:3] == ["1.00×", "–"]


@pytest.mark.parametrize("page", [390], indirect=True)
def test_a_phone_scrolls_one_way(page, whatif):
    page.goto(f"{whatif}#link=24us%2B370GB%2Fs")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#whatif .chart svg[role=img]").count() == 4


def test_the_keyboard_reaches_everything(page, whatif):
    page.goto(whatif)
    field(page, "Model").focus()
    seen = []
    for _ in range(10):
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        page.keyboard.press("Tab")
    fields = [f"whatif-{key}" for key in ("model", "hardware", "link", "tp", "batch", "prompt", "new_tokens")]
    assert seen == [*fields, "whatif-implementation", "Copy link", "Reset"]
    page.get_by_role("button", name="Copy link").press("Enter")
    page.locator(".note p").wait_for()
    assert re.match("Link copied|Copy this: file:.*model=llama-3-70b", page.locator(".note").inner_text())
    field(page, "TP").fill("2")
    page.get_by_role("button", name="Reset").press("Enter")
    assert state(page)["tp"] == "8"
