"""How to serve a model on the GPUs at hand: replicas or tensor parallelism, which wiring, which batch. Nothing is run.

    ladder plan qwen3-32b --gpus 8 --hardware h100 --link nvlink --latency-ms 20
    ladder plan path/to/config.json --gpus 4 --hardware rtx-pro-6000 --link pcie5-p2p --weights fp8

MODEL is a name of the tables of sizes, a config.json, or a folder that holds one; hardware and links are those of
`ladder simulate`. A choice is so many replicas of one TP degree with one wiring, and the batch with which it gives most
tokens/s, prefill included, while a user waits at most --latency-ms for a token of decode. The best stands first, and
wirings of one speed share a line. What a wiring would take was published of some model; yours may need more or less.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ladder.cost import CONTEXT, GIB
from ladder.errors import UserError
from ladder.outputs import path_or_name
from ladder.schedule import order
from ladder.simulate.calibration import DEFAULT, Calibration, find_device, load
from ladder.simulate.crossings import ratio, short, shortened
from ladder.simulate.implementation import WEIGHTS
from ladder.simulate.model import Scenario, interval, predict, shape_of
from ladder.simulate.points import LIMITS, check, check_degree
from ladder.simulate.run import aligned
from ladder.wiring import Wiring, split_name

WIRINGS = ("standard", "parallel", "spd", "desync-2x", "ladder@{half}-{last}", "ladder")
BATCHES = tuple(sorted({round(2 ** (n / 8)) for n in range(81)}))  # 1 to 1024
FROM_SCRATCH = "105B tokens from scratch (1.2B and 3.5B, arXiv 2501.06589, Table 3)"
TAKES = {  # what is published of the training that a wiring needs, all layers or (name@) part of them
    "standard": "nothing",
    "ladder@": "3B tokens of finetuning for half of an 8B's layers (arXiv 2501.06589, Table 4)",
    "ladder": "500M tokens of distillation cost a 30B 7.7 points, budgets not given cost 16B to 109B models 0.9 "
    f"(FarSkip-Collective, AMD 2025); or {FROM_SCRATCH}",
    "parallel": f"{FROM_SCRATCH}; no conversion is published",
    "spd": "nothing for 75 % of a 70B's layers, distillation for the others and for smaller models (arXiv 2502.20727)",
}
UNKNOWN = "not published"
COLUMNS = ("replicas x TP", "wiring", "batch", "ms a token", "tokens/s a user", "tokens/s a GPU [90 %]")
COLUMNS += ("over standard [90 %]", "GiB", "layers to convert")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=path_or_name, metavar="MODEL", help="a known size, or a config.json or its folder"
    )
    parser.add_argument("--gpus", type=int, default=8, help="all there are (default: %(default)s)")
    parser.add_argument("--hardware", default="h100", help="row of the table of devices (default: %(default)s)")
    parser.add_argument(
        "--link", type=path_or_name, default="nvlink", help="between the GPUs of a replica (default: %(default)s)"
    )
    parser.add_argument("--latency-ms", type=float, help="the longest that a user waits for a token (default: any)")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES), help="sequences at once in a replica")
    parser.add_argument("--prompt", type=int, default=1024, help="prompt tokens (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=512, help="tokens to generate (default: %(default)s)")
    parser.add_argument(
        "--tokens-per-step",
        type=float,
        default=1.0,
        help="accepted in a decode step of speculative decoding; the draft is not counted (default: %(default)s)",
    )
    parser.add_argument("--weights", choices=list(WEIGHTS), default="bf16", help="of the layers (default: %(default)s)")
    parser.add_argument("--wirings", nargs="+", default=list(WIRINGS), metavar="WIRING", help="default: %(default)s")
    parser.add_argument("--calibration", type=Path, default=DEFAULT, metavar="JSON", help="of `ladder calibrate`")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def main(args: argparse.Namespace) -> None:
    answer = plan(args, load(args.calibration))
    print(json.dumps(answer, indent=1, ensure_ascii=False) if args.json else text(answer))


def scenarios(args: argparse.Namespace, calibration: Calibration) -> tuple[list[Scenario], dict[str, list[str]]]:
    """(all that may be chosen, checked: TP degrees that the model and the GPUs allow, wirings, batches; the wirings of
    one speed by the first of them)."""
    if not 1 <= args.gpus <= LIMITS["tp"][1]:
        raise UserError(f"--gpus {args.gpus} must be 1 to {LIMITS['tp'][1]}")
    if not 1 <= args.tokens_per_step <= 64:
        raise UserError(f"--tokens-per-step {args.tokens_per_step:g} must be 1 to 64")
    if args.latency_ms is not None and not args.latency_ms > 0:
        raise UserError(f"--latency-ms {args.latency_ms:g} must be above 0")
    shape = shape_of(args.model)
    how = f"serving-{args.weights}"
    rest = (args.prompt, args.new_tokens, args.hardware, args.link, how, args.tokens_per_step)
    first = Scenario(args.model, "standard", 1, 1, *rest)
    batches = [check(first._replace(batch=batch), calibration).batch for batch in sorted(set(args.batch))]
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(("standard", *args.wirings)):
        wiring = name.format(half=shape.layers // 2, last=shape.layers - 1)
        check(first._replace(wiring=wiring), calibration)
        alike.setdefault(order(wiring, shape.layers), []).append(wiring)
    same = {names[0]: names for names in alike.values()}
    found = []
    for tp in (n for n in range(1, args.gpus + 1) if not args.gpus % n or not n & (n - 1)):
        try:
            check_degree(shape, tp, args.model)
        except UserError:
            continue
        for wiring in same if tp > 1 else ["standard"]:
            found += [first._replace(tp=tp, wiring=wiring, batch=batch) for batch in batches]
    return found, same


def plan(args: argparse.Namespace, calibration: Calibration) -> dict:
    """The choices, best first, as plain values. Raises UserError where the model does not fit at all."""
    points, same = scenarios(args, calibration)
    done = predict(points, calibration)
    if not done.fits.any():
        n = int(done.memory.argmin())
        room = find_device(args.hardware, calibration).memory_bytes - CONTEXT
        raise UserError(
            f"{args.model} does not fit: at TP {points[n].tp} and batch {points[n].batch} a rank needs "
            f"{done.memory[n] / GIB:.1f} GiB, and {args.hardware} has {room / GIB:.1f}; take more --gpus, a smaller "
            "--batch or --prompt, or --weights int4"
        )
    ms = 1e3 * done.step / args.tokens_per_step
    quick = done.fits & (ms <= (args.latency_ms or np.inf))
    total = [args.gpus // point.tp * speed for point, speed in zip(points, done.tokens_per_s, strict=True)]
    score = np.where(quick, total, 0.0) if quick.any() else np.where(done.fits, 1 / ms, 0.0)
    best: dict[tuple, int] = {}
    for n in sorted(np.flatnonzero(score), key=lambda n: -score[n]):
        best.setdefault((points[n].tp, points[n].wiring), int(n))
    question = {key: value for key, value in vars(args).items() if key not in ("json", "calibration", "batch")}
    answer = {"question": question, "within_latency": bool(quick.any()), "origin": "simulated"}
    choices = described([points[n] for n in best.values()], same, args.gpus, calibration)
    return answer | {"calibration": calibration.name, "choices": choices}


def described(points: Sequence[Scenario], same: dict, gpus: int, calibration: Calibration) -> list[dict]:
    """What is predicted of each choice; of ``over_standard``, the ratio to the first standard one, with its interval.

    tokens_per_s: of all GPUs. takes: by wiring, what converting its layers took elsewhere.
    """
    done = predict(points, calibration, intervals=True)
    replicas = np.array([gpus // point.tp for point in points])
    logs = done.logs["tokens_per_s"] + np.log(replicas)
    base = next((n for n, point in enumerate(points) if point.wiring == "standard"), 0)
    over = ratio(logs, logs[:, [base]], done, calibration)
    total = replicas * np.stack([done.tokens_per_s, *interval(done, "tokens_per_s", calibration)])
    layers = shape_of(points[0].model).layers
    found = []
    for n, point in enumerate(points):
        ms = 1e3 * done.step[n] / point.tokens_per_step
        name, part = split_name(point.wiring)
        takes = {wiring: TAKES.get(f"{name}@" if part else wiring, UNKNOWN) for wiring in same[point.wiring]}
        row = {"replicas": int(replicas[n]), "tp": point.tp, "wirings": same[point.wiring], "batch": point.batch}
        row |= {"ms_per_token": short(ms), "tokens_per_s_per_user": short(1e3 / ms)}
        row |= {"tokens_per_s": shortened(total[:, n]), "tokens_per_s_per_gpu": shortened(total[:, n] / gpus)}
        row |= {"over_standard": shortened(over[:, n]), "memory_gib": short(done.memory[n] / GIB)}
        count = 0 if name == "standard" else len(Wiring.parse(point.wiring).members(layers))
        found.append(row | {"layers_converted": count, "layers": layers, "takes": takes})
    return found


def verdict(answer: dict) -> list[str]:
    """The answer in words; replicas against tensor parallelism first."""
    choices, most = answer["choices"], max(row["tp"] for row in answer["choices"])
    best = choices[0]
    other = next((row for row in choices if (row["tp"] == most) != (best["tp"] == most)), None)
    gain = best["tokens_per_s"][0] / other["tokens_per_s"][0] if other else 1.0
    if not answer["within_latency"]:
        bound, fastest = answer["question"]["latency_ms"], best["ms_per_token"]
        first = f"Nothing answers within {bound:g} ms a token; the fastest, {called(best)}, takes {fastest:.3g}."
    elif other is None:
        first = f"{called(best)}: no other TP degree splits this model, fits and answers in time."
    else:
        less = "Less TP gives more" if best["tp"] < most else "Most TP gives most"
        first = f"{less}: {called(best)} has {gain:.2f} times the tokens/s of {called(other)}."
    second = f"{called(best)}, {best['wirings'][0]}, batch {best['batch']}: {number(best['tokens_per_s'][0])} tokens/s "
    second += f"in total, {number(best['tokens_per_s_per_user'])} a user."
    plain = next((row for row in choices if row["wirings"][0] == "standard"), best)
    if plain is best:
        return [first, f"{second} No other wiring gives more."]
    value, low, high = best["over_standard"]
    third = (
        f"The best standard choice, {called(plain)}, gives {number(plain['tokens_per_s'][0])}: {value:.2f} times as "
    )
    third += f"much [{low:.2f}, {high:.2f}]" + (", which may be nothing: keep the model as it is." if low <= 1 else ".")
    return [first, second, third]


def called(choice: dict) -> str:
    return f"{choice['replicas']} x TP {choice['tp']}"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def text(answer: dict) -> str:
    """The answer for people: the verdict, the table, what it would take."""
    question, choices = answer["question"], answer["choices"]
    takes = dict.fromkeys(words for row in choices if row["layers_converted"] for words in row["takes"].values())
    notes = {words: f"[{n}]" for n, words in enumerate(takes, 1)}
    rows = [COLUMNS]
    for row in choices:
        value, low, high = map(number, row["tokens_per_s_per_gpu"])
        gain, least, most = row["over_standard"]
        marks = "".join(notes[words] for words in dict.fromkeys(row["takes"].values()) if words in notes)
        converts = f"{row['layers_converted']} of {row['layers']} {marks}" if row["layers_converted"] else "none"
        cells = (f"{row['replicas']} x {row['tp']}", ", ".join(row["wirings"]), f"{row['batch']}")
        cells += (f"{row['ms_per_token']:.3g}", number(row["tokens_per_s_per_user"]), f"{value} [{low}, {high}]")
        rows.append((*cells, f"{gain:.2f} [{least:.2f}, {most:.2f}]", f"{row['memory_gib']:.1f}", converts))
    bound = "at any latency" if question["latency_ms"] is None else f"at most {question['latency_ms']:g} ms a token"
    about = f"{question['model']}, {question['weights']}, on {question['gpus']} x {question['hardware']} over "
    about += f"{question['link']}, {bound}; {question['prompt']} prompt and {question['new_tokens']} new tokens"
    about += f", {question['tokens_per_step']:g} a step" if question["tokens_per_step"] > 1 else ""
    notes_ = [f"{mark} {words}" for words, mark in notes.items()]
    end = f"simulated: nothing was run (calibration: {answer['calibration']}); brackets are 90 % intervals."
    return "\n".join([*verdict(answer), "", about, *aligned(rows), *notes_, end])
