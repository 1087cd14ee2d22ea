"""The what-if page in a browser, opened as a file: no server is needed."""

import json
import re
import shutil
from pathlib import Path
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
    for name in ("whatif.md", "hooks.py"):
        shutil.copy(root / "site" / name, copy / "site")
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


def cards(page) -> list[str]:
    return page.locator(".card .number").all_inner_texts()


def gains(*points: Scenario) -> list[str]:
    return [f"{value:.2f}×" for value in predict(points, load()).speedup]


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
    field(page, "GPUs").fill("16")
    assert "×" in page.locator(".headline").inner_text()


IMPOSSIBLE = {
    "GPUs": ("0", "GPUs = 0 must be a whole number from 1 to 1024"),
    "Batch": ("1.5", "Batch = 1.5 must be a whole number"),
    "New tokens": ("1", "New tokens = 1 must be a whole number from 2"),
    "Latency": ("-3", "Latency = -3 must be a number from 0"),
    "Bandwidth": ("", "Bandwidth = nothing must be a number from 0.001"),
}


def test_impossible_values_are_refused_by_name_beside_the_field(page, whatif):
    page.goto(f"{whatif}#link=24us%2B370GB%2Fs")
    page.get_by_text("More settings").click()
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


BAD = {
    "model=gpt&tp=4": "gpt",
    "speed=9&batch=4": "speed",
    "model=llama-3-8b&tp=3": "1, 2, 4, 8, 16, 32",
    "model=llama-3-8b&tp=512": "1, 2, 4, 8, 16, 32",
    "hardware=rtx-4090&link=nvlink": "pcie4-host-staged",
    "hardware=constructor": "constructor",
    "link=-3us%2B2GB%2Fs": "Latency = -3",
    "model=own&config=nonsense": "JSON",
}


@pytest.mark.parametrize(("address", "words"), BAD.items(), ids=BAD)
def test_a_bad_link_is_refused_as_a_whole_and_says_what_is_wrong(page, whatif, address, words):
    page.goto(f"{whatif}#{address}")
    assert words in page.locator(".answer").inner_text()
    assert page.locator(".card, .studies svg, .studies table").count() == 0
    assert page.url == f"{whatif}#{address}"
    assert field(page, "Model").input_value() == "llama-3-70b"
    field(page, "Batch").fill("4")
    assert len(cards(page)) == 3


def test_a_visitor_with_8_h100_and_a_70b(page, whatif):
    page.goto(whatif)
    page.get_by_role("link", name="70B on 8 H100").click()
    at = ("llama-3-70b", "ladder", 8, 1, 1024, 512, "h100")
    wirings = ("ladder", "ladder@40-79")
    whole, half = gains(*(Scenario(*at, "nvlink")._replace(wiring=wiring) for wiring in wirings))
    engine = Scenario(*at, "nvlink-one-shot", "serving")
    all_, part = gains(*(engine._replace(wiring=wiring) for wiring in wirings))
    assert cards(page) == [whole, half, f"{all_} all, {part} part"]
    page.get_by_text("More settings").click()
    field(page, "Loss you accept").fill("3")
    assert cards(page)[1] == gains(Scenario(*at, "nvlink")._replace(wiring="ladder@30-79"))[0]
    field(page, "Loss you accept").fill("-1")
    assert cards(page)[1] == "none"
    assert state(page)["loss"] == "-1"


def test_a_visitor_with_2_rtx_4090_and_an_8b(page, whatif):
    page.goto(whatif)
    page.get_by_role("link", name="8B on 2 RTX 4090").click()
    offered = field(page, "Link").locator("option").all_inner_texts()
    assert not [name for name in offered if "nvlink" in name]
    assert field(page, "Link").input_value() == state(page)["link"] == "pcie4-host-staged"
    assert (
        cards(page)[0] == gains(Scenario("llama-3.1-8b", "ladder", 2, 1, 1024, 512, "rtx-4090", state(page)["link"]))[0]
    )
    assert "2 replicas at TP 1" in page.locator(".answer").inner_text()
    field(page, "GPU").first.select_option("h100")
    assert state(page)["link"] == "nvlink"


@pytest.mark.parametrize("model", ["qwen3-32b", "qwen3-30b-a3b", "gemma-2-9b"])
def test_a_visitor_with_4_l40s_and_a_model_that_is_not_in_the_list(page, whatif, model):
    page.goto(whatif)
    page.get_by_role("link", name="My own model on 4 L40S").click()
    pasted = page.get_by_label("config.json")
    pasted.fill('{"model_type": "bloom"}')
    assert "bloom" in page.locator(".answer").inner_text()
    pasted.fill(json.dumps(json.loads(Path("ladder/model/configs.json").read_text(encoding="utf-8"))[model]))
    at = Scenario(model, "ladder", 4, 1, 1024, 512, "l40s", "pcie4-host-staged")
    if not predict([at], load()).fits[0]:
        assert "Does not fit" in page.locator(".answer").inner_text()
        return
    assert cards(page)[0] == gains(at)[0]
    shown, link = cards(page), page.url
    page.goto("about:blank")
    page.goto(link)
    assert cards(page) == shown
    assert "--model config.json" in page.locator(".terminal code").inner_text()


def test_a_visitor_who_wants_table_1(page, whatif):
    page.goto(whatif)
    page.get_by_role("link", name="The paper's Table 1").click()
    table = page.get_by_role("region", name="Speed-up of ladder over standard at batch 4")
    assert table.locator("tbody tr").count() == 12
    row = table.locator("tbody tr", has_text="llama-3-8b").nth(1).locator("td").all_inner_texts()
    point = Scenario("llama-3-8b", "ladder", 8, 4, 1024, 512, "h100", "nvlink")
    assert [text.split("\n")[0] for text in row] == ["8", "on", "1.46×", gains(point)[0], "1.46×", "–"]
    table.locator("tbody a").last.click()
    assert (state(page)["model"], state(page)["tp"]) == ("llama-3.1-405b", "16")


def test_where_tp_is_the_wrong_choice_the_page_says_so(page, whatif):
    page.goto(f"{whatif}#model=llama-3.2-1b&hardware=l40s&tp=8&batch=64")
    assert "wrong choice" in page.locator(".answer").inner_text()
    point = Scenario("llama-3.2-1b", "standard", 2, 16, 1024, 512, "l40s", "pcie4-host-staged")
    assert f"{4 * predict([point], load()).tokens_per_s[0]:,.0f} tokens/s" in page.locator(".answer").inner_text()


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
    page.get_by_text("More settings").click()
    field(page, "Model").focus()
    seen = []
    for _ in range(12):
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        page.keyboard.press("Tab")
    fields = [f"whatif-{key}" for key in ("model", "hardware", "link", "tp", "batch")]
    more = [f"whatif-{key}" for key in ("loss", "prompt", "new_tokens", "implementation")]
    assert seen == [*fields, "More settings", *more, "Copy link", "Reset"]
    page.get_by_role("button", name="Copy link").press("Enter")
    page.locator(".note p").wait_for()
    assert re.match("Link copied|Copy this: file:.*model=llama-3-70b", page.locator(".note").inner_text())
    field(page, "GPUs").fill("2")
    page.get_by_role("button", name="Reset").press("Enter")
    assert state(page)["tp"] == "8"
