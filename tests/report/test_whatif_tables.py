"""What the browser computes is what the package computes."""

import json
import os
import random
import re
import shutil
import subprocess

import pytest

from ladder.cli import main
from ladder.devices import DEVICES
from ladder.links import ALIASES, LINKS
from ladder.report.whatif import packed, tables, wirings
from ladder.schedule import order
from ladder.simulate.calibration import load
from ladder.simulate.model import Scenario, interval, predict

SCRIPT = "site/assets/js/simulate.js"
# Points to predictions, in JavaScript.
PREDICT = """({tables, points}) => {
  const {predict} = simulator(tables);
  return points.map((point) => predict(point, [point.wiring])[0]);
}"""


def run(source: str, function: str, argument):
    """What a JavaScript function returns, where ``source`` has been loaded: in node, or else in the browser."""
    if node := shutil.which("node"):
        program = f"{source}\nprocess.stdout.write(JSON.stringify(({function})({json.dumps(argument)})))"
        done = subprocess.run([node, "-"], input=program, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs node: apt-get install nodejs")
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not executable:
        pytest.skip("needs node: apt-get install nodejs (or chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.add_script_tag(content=source)
        found = page.evaluate(f"(given) => JSON.stringify(({function})(given))", argument)  # NaN becomes null
        browser.close()
        return json.loads(found)


def points(content: dict, count: int) -> list[Scenario]:
    """Random points over everything that the page offers."""
    draw = random.Random(5)
    links = [*LINKS, *ALIASES, *load().links]
    found = []
    for n in range(count):
        model = draw.choice([*content["sizes"]])
        typed = f"{draw.uniform(0, 200):.3g}us+{draw.uniform(5, 900):.3g}GB/s{draw.choice(['', 'x2'])}"
        found.append(
            Scenario(
                model,
                draw.choice(wirings(content["sizes"][model]["layers"])),
                draw.choice([1, 2, 3, 4, 8, 12, 16, 32, 64]),
                draw.choice([1, 2, 7, 16, 64, 256]),
                draw.choice([1, 100, 1024, 8192]),
                draw.choice([2, 128, 512]),
                draw.choice([*DEVICES]),
                typed if n % 3 == 0 else draw.choice(links),
                draw.choice([*content["implementations"]]),
                draw.choice([1, 1, 2.7]),
            )
        )
    return found


def test_the_browser_computes_what_the_package_computes(request):
    calibration = load()
    content = json.loads(json.dumps(tables(calibration)))
    asked = points(content, 400)
    given = {"tables": content, "points": [point._asdict() for point in asked]}
    theirs = run((request.config.rootpath / SCRIPT).read_text(encoding="utf-8"), PREDICT, given)
    ours = predict(asked, calibration, intervals=True)
    intervals = {what: interval(ours, what, calibration) for what in ("tokens_per_s", "speedup")}
    for n, (point, found) in enumerate(zip(asked, theirs, strict=True)):
        for key in ("prefill", "step", "decode", "tokens_per_s", "speedup", "exposed", "memory"):
            assert found[key] == pytest.approx(getattr(ours, key)[n], rel=1e-6, abs=1e-12), (key, point)
        hidden = float("nan") if found["hidden"] is None else found["hidden"]
        assert hidden == pytest.approx(ours.hidden[n], rel=1e-6, abs=1e-6, nan_ok=True), point
        assert found["fits"] == ours.fits[n], point
        for what, (low, high) in intervals.items():
            assert found[f"{what}_interval"] == pytest.approx([low[n], high[n]], rel=1e-6), (what, point)
    assert {found["fits"] for found in theirs} == {True, False}


@pytest.mark.parametrize("layers", [16, 126])
def test_packed_orders_say_the_same(layers):
    for wiring in wirings(layers):
        text = packed(order(wiring, layers))
        assert len(text) < 40
        assert re.sub(r"\((\w+)\)(\d+)", lambda found: found[1] * int(found[2]), text) == order(wiring, layers)


def test_a_page_gets_an_element(tmp_path, capsys):
    out = tmp_path / "whatif.html"
    assert main(["simulate", "page", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert text.startswith('<script type="application/json" id="whatif-data">{')
    assert text.count("</") == 1
    assert len(text) < 120_000
    assert "whatif.html: " in capsys.readouterr().out
    assert main(["simulate", "page", "--out", str(tmp_path / "whatif.json")]) == 0
    whole = json.loads((tmp_path / "whatif.json").read_text(encoding="utf-8"))
    assert whole["calibration"]["name"] == load().name
    assert "tiny" not in whole["sizes"]
