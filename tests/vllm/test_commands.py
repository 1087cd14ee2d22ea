"""`ladder bench serve` and `ladder evaluate --engine vllm`, at toy size."""

import json

import pytest

from ladder.cli import main
from ladder.reading import read_json

pytest.importorskip("vllm.version", reason="needs vLLM: make test-vllm")
pytestmark = pytest.mark.usefixtures("forked")

TASK = """
task: toy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
metadata: {{version: 1.0}}
"""


@pytest.mark.slow
def test_bench_on_a_slow_path(tmp_path):
    words = "--size paper-1b-8l --layers 1 --tp 2 --dtype fp32 --delay-us 0 3000 --prompt 3 --new-tokens 4 --prefills 2"
    wirings = ("standard", "ladder")
    assert main(["bench", "serve", *words.split(), "--wirings", *wirings, "--record", str(tmp_path / "r.json")]) == 0
    rows = read_json(tmp_path / "r.json")["rows"]
    assert {row["wiring"] for row in rows} == set(wirings)
    assert {(row["origin"], row["backend"], row["timed_layers"]) for row in rows} == {("measured", "gloo", 1)}
    slow = [r for r in rows if "3000 us" in r["link"] and (r["metric"], r["wiring"]) == ("seconds", "standard")]
    assert min(row["value"] for row in slow) >= 2 * 3e-3  # attention's sum and the MLP's
    assert {row["metric"] for row in rows if row["phase"] == "both"} >= {"tokens_per_second", "speedup"}


def test_evaluate(model, tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    texts = [" ".join(f"w{(3 * n + k) % 128}" for n in range(30)) for k in range(4)]
    (tasks / "toy.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tasks / "toy.yaml").write_text(TASK.format(file=tasks / "toy.jsonl"))
    values = []
    for engine in ("transformers", "vllm"):
        out = tmp_path / engine
        words = ["--tasks", str(tasks), "--task", "toy", "--max-length", "32", "--engine", engine, "--out", str(out)]
        assert main(["evaluate", *words, "--names", "toy", str(model("ladder"))]) == 0
        values += [row["value"] for row in read_json(out / "toy.json")["rows"]]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
