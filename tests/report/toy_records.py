"""Plausible toy records, so that reports and the site can be tested without running the pipeline."""

import json
import math
import random
from pathlib import Path

from ladder.bench.schedule import length, schedule
from ladder.wiring import table

PROVENANCE = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "profile": "default",
    "config_digest": "c0ffee" * 10 + "c0ff",
    "command": "ladder ...",
    "hardware": "Toy CPU, 2 cores",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "started": "2026-01-01T00:00:00Z",
    "seconds": 12.5,
}
MODULES = [0.0011, 0.0014] * 8
LOSSES = {("tiny", "standard"): 5.40, ("tiny", "parallel"): 5.44, ("tiny", "ladder"): 5.41}
LOSSES |= {("tiny", "ladder-2"): 5.43, ("tiny", "partial"): 5.40, ("tiny", "spd"): 5.42, ("tiny", "desync-2x"): 5.44}
LOSSES |= {("tiny", "fal"): 5.39, ("tiny-larger", "ladder"): 5.33}
TIED = {"partial": 2, "spd": 2, "desync-2x": 2}  # and their number of ranks
# wiring: (perplexity as converted, adapted) over the original's
ADAPTED = {"standard": (None, 0.97), "ladder@5-9": (1.03, 0.975), "ladder@4-9": (1.05, 1.01), "ladder": (1.4, 1.08)}
ADAPTED |= {"spd@5-9": (1.02, 0.98)}
SCANNED = {"ladder": 1.9, "parallel-2norm": 1.7, "spd": 1.25, "desync-2x": 1.35}  # growth of the loss by layer
LAYERS = 10  # of the tiny model


def write(folder: Path, name: str, rows: list[dict], **extra) -> None:
    record = {"schema": 1, "provenance": PROVENANCE | {"mlflow_run_id": f"run-{name}"}, "rows": rows, **extra}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")


def training(folder: Path, stage: str, model: str, wiring: str, seed: int, loss: float, steps=120) -> None:
    name = f"{model}-{wiring}-s{seed}"
    what = {"stage": stage, "run": name, "model": model, "wiring": wiring, "seed": seed, "origin": "measured"}
    what |= {"variant": "pretrained" if stage == "pretrain" else "adapted", **ranks_of(wiring)}
    rows = [
        what | {"metric": "validation_loss", "value": loss, "unit": "nats", "stderr": 0.02, "n": 64},
        what | {"metric": "training_loss", "value": loss - 0.1, "unit": "nats"},
        what | {"metric": "tokens_per_second", "value": 9000.0 + seed, "unit": "tokens/s"},
        what | {"metric": "parameters", "value": 1.4e6, "unit": "1"},
        what | {"metric": "peak_memory", "value": 0.9, "unit": "GiB"},
    ]
    start = 7.6 if stage == "pretrain" else loss + 0.5
    curve = [
        {"step": s, "tokens": 1024 * s, "loss": loss + (start - loss) * math.exp(-s / 30)}
        for s in range(0, steps + 1, 20)
    ]
    points = [p | {"grad_norm": 1.0, "lr": 1e-3, "tokens_per_second": 9000.0} for p in curve[1:]]
    write(folder / stage, name, rows, curves={"training": points, "validation": curve})


def evaluation(
    folder: Path, model: str, wiring: str, variant: str, seed: int, perplexity: float, accuracy: float
) -> None:
    name = f"{model}-{wiring}-{variant}-s{seed}"
    what = {"stage": "evaluate", "run": name, "model": model, "wiring": wiring, "variant": variant, "seed": seed}
    what |= {"origin": "measured", "n": 40, **ranks_of(wiring)}
    ppl = what | {"task": "heldout_perplexity"}
    rows = [
        ppl | {"metric": "word_perplexity", "value": perplexity**6, "unit": "1/word"},
        ppl | {"metric": "byte_perplexity", "value": perplexity, "unit": "1/byte"},
        ppl | {"metric": "bits_per_byte", "value": 2.0, "unit": "bits"},
        what | {"task": "cloze", "metric": "acc", "value": accuracy, "unit": "fraction", "stderr": 0.03},
        what | {"task": "cloze", "metric": "acc_norm", "value": accuracy + 0.01, "unit": "fraction", "stderr": 0.03},
    ]
    draw = random.Random(f"{wiring}{variant}{seed}")
    cloze = [{"doc": i, "acc": float(draw.random() < accuracy), "acc_norm": 1.0} for i in range(40)]
    likelihoods = [-600 * math.log(perplexity) - draw.random() for _ in range(10)]
    words = [{"doc": i, "byte_perplexity": [value, 600]} for i, value in enumerate(likelihoods)]
    write(folder / "evaluate", name, rows, samples={"cloze": cloze, "heldout_perplexity": words})


def ranks_of(wiring: str) -> dict:
    """The column tp of a checkpoint whose wiring depends on it."""
    degree = TIED.get(wiring.partition("@")[0])
    return {"tp": degree} if degree else {}


def layers_of(count: int) -> str:
    last = LAYERS - 1
    return f"{last}" if count == 1 else f"{LAYERS - count}-{last}"


def sensitivity(folder: Path, seeds=(0,)) -> None:
    """Scans of the tiny model, from the last layer to the first."""
    for seed in seeds:
        what = {"stage": "sensitivity", "run": f"tiny-s{seed}", "model": "tiny", "variant": "converted", "seed": seed}
        rows = []
        for wiring, growth in SCANNED.items():
            here = what | {"wiring": wiring, "origin": "measured", **ranks_of(wiring)}
            changes = [0.001 * (growth**n - 1) + 0.002 * seed for n in range(LAYERS + 1)]
            for n, change in enumerate(changes):
                point = here | {"converted": n, "n": 24} | ({"layers": layers_of(n)} if n else {})
                spread = {"stderr": 0.002 if n else 0.0}
                rows.append(point | {"metric": "loss_change", "value": change, "unit": "nats", **spread})
                perplexity = math.exp(5.4 + change)
                rows.append(point | {"metric": "perplexity", "value": perplexity, "unit": "1", "stderr": 1.5})
            free = sum(change <= 0.01 for change in changes) - 1
            rows.append(here | {"metric": "free_layers", "value": free, "unit": "layers"})
        write(folder / "sensitivity", what["run"], rows)


def quality(folder: Path) -> None:
    for seed in (0, 1):
        for (model, wiring), loss in LOSSES.items():
            training(folder, "pretrain", model, wiring, seed, loss + 0.02 * seed)
            evaluation(
                folder, model, wiring, "pretrained", seed, math.exp((loss + 0.02 * seed) / 3), 0.35 + 0.01 * seed
            )
        original = math.exp((LOSSES["tiny", "standard"] + 0.02 * seed) / 3)
        for wiring, (converted, adapted) in ADAPTED.items():
            if converted:
                evaluation(folder, "tiny", wiring, "converted", seed, original * converted, 0.33)
            training(folder, "adapt", "tiny", wiring, seed, 4.1 + adapted / 10 + 0.01 * seed)
            evaluation(folder, "tiny", wiring, "adapted", seed, original * adapted, 0.36)


def speed(folder: Path, wirings=("standard", "parallel", "ladder", "upper_bound"), slower: dict | None = None) -> None:
    """Timings that follow the two-resource schedule; ``slower`` multiplies a wiring's seconds."""
    slower = slower or {}
    what = {"stage": "bench", "run": "paper-1b-8l-tp8-b1-emulated", "model": "paper-1b-8l", "seed": 0, "tp": 8}
    what |= {"batch": 1, "prompt": 32, "new_tokens": 60, "backend": "emulated", "origin": "emulated"}
    mean, rows, timelines = sum(MODULES) / len(MODULES), [], {}
    rows += [what | {"wiring": w, "metric": "all_reduces", "value": 16, "unit": "per step"} for w in wirings]
    for rho in (0.4, 0.8, 1.5):
        spans = {w: schedule(table(w, 8, 8), lambda n: MODULES[n], rho * mean) for w in wirings}
        seconds = {w: length(spans[w]) * slower.get(w, 1) for w in wirings}
        if rho == 0.8:
            timelines = {w: [named(s) for s in spans[w]] for w in wirings}
        for wiring in wirings:
            here = what | {"rho": rho, "link": f"emulated, serial, {rho:g} ms", "wiring": wiring}
            for phase, scale in (("prefill", 3.0), ("decode", 1.0)):
                rows += timings(here | {"phase": phase, "n": 59}, seconds, wiring, scale)
            value = 60 / (63 * seconds[wiring])
            rows.append(
                here | {"phase": "both", "metric": "tokens_per_second", "value": value, "unit": "tokens/s", "n": 59}
            )
    extra = {
        "timelines": timelines,
        "timeline_rho": 0.8,
        "module_seconds": {"decode": MODULES, "mean": sum(MODULES) / len(MODULES)},
    }
    write(folder / "bench", what["run"], rows, **extra)


def named(span: dict) -> dict:
    kind = ("attention", "mlp")[span["index"] % 2] if span["lane"] == "compute" else "all-reduce"
    layer = span["index"] // 2
    return {"lane": span["lane"], "name": f"{kind} {layer}", "layer": layer, "start": span["start"], "end": span["end"]}


def timings(here: dict, seconds: dict, wiring: str, scale: float) -> list[dict]:
    standard, silent, own = seconds["standard"], seconds["upper_bound"], seconds[wiring]
    hidden = (standard - own) / (standard - silent)
    rows = []
    for clock, name in (("", "wall"), ("_virtual", "virtual")):
        rows.append(here | around(f"seconds{clock}", scale * own, "s"))
        rows.append(here | around(f"speedup{clock}", standard / own, "x"))
        rows.append(here | around(f"hidden_{name}", hidden, "fraction"))
    return [*rows, here | {"metric": "hidden_schedule", "value": hidden, "unit": "fraction"}]


def around(metric: str, value: float, unit: str) -> dict:
    return {"metric": metric, "value": value, "low": value * 0.98, "high": value * 1.02, "unit": unit}


def ranks(folder: Path) -> None:
    what = {"stage": "bench", "run": "paper-1b-8l-tp2-b1-cpu", "model": "paper-1b-8l", "seed": 0, "tp": 2, "batch": 1}
    what |= {"prompt": 32, "new_tokens": 30, "backend": "gloo", "origin": "measured", "link": "loopback"}
    rows = []
    for i, wiring in enumerate(("standard", "parallel", "ladder", "upper_bound")):
        for phase in ("prefill", "decode"):
            here = what | {"wiring": wiring, "phase": phase, "n": 29}
            rows += [here | around("seconds", 0.1 - 0.01 * i, "s"), here | around("speedup", 1 + 0.1 * i, "x")]
        speed_ = {"phase": "both", "metric": "tokens_per_second", "value": 9.0 + i, "unit": "tokens/s"}
        rows.append(what | {"wiring": wiring} | speed_)
    write(folder / "bench", what["run"], rows)


def everything(folder: Path) -> Path:
    """One of each kind, as the default profile makes them, and a file that is no record."""
    quality(folder)
    sensitivity(folder)
    speed(folder)
    ranks(folder)
    (folder / "manifest.json").write_text('{"documents": 3}', encoding="utf-8")
    return folder
