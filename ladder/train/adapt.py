"""Adapt a converted checkpoint: distil the original into it, finetune it, or rewire it step by step.

Reads a checkpoint directory, and plain text, tokens of `ladder tokens` or conversations of `ladder chat`; writes the
adapted model OUT as a Hugging Face directory, and a record with losses, speed and curves. The original that is
distilled is the checkpoint itself, wired as it was before its conversion. Of conversations finetuning counts the
assistant's tokens only; those packed into a row do not see each other. Killed, the same command goes on from its last
checkpoint.

  ladder adapt converted adapted --method distill --text books.txt --minutes 10
  ladder adapt converted adapted --chat build/chat --steps 200
  ladder adapt converted adapted --method progressive --group 2 --teacher original --chat build/chat --patience 5
"""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import ladder.job
import ladder.options
from ladder.errors import UserError
from ladder.files import sha256
from ladder.outputs import OutputFile, path_or_name
from ladder.reading import jsonl_rows, read_json
from ladder.train import options as training
from ladder.train.methods import METHODS, Recipe

PROBE = 8  # tokens
WARMUP = 5  # steps, or all of fewer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="directory of `ladder convert` or `ladder pretrain`")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, nargs="+", help="files or directories of .txt, .md, .jsonl or .parquet")
    source.add_argument("--tokens", type=Path, help="directory of `ladder tokens`")
    source.add_argument("--chat", type=Path, help="directory of `ladder chat`")
    parser.add_argument("--text-field", default="text", help="the column that holds the text (default: text)")
    parser.add_argument(
        "--chat-template",
        type=path_or_name,
        help="llama3, chatml or a jinja file, in place of the checkpoint's own",
    )
    parser.add_argument("--record", action=OutputFile, help="JSON record to write")
    ladder.job.add_arguments(parser, record=False)
    ladder.options.add_arguments(parser.add_argument_group("method"), Recipe)
    usual = {"steps": 25, "warmup": None, "weight_decay": 0.0, "evaluate_every": 5, "checkpoint_every": 25}
    training.add_arguments(parser, work=False, **usual, lr=None, precision="auto")


def main(args: argparse.Namespace) -> None:
    recipe = ladder.options.of(Recipe, args)
    args.lr = args.lr or METHODS[recipe.method].lr
    args.warmup = min(WARMUP, args.steps) if args.warmup is None else args.warmup
    args.work = args.work or Path(f"{args.out}.work")
    options = ladder.options.of(training.Options, args)
    options.check()
    if options.minutes and METHODS[recipe.method].grouped:
        raise UserError(f"--minutes {options.minutes:g}: the phases of --method {recipe.method} need --steps")
    from ladder.data.tokenizer import chat_template
    from ladder.model.convert import find
    from ladder.model.opened import Checkpoint

    checkpoint = Checkpoint.open(args.checkpoint)
    described, config = checkpoint.card, checkpoint.config
    checkpoint.positions(options.sequence)
    what = {key: described.get(key) for key in ("model", "wiring", "tp")}
    what |= {"variant": recipe.variant, "seed": options.seed}
    objective = recipe.objective(what["wiring"], config["num_hidden_layers"], what["tp"], options.steps)
    original, before, taught = args.checkpoint, {}, None
    if recipe.teacher and Path(recipe.teacher).resolve() != args.checkpoint.resolve():
        original = find(recipe.teacher)
        taught = check_teacher(checkpoint, original, options.sequence).get("sha256") or recipe.teacher
    elif recipe.taught:
        before = taught = unconverted(checkpoint)
    template = chat_template(args.chat_template) if args.chat_template else None
    files, data, held_out = datasets(args, checkpoint, template, recipe.marked, options.sequence)

    import torch

    from ladder.model import load
    from ladder.model.rewire import rewire
    from ladder.parallel.group import join
    from ladder.train.batches import check
    from ladder.train.layout import distribute
    from ladder.train.run import carry_out
    from ladder.train.speed import settled

    check(data, options.batch, files[0])
    check(held_out, 1, files[-1])
    parameters = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    options = settled(options, 0 if checkpoint.family else parameters)
    if options.compile and checkpoint.family:
        raise UserError(f"{args.checkpoint}: --compile: not yet for {checkpoint.family.name}, only for Llama")
    with join(options.device, tp=options.tp_ranks, always=options.sharded) as these:
        torch.manual_seed(options.seed)
        model, _ = load(args.checkpoint, dtype="float32")  # master weights
        if checkpoint.family:
            packed_apart(model, checkpoint)
        inputs = {"checkpoint": described.get("sha256") or str(args.checkpoint)}
        inputs |= {"chat" if args.chat else "text": [sha256(file) for file in files], "template": template}
        inputs |= recipe.settings()
        inputs |= {"phases": [phase.wiring for phase in objective.phases]} if objective.phases else {}
        if recipe.taught:
            inputs |= {"teacher": taught}
            teacher, _ = load(original, dtype="bfloat16" if options.precision == "bf16" else "float32")
            if before:
                rewire(teacher, **before)
            objective = replace(objective, teacher=distribute(teacher.requires_grad_(False), these, options))
        name = f"{what['model']}-{what['wiring']}-{recipe.variant}-s{options.seed}"
        carry_out(args, "adapt", name, what, inputs, model, args.checkpoint, data, held_out, options, these, objective)


def unconverted(checkpoint) -> dict:
    """{"wiring", "tp"} under which the weights are those of the original: conversion leaves them as they were.
    Raises UserError for a checkpoint that was trained since."""
    card = checkpoint.card
    if card["variant"] != "converted" or "source" not in card:
        raise UserError(
            f"{checkpoint.folder}: is {card['variant']!r}, not as a conversion left it, so its weights are not the "
            "original's; name that with --teacher"
        )
    return {"wiring": card["source"].get("wiring", "standard"), "tp": card["source"].get("tp")}


def datasets(args: argparse.Namespace, checkpoint, template: str | None, marked: bool, sequence: int):
    """(files, rows to train on, rows to validate on) of what the arguments name."""
    from ladder.data.chat import Unsplit
    from ladder.train.batches import packed_text, packed_tokens

    vocabulary = checkpoint.config["vocab_size"]
    if args.text:
        return packed_text(args.text, args.text_field, checkpoint.folder, sequence, vocabulary)
    if args.tokens:
        manifest = args.tokens / "manifest.json"
        if read_json(manifest).get("tokenizer") != sha256(checkpoint.folder / "tokenizer.json"):
            raise UserError(f"{args.tokens}: made with another tokenizer than {checkpoint.folder} has; give --text")
        return [manifest], *(packed_tokens(args.tokens, split, sequence) for split in ("train", "validation"))
    files = [args.chat / f"{split}.jsonl" for split in ("train", "validation")]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file; `ladder chat` makes it")
    tokenizer = checkpoint.needed_tokenizer()
    words = template or checkpoint.chat_template(tokenizer, "give --chat-template")
    try:
        return files, *(packed_chat(file, tokenizer, words, sequence, vocabulary) for file in files)
    except Unsplit as error:
        if marked:
            raise
        print(f"{str(error).partition('; use')[0]}; losses are those of all tokens", file=sys.stderr, flush=True)
        return files, *(packed_chat(file, tokenizer, words, sequence, vocabulary, marked=False) for file in files)


def check_teacher(checkpoint, teacher: Path, sequence: int) -> dict:
    """The teacher's card. Raises UserError if it cannot be what ``checkpoint`` (opened) was converted from."""
    from ladder.data.tokenizer import core
    from ladder.model.opened import Checkpoint

    original, wiring = Checkpoint.open(teacher), checkpoint.card["wiring"]
    if original.card["wiring"] == wiring != "standard":
        raise UserError(
            f"--teacher {teacher}: its wiring is {wiring!r}, that of {checkpoint.folder}; name the original"
        )
    for key in ("vocab_size", "hidden_size", "num_hidden_layers"):
        if checkpoint.config[key] != original.config[key]:
            raise UserError(
                f"--teacher {teacher}: its {key} {original.config[key]} is not the {checkpoint.config[key]} of "
                f"{checkpoint.folder}; name the original"
            )
    original.positions(sequence)
    for folder in (checkpoint.folder, teacher):
        core(folder)  # it is there, and whole
    ours, theirs = (read_json(folder / "tokenizer.json")["model"] for folder in (checkpoint.folder, teacher))
    if ours != theirs:
        raise UserError(f"--teacher {teacher}: its tokenizer is not that of {checkpoint.folder}; name the original")
    return original.card


def packed_apart(model, checkpoint) -> None:
    """Refuse a family of which packed conversations see each other, or whose losses cannot be taken from its final
    hidden states: a text after another one has the logits that it has alone."""
    import torch

    from ladder.train.losses import scored

    vocabulary = checkpoint.config["vocab_size"]
    ids, positions = torch.arange(2 * PROBE)[None] % vocabulary, torch.arange(PROBE).repeat(2)[None]
    training = model.training
    model.eval()
    with torch.no_grad():
        given = {"input_ids": ids, "position_ids": positions, "use_cache": False}
        packed = scored(model, lambda hidden, head: head(hidden), **given)[:, PROBE:]
        alone = model(input_ids=ids[:, PROBE:], use_cache=False).logits
    model.train(training)
    if (packed - alone).abs().max() > 1e-4 * alone.abs().max():
        raise UserError(
            f"{checkpoint.folder}: conversations packed into a row would see each other; a {checkpoint.family.name} "
            "cannot be adapted yet"
        )


def packed_chat(path: Path, tokenizer, template: str, sequence: int, vocabulary: int, marked: bool = True):
    """The conversations of a JSONL file as a dataset of rows of ``sequence`` inputs, scored on the assistant's tokens
    or, unless ``marked``, on all. Raises UserError for a token that is not of the ``vocabulary``."""
    from ladder.data.chat import encode, pack
    from ladder.data.conversations import read_messages
    from ladder.train.batches import PackedChat

    samples = []
    for where, row in jsonl_rows(path):
        try:
            ids, labels = encode(read_messages(where, row), tokenizer, template, marked)
        except UserError as error:
            raise type(error)(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
        if ids and max(ids) >= vocabulary:
            token = tokenizer.convert_ids_to_tokens(max(ids))
            raise UserError(
                f"{where}: its token {token!r} is number {max(ids)}, but the model has a vocab_size of {vocabulary}; "
                "use the tokenizer that the model was trained with, or another --chat-template"
            )
        samples.append((ids, labels))
    packed = pack(samples, sequence + 1)  # one more: each input has a token after it
    if not packed:
        raise UserError(f"{path}: no conversation has an assistant's answer within {sequence} tokens; is it empty?")
    return PackedChat(packed)
