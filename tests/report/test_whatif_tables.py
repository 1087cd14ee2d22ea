"""What the browser computes is what the package computes."""

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from ladder.cli import main
from ladder.devices import DEVICES
from ladder.links import ALIASES, LINKS
from ladder.model.shapes import FAMILIES, of_content, published
from ladder.report.whatif import WIRINGS, rows_of, shape, table1, tables
from ladder.schedule import order
from ladder.simulate.calibration import load
from ladder.simulate.model import Scenario, interval, predict

SCRIPTS = [f"site/assets/js/{name}.js" for name in ("schedule", "simulate", "shapes")]
CONFIGS = json.loads(Path("ladder/model/configs.json").read_text(encoding="utf-8"))
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


def source(request) -> str:
    return "".join((request.config.rootpath / script).read_text(encoding="utf-8") for script in SCRIPTS)


def wirings(layers: int) -> list[str]:
    first = layers - max(1, layers // 3)
    return [f"ladder@{first}-{layers - 1}" if name == "ladder@" else name for name in WIRINGS]


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
            )
        )
    return found


def test_the_browser_computes_what_the_package_computes(request):
    calibration = load()
    content = json.loads(json.dumps(tables(calibration)))
    asked = points(content, 400)
    given = {"tables": content, "points": [point._asdict() for point in asked]}
    theirs = run(source(request), PREDICT, given)
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


def test_the_browser_has_the_orders_of_the_package(request):
    asked = [(wiring, layers) for layers in (2, 16, 17, 126) for wiring in wirings(layers)]
    given = {"tables": tables(load()), "asked": asked}
    function = "({tables, asked}) => asked.map(([wiring, layers]) => simulator(tables).order(wiring, layers))"
    assert run(source(request), function, given) == [order(wiring, layers) for wiring, layers in asked]


# A config.json, or what is typed, to a row of the table of sizes, or what is wrong with it.
READ = """({tables, texts}) => {
  const {parsed, size} = shapes(tables.shapes);
  return texts.map((text) => { try { return size(parsed(text)); } catch (error) { return error.message; } });
}"""


def test_the_browser_reads_the_shapes_that_the_package_reads(request):
    plain = {"num_hidden_layers": 6, "hidden_size": 96, "num_attention_heads": 6, "intermediate_size": 160}
    plain |= {"vocab_size": 999, "num_key_value_heads": 2}
    odd = {"sliding_window": 64, "use_bias": True, "attention_bias": True, "mlp_bias": True}
    routed = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 2}
    routed |= {"shared_expert_intermediate_size": 64, "first_k_dense_replace": 1, "n_shared_experts": 1}
    configs = [*CONFIGS.values()]
    for name in FAMILIES:
        configs += [plain | {"model_type": name}, plain | odd | {"model_type": name}]
        configs += [plain | routed | {"model_type": name, "head_dim": 32}]
    given = {"tables": tables(load()), "texts": [json.dumps(config) for config in configs]}
    for config, theirs in zip(configs, run(source(request), READ, given), strict=True):
        ours = json.loads(json.dumps(shape(of_content(config, "here"))))
        assert ours | theirs | {"family": None} == ours | {"family": None}, config
        assert set(ours) - set(theirs) <= {"head_width", "parameters"}


REFUSED = {
    "": "paste",
    "{": "JSON",
    '{"model_type": "bloom"}': "bloom",
    '{"model_type": "deepseek_v3", "kv_lora_rank": 512}': "kv_lora_rank",
    "layers 64, breadth 4": "breadth",
    "layers 2, hidden 64, heads 4, vocab 100": "intermediate_size",
    "layers 2.5, hidden 64, heads 4, intermediate 128, vocab 100": "num_hidden_layers",
    "layers 2, hidden 65, heads 4, intermediate 128, vocab 100": "num_attention_heads",
    "layers 2, hidden 64, heads 4, intermediate 128, vocab 100, experts 8": "num_experts_per_tok",
}


def test_what_is_no_shape_is_refused_by_name(request):
    said = run(source(request), READ, {"tables": tables(load()), "texts": [*REFUSED]})
    assert [words for words, word in zip(said, REFUSED.values(), strict=True) if word not in words] == []
    typed = "layers: 64, hidden 5120, heads=64 kv_heads 8 head_dim 128 intermediate 25600 vocab 151936"
    (row,) = run(source(request), READ, {"tables": tables(load()), "texts": [typed]})
    assert (row["layers"], row["head"], row["kv_heads"]) == (64, 128, 8)
    assert row["layers"] == published()["qwen3-32b"].layers


def test_links_of_a_device_are_known():
    known = {*LINKS, *load().links}
    assert {name for row in DEVICES.values() for name in row.links} <= known
    assert all(row.links for row in DEVICES.values())
    assert not [name for name in ("l40s", "rtx-4090") if any("nvlink" in link for link in DEVICES[name].links)]


def test_table_1_has_the_published_the_logged_and_the_measured(request):
    rows = table1(rows_of(Path("reports/published")), Path("reports/measured"))
    places = [(row["at"]["model"], row["at"]["link"]) for row in rows]
    assert len(rows) == len(set(places)) == 12
    of = dict(zip(places, rows, strict=True))
    assert of["llama-3-8b", "nvlink"]["log"] == pytest.approx(of["llama-3-8b", "nvlink"]["published"], rel=0.01)
    assert of["paper-1b", "nvlink"]["here"]["value"] > 1
    assert of["llama-3-70b", "nvlink"]["here"] is None
    assert of["codellama-34b", "nvlink"]["reason"]


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
