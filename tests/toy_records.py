"""Plausible toy records, so that reports and the site can be tested without running the pipeline."""

import json
import math
import random
from pathlib import Path

from ladder.schedule import length, timeline
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
METHODS = {"ladder": {"distilled": 1.02, "progressive": 1.1}}  # adapted in other ways
SCANNED = {"ladder": 1.9, "parallel-2norm": 1.7, "spd": 1.25, "desync-2x": 1.35}  # growth of the loss by layer
LAYERS = 10  # of the tiny model


def write(folder: Path, name: str, rows: list[dict], provenance: dict | None = None, **extra) -> None:
    made = PROVENANCE | {"mlflow_run_id": f"run-{name}"} | (provenance or {})
    record = {"schema": 1, "provenance": made, "rows": rows, **extra}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")


def training(
    folder: Path, stage: str, model: str, wiring: str, seed: int, loss: float, steps=120, variant=None
) -> None:
    name = f"{model}-{wiring}-{variant}-s{seed}" if variant else f"{model}-{wiring}-s{seed}"
    what = {"stage": stage, "run": name, "model": model, "wiring": wiring, "seed": seed, "origin": "measured"}
    what |= {"variant": variant or ("pretrained" if stage == "pretrain" else "adapted"), **ranks_of(wiring)}
    rows = [
        what | {"metric": "validation_loss", "value": loss, "unit": "nats", "stderr": 0.02, "n": 64},
        what | {"metric": "training_loss", "value": loss - 0.1, "unit": "nats"},
        what | {"metric": "tokens_per_second", "value": 9000.0 + seed, "unit": "tokens/s"},
        what | {"metric": "parameters", "value": 1.4e6, "unit": "1"},
        what | {"metric": "peak_memory", "value": 0.9, "unit": "GiB"},
    ]
    if variant == "distilled":
        rows.append(what | {"metric": "validation_kl", "value": 0.02, "unit": "nats"})
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


def layers_of(count: int, layers: int = LAYERS) -> str:
    last = layers - 1
    return f"{last}" if count == 1 else f"{layers - count}-{last}"


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
                for metric, layer, cost in (("alone", LAYERS - n, change / 3), ("chosen", LAYERS - n, change / 2)):
                    one = {"layers": f"{layer}"} if metric == "alone" else {"added": layer}
                    scanned = point | {"metric": f"loss_change_{metric}", "value": cost, "unit": "nats", **spread}
                    rows += [scanned | one | ({"converted": 1} if metric == "alone" else {})] if n else []
            free = sum(change <= 0.01 for change in changes) - 1
            rows.append(here | {"metric": "free_layers", "value": free, "unit": "layers"})
        write(folder / "sensitivity", what["run"], rows)


def real(folder: Path) -> None:
    """A model that was trained elsewhere: its scan, one distillation, three evaluations."""
    chosen = {"model": "smollm2", "wiring": "ladder@1-15", "origin": "measured", "seed": 0}
    rows = []
    for n in range(31):
        point = chosen | {"stage": "sensitivity", "wiring": "ladder", "converted": n, "unit": "nats", "stderr": 0.01}
        rows.append(point | {"metric": "loss_change", "value": 0.08 * n} | ({"layers": layers_of(n, 30)} if n else {}))
        if n:
            rows.append(point | {"metric": "loss_change_chosen", "value": 0.03 * n, "layers": f"1-{n}", "added": n})
    rows.append(rows[0] | {"metric": "free_layers", "value": 0, "unit": "layers"})
    write(folder / "sensitivity", "smollm2", rows)
    what = chosen | {"stage": "adapt", "run": "smollm2", "variant": "distilled"}
    curve = [{"step": n, "tokens": 512 * n, "loss": 4 - 0.1 * n, "kl": 1 - 0.1 * n} for n in range(5)]
    write(folder / "adapt", "smollm2", [what | around("validation_kl", 0.6, "nats")], curves={"validation": curve})
    for variant, accuracy in (("original", 0.65), ("converted", 0.58), ("distilled", 0.63)):
        here = chosen | {"stage": "evaluate", "run": variant, "variant": variant, "task": "piqa", "metric": "acc_norm"}
        here |= {"wiring": "standard"} if variant == "original" else {}
        write(
            folder / "evaluate", f"smollm2-{variant}", [here | {"value": accuracy, "unit": "fraction", "stderr": 0.04}]
        )


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
            for variant, factor in METHODS.get(wiring, {}).items():
                training(folder, "adapt", "tiny", wiring, seed, 4.1 + factor / 10 + 0.01 * seed, variant=variant)
                evaluation(folder, "tiny", wiring, variant, seed, original * factor, 0.36)


ALL = ("standard", "parallel", "ladder", "upper_bound")
FAST = {"eager": 1.0, "compiled": 0.8, "graphs": 0.5}  # seconds over eager's


def timed(what: dict, wirings, modules: list[float], reduce: float, slower: dict, link: str, rho=None) -> list[dict]:
    """Rows of one link: what the two-resource schedule says of modules of these seconds; ``slower`` multiplies a
    wiring's seconds."""
    depth = len(modules) // 2
    spans = {w: timeline(table(w, depth, what["tp"]), lambda n: modules[n], reduce) for w in wirings}
    seconds = {w: length(spans[w]) * slower.get(w, 1) for w in wirings}
    rows = []
    for wiring in wirings:
        here = what | {"link": link, "wiring": wiring} | ({} if rho is None else {"rho": rho})
        for phase, scale in (("prefill", 3.0), ("decode", 1.0)):
            rows += timings(here | {"phase": phase, "n": 59}, seconds, wiring, scale)
        value = what["batch"] * 60 / (63 * seconds[wiring])
        both = here | {"phase": "both", "unit": "tokens/s", "n": 59}
        rows.append(both | {"metric": "tokens_per_second", "value": value})
        rows.append(both | {"metric": "tokens_per_second_per_gpu", "value": value / what["tp"]})
        host = {"phase": "decode", "metric": "host_seconds", "value": 0.015 * seconds[wiring], "unit": "s"}
        rows.append(here | host)
        fraction = 0.9 * seconds["upper_bound"] / seconds[wiring]
        rows.append(here | {"phase": "decode"} | around("roofline_fraction", fraction, "fraction"))
    return rows


def rank(name: str, **changes) -> dict:
    what = {"stage": "bench", "run": name, "model": "paper-1b-8l", "seed": 0, "tp": 8, "batch": 1, "prompt": 32}
    what |= {"new_tokens": 60, "backend": "emulated", "origin": "emulated", "dtype": "fp32", "compute": "compiled"}
    return what | changes


def shared(what: dict, wirings) -> list[dict]:
    """Rows that hold for all links of a record."""
    plain = {key: value for key, value in what.items() if key != "compute"}
    rows = [plain | {"wiring": w, "metric": "all_reduces", "value": 16, "unit": "per step"} for w in wirings]
    plain |= {"origin": "measured", "backend": "none"}
    rows.append(plain | around("copy_bandwidth", 2e10, "bytes/s"))
    rows.append(plain | {"phase": "decode", "metric": "step_bytes", "value": 3e8, "unit": "bytes"})
    return [*rows, plain | {"wiring": "standard", "metric": "memory_bytes", "value": 9e8, "unit": "bytes"}]


def speed(folder: Path, wirings=ALL, slower: dict | None = None, rhos=(0.05, 0.4, 0.8, 1.5)) -> None:
    """An emulated rank on links set by rho, eager and compiled; a record a link."""
    mean = sum(MODULES) / len(MODULES)
    for rho in rhos:
        what = rank(f"paper-1b-8l-tp8-b1-p32-n60-fp32-rho{rho:g}")
        rows, link = shared(what, wirings), f"emulated, serial, {1e3 * rho * mean:.2f} ms"
        for compute in ("eager", "compiled"):
            here, modules = what | {"compute": compute}, [FAST[compute] * s for s in MODULES]
            found = timed(here, wirings, modules, FAST[compute] * rho * mean, slower or {}, link, rho)
            rows += [row for row in found if told(row, rho)]
        gain = what | {"rho": rho, "link": link, "phase": "decode"}
        rows += [gain | {"wiring": w} | around("compile_speedup", 1.25, "x") for w in wirings]
        spans = {w: timeline(table(w, 8, 8), lambda n: MODULES[n], rho * mean) for w in wirings}
        extra = {"timelines": {w: [named(s) for s in found] for w, found in spans.items()}, "timeline_rho": rho}
        extra["module_seconds"] = {"decode": MODULES, "mean": mean}
        write(folder / "bench", what["run"], rows, **extra)


def told(row: dict, rho: float) -> bool:
    """Shares hidden are not told where the link is too fast for them."""
    return rho >= 0.2 or not row["metric"].startswith("hidden")


def shapes(folder: Path) -> None:
    """Sweeps over batch and TP degree, a hybrid, and a larger ladder."""
    modules, mean = [FAST["compiled"] * s for s in MODULES], FAST["compiled"] * sum(MODULES) / len(MODULES)
    link = "emulated, serial, 1.00 ms + 10.00 GB/s"
    for batch in (1, 4, 16, 64):
        what = rank(f"paper-1b-8l-tp8-b{batch}-sweep", batch=batch, prompt=16)
        slow = [s * (1 + batch / 20) for s in modules]
        rho = 0.8 if batch == 1 else None  # it is said of the first point only
        write(folder / "bench", what["run"], timed(what, ALL, slow, 1e-3, {}, link, rho))
    for tp in (2, 4, 8):
        what, rho = rank(f"paper-1b-8l-tp{tp}-sweep", tp=tp, prompt=24), 0.8 if tp == 2 else None
        rows = timed(what, ALL, [s * 8 / tp for s in modules], 1e-3, {}, link, rho)
        write(folder / "bench", what["run"], rows)
    what, wirings = rank("paper-1b-8l-hybrid"), ("standard", "ladder@4-7", "ladder", "upper_bound")
    write(folder / "bench", what["run"], timed(what, wirings, modules, 0.8 * mean, {}, "emulated, serial", 0.8))
    for model, layers in (("paper-1b", 40), ("paper-1b-larger", 52)):
        what = rank(model, model=model)
        rho = 0.8 if layers == 40 else None
        rows = timed(what, ALL, modules[:2] * layers, 0.8 * mean, {}, "emulated, serial", rho)
        write(folder / "bench", what["run"], rows)


GPU = {"hardware": "1 x NVIDIA H200", "profile": None, "config_digest": None, "commit": "f" * 40}


def kept(folder: Path, parallel: float = 1.0) -> Path:
    """Records of other hardware, as the repository keeps them; ``parallel``: on parallel's seconds at batch 64."""
    modules = [10e-6, 50e-6] * 80
    for batch in (1, 4, 16, 64):
        what = rank(f"llama-3-70b-tp8-b{batch}", model="llama-3-70b", batch=batch, prompt=1024, new_tokens=512)
        what |= {"dtype": "bf16", "compute": "graphs"}
        slow = [s * (1 + batch / 40) for s in modules]
        faster = {"parallel": parallel} if batch == 64 else {}
        rows = timed(what, ALL, slow, 24e-6, faster, "h100-nvlink") + shared(what, ALL)
        write(folder / "nvidia-h200", what["run"], rows, provenance=GPU)
    what = rank(
        "llama-3.1-8b-tp1", model="llama-3.1-8b", tp=1, prompt=1024, new_tokens=512, dtype="bf16", origin="measured"
    )
    what |= {"compute": "graphs", "backend": "none"}
    rows = timed(what, ("standard", "upper_bound"), [20e-6, 90e-6] * 32, 0.0, {}, "none") + shared(what, ("standard",))
    library = what | {"compute": "transformers", "wiring": "standard", "phase": "decode", "n": 59}
    rows.append(library | around("seconds", 0.007, "s"))
    write(folder / "nvidia-h200", what["run"], rows, provenance=GPU)
    network(folder)
    study(folder / "nvidia-h200" / "longer")
    return folder


def study(folder: Path) -> None:
    """A training that is kept: the same model and seeds as :func:`quality`, other numbers."""
    for seed in (0, 1):
        for wiring, loss in (("standard", 2.5), ("parallel", 2.6), ("ladder", 2.51)):
            training(folder, "pretrain", "tiny", wiring, seed, loss + 0.02 * seed, steps=1200)
            evaluation(folder, "tiny", wiring, "pretrained", seed, math.exp(loss / 3), 0.5)
        for variant, factor in (("converted", 1.2), ("adapted", 1.1), ("distilled", 1.05)):
            evaluation(folder, "tiny", "ladder", variant, seed, math.exp(2.5 / 3) * factor, 0.45)
            if variant != "converted":
                training(folder, "adapt", "tiny", "ladder", seed, 2.7, variant=variant)


def network(folder: Path, off: float = 1.04) -> None:
    """The emulated link against a real slow network; ``off``: emulated over real."""
    what = {"stage": "bench", "run": "network", "model": "paper-1b-8l", "seed": 0, "tp": 2, "batch": 1, "prompt": 32}
    what |= {"new_tokens": 60, "dtype": "fp32", "compute": "eager", "phase": "decode", "n": 50}
    rows = []
    for delay in (100, 250):
        for i, wiring in enumerate(ALL):
            here = what | {"wiring": wiring, "link": f"two namespaces, {delay} us one way"}
            real = {"origin": "measured", "backend": "gloo"} | around("seconds", 0.03 - 0.005 * i + 1e-5 * delay, "s")
            rows.append(here | real)
            for way, factor in (("2 in flight", off), ("serial", 1.3)):
                guess = here | {"origin": "emulated", "backend": "emulated", "link": f"{here['link']}: emulated, {way}"}
                rows.append(guess | around("seconds", factor * real["value"], "s"))
                rows.append(guess | around("emulated_over_real", factor, "x"))
    write(folder / "small-cpu", "network", rows)


def named(span: dict) -> dict:
    kind = ("attention", "mlp")[span["index"] % 2] if span["lane"] == "compute" else "all-reduce"
    layer = span["index"] // 2
    return {"lane": span["lane"], "name": f"{kind} {layer}", "layer": layer, "start": span["start"], "end": span["end"]}


def timings(here: dict, seconds: dict, wiring: str, scale: float) -> list[dict]:
    standard, silent, own = seconds["standard"], seconds["upper_bound"], seconds[wiring]
    hidden = (standard - own) / (standard - silent) if standard > silent else None
    rows = []
    for clock, name in (("", "wall"), ("_virtual", "virtual")):
        rows.append(here | around(f"seconds{clock}", scale * own, "s"))
        rows.append(here | around(f"speedup{clock}", standard / own, "x"))
        rows += [] if hidden is None else [here | around(f"hidden_{name}", hidden, "fraction")]
    schedule_ = {"metric": "hidden_schedule", "value": hidden, "unit": "fraction"}
    return rows if hidden is None else [*rows, here | schedule_]


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
    real(folder)
    speed(folder)
    shapes(folder)
    ranks(folder)
    (folder / "manifest.json").write_text('{"documents": 3}', encoding="utf-8")
    return folder
