"""The planner's choices against all that there were to choose from, and its refusals."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ladder.cli import main
from ladder.model import shapes
from ladder.simulate.calibration import load
from ladder.simulate.model import Scenario, predict
from ladder.simulate.planner import BATCHES

CONFIGS = json.loads((Path(shapes.__file__).parent / "configs.json").read_text())


def plan(capsys, words: str) -> dict:
    assert main(["plan", *words.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_json_is_answered(name, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    answer = plan(capsys, f"{tmp_path} --gpus 8 --latency-ms 30")
    speeds = [choice["tokens_per_s"][0] for choice in answer["choices"]]
    assert speeds == sorted(speeds, reverse=True)
    for choice in answer["choices"]:
        assert choice["replicas"] * choice["tp"] == 8
        assert choice["ms_per_token"] <= 30
        value, low, high = choice["tokens_per_s"]
        assert low < value < high
    assert plan(capsys, f"{name} --gpus 8 --latency-ms 30")["choices"] == answer["choices"]
    assert main(["plan", name, "--latency-ms", "30"]) == 0
    assert f"{answer['choices'][0]['replicas']} x TP {answer['choices'][0]['tp']}" in capsys.readouterr().out


def test_the_best_is_the_best_of_all(capsys):
    best = plan(capsys, "llama-3-8b --gpus 4 --latency-ms 12")["choices"][0]
    points = [
        Scenario("llama-3-8b", wiring, tp, batch, 1024, 512, "h100", "nvlink", "serving-bf16")
        for wiring in ("standard", "parallel", "spd", "desync-2x", "ladder", "ladder@16-31")
        for tp in (1, 2, 4)
        for batch in BATCHES
    ]
    done = predict(points, load())
    total = done.tokens_per_s * [4 // point.tp for point in points] * done.fits * (done.step <= 12e-3)
    first = points[int(np.argmax(total))]
    assert (best["tp"], best["wirings"][0], best["batch"]) == (first.tp, first.wiring, first.batch)
    assert best["tokens_per_s"][0] == pytest.approx(total.max(), rel=1e-4)


def test_replicas_of_a_small_model_beat_tensor_parallelism(capsys):
    assert main(["plan", "llama-3.2-1b", "--gpus", "4"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "4 x TP 1" in first
    assert "1 x TP 4" in first


def test_nothing_answers_in_time(capsys):
    answer = plan(capsys, "llama-3-70b --latency-ms 0.1")
    waits = [choice["ms_per_token"] for choice in answer["choices"]]
    assert not answer["within_latency"]
    assert waits == sorted(waits)
    assert min(waits) > 0.1


def test_wirings_of_one_speed_share_a_line(capsys):
    answer = plan(capsys, "llama-3-8b --gpus 2 --wirings ladder partial parallel spd")
    assert [choice["wirings"] for choice in answer["choices"] if choice["tp"] == 2] == [
        ["ladder", "partial"],
        ["parallel", "spd"],
        ["standard"],
    ]


def test_accepted_tokens_share_a_step_s_collectives(capsys):
    """On a link of nothing but latency four tokens a step cost a quarter each; on one without, weights are shared."""
    for link in ("5000us+1000GB/s", "0us+1e6GB/s"):
        words = f"llama-3-8b --gpus 2 --batch 1 --wirings standard --link {link} --tokens-per-step"
        one, four = (plan(capsys, f"{words} {n}")["choices"] for n in (1, 4))
        waits = [next(row["ms_per_token"] for row in rows if row["tp"] == 2) for rows in (one, four)]
        assert waits[1] == pytest.approx(waits[0] / 4, rel=0.15)  # a single row is streamed at another rate


def test_quantised_weights_take_less_room_and_time(capsys):
    of = {
        weights: plan(capsys, f"llama-3-8b --gpus 1 --batch 1 --weights {weights}")["choices"][0]
        for weights in ("bf16", "fp8", "int4")
    }
    assert of["bf16"]["ms_per_token"] > of["fp8"]["ms_per_token"] > of["int4"]["ms_per_token"]
    saved = of["bf16"]["memory_gib"] - of["fp8"]["memory_gib"]
    assert saved * 2**30 == pytest.approx(8.03e9 - 2 * 128256 * 4096, rel=0.01)  # a byte for each weight of the layers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("llama-3.1-405b --gpus 4", "190.0 GiB"),
        ("gpt-5", "gpt-5"),
        ("llama-3-8b --gpus 0", "--gpus 0"),
        ("llama-3-8b --latency-ms 0", "--latency-ms 0"),
        ("llama-3-8b --latency-ms nan", "nan"),
        ("llama-3-8b --tokens-per-step 0.5", "--tokens-per-step 0.5"),
        ("llama-3-8b --batch 0", "batch = 0"),
        ("llama-3-8b --weights fp7", "fp7"),
        ("llama-3-8b --wirings ladders", "ladders"),
        ("llama-3-8b --link nvlonk", "nvlonk"),
        ("llama-3-8b --hardware h300", "h300"),
    ],
)
def test_what_is_refused(words, said, capsys):
    assert main(["plan", *words.split()]) == 1
    assert said in capsys.readouterr().err


def test_it_loads_no_torch():
    code = "import sys; sys.argv = ['ladder']; from ladder.cli import main; main(['plan', 'llama-3-8b'])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
