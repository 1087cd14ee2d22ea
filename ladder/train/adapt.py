"""Adapt a (converted) checkpoint on chat data: finetune it, distil the original into it, or rewire it step by step.

Finetuning counts the assistant's tokens only; packed conversations do not see each other. Reads a checkpoint directory
and the train.jsonl and validation.jsonl of `ladder chat`; writes the adapted model as a Hugging Face directory, and a
record with losses, speed and curves. It resumes as `ladder pretrain` does.

  ladder adapt build/models/tiny-ladder@5-9-converted-s0 --chat build/chat --seed 0 \\
      --work build/work/adapt --out build/models/tiny-ladder@5-9-adapted-s0 --record build/records/adapt.json
  ladder adapt build/models/tiny-ladder-converted-s0 --method distill --teacher build/models/tiny-standard-s0 ...
  ladder adapt build/models/tiny-ladder-converted-s0 --method progressive --group 2 --teacher ... --patience 5 ...
"""

import argparse
from dataclasses import replace
from pathlib import Path

import ladder.job
import ladder.options
from ladder.errors import UserError
from ladder.files import sha256
from ladder.outputs import path_or_name
from ladder.reading import jsonl_rows, read_json
from ladder.train import options as training
from ladder.train.methods import Recipe

PROBE = 8  # tokens


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ladder.job.add_arguments(parser)
    parser.add_argument("checkpoint", type=Path, help="directory of `ladder convert` or `ladder pretrain`")
    parser.add_argument("--chat", type=Path, required=True, help="directory of `ladder chat`")
    parser.add_argument(
        "--chat-template",
        type=path_or_name,
        help="llama3, chatml or a jinja file, in place of the checkpoint's own where that does not mark the assistant",
    )
    ladder.options.add_arguments(parser.add_argument_group("method"), Recipe)
    training.add_arguments(parser, steps=25, lr=5e-4, warmup=5, weight_decay=0.0, evaluate_every=5, checkpoint_every=25)


def main(args: argparse.Namespace) -> None:
    options = ladder.options.of(training.Options, args)
    options.check()
    recipe = ladder.options.of(Recipe, args)
    for split in ("train", "validation"):
        if not (args.chat / f"{split}.jsonl").is_file():
            raise UserError(f"{args.chat}/{split}.jsonl: no such file; `ladder chat` makes it")
    from ladder.data.tokenizer import chat_template
    from ladder.model.convert import find
    from ladder.model.opened import Checkpoint

    checkpoint = Checkpoint.open(args.checkpoint)
    described, config = checkpoint.card, checkpoint.config
    checkpoint.positions(options.sequence)
    what = {key: described.get(key) for key in ("model", "wiring", "tp")}
    what |= {"variant": recipe.variant, "seed": options.seed}
    original = find(recipe.teacher) if recipe.teacher else None
    taught = check_teacher(checkpoint, original, options.sequence) if original else None
    objective = recipe.objective(what["wiring"], config["num_hidden_layers"], what["tp"], options.steps)
    template = chat_template(args.chat_template) if args.chat_template else None
    tokenizer = checkpoint.needed_tokenizer()
    words = template or checkpoint.chat_template(tokenizer, "give --chat-template")
    files = [args.chat / f"{split}.jsonl" for split in ("train", "validation")]
    vocabulary = config["vocab_size"]
    data, held_out = (packed_chat(file, tokenizer, words, options.sequence, vocabulary) for file in files)

    import torch

    from ladder.model import load
    from ladder.parallel.group import join
    from ladder.train.batches import check
    from ladder.train.layout import distribute
    from ladder.train.run import carry_out

    if options.compile and checkpoint.family:
        raise UserError(f"{args.checkpoint}: --compile: not yet for {checkpoint.family.name}, only for Llama")
    with join(options.device, tp=options.tp_ranks, always=options.sharded) as these:
        torch.manual_seed(options.seed)
        model, _ = load(args.checkpoint, dtype="float32")  # master weights
        if checkpoint.family:
            packed_apart(model, checkpoint)
        check(data, options.batch, files[0])
        check(held_out, 1, files[1])
        inputs = {"checkpoint": described.get("sha256") or str(args.checkpoint)}
        inputs |= {"chat": [sha256(file) for file in files], "template": template}
        inputs |= recipe.settings()
        inputs |= {"phases": [phase.wiring for phase in objective.phases]} if objective.phases else {}
        inputs |= {"teacher": taught.get("sha256") or recipe.teacher} if taught else {}
        if taught:
            precision = "bfloat16" if options.precision == "bf16" else "float32"
            teacher, _ = load(original, dtype=precision)
            objective = replace(objective, teacher=distribute(teacher.requires_grad_(False), these, options))
        name = f"{what['model']}-{what['wiring']}-{recipe.variant}-s{options.seed}"
        carry_out(args, "adapt", name, what, inputs, model, args.checkpoint, data, held_out, options, these, objective)


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


def packed_chat(path: Path, tokenizer, template: str, sequence: int, vocabulary: int):
    """The conversations of a JSONL file as a dataset of rows of ``sequence`` inputs. Raises UserError for a token that
    is not of the ``vocabulary``."""
    from ladder.data.chat import encode, pack
    from ladder.data.conversations import read_messages
    from ladder.train.batches import PackedChat

    samples = []
    for where, row in jsonl_rows(path):
        try:
            ids, labels = encode(read_messages(where, row), tokenizer, template)
        except UserError as error:
            raise UserError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
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
