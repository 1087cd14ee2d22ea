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
from ladder.errors import UserError
from ladder.files import sha256
from ladder.outputs import path_or_name
from ladder.reading import read_json, read_jsonl
from ladder.train import methods
from ladder.train import options as training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ladder.job.add_arguments(parser)
    parser.add_argument("checkpoint", type=Path, help="directory of `ladder convert` or `ladder pretrain`")
    parser.add_argument("--chat", type=Path, required=True, help="directory of `ladder chat`")
    parser.add_argument(
        "--chat-template",
        type=path_or_name,
        help="llama3, chatml or a jinja file, in place of the checkpoint's own where that does not mark the assistant",
    )
    methods.add_arguments(parser)
    training.add_arguments(parser, steps=25, lr=5e-4, warmup=5, weight_decay=0.0, evaluate_every=5, checkpoint_every=25)


def main(args: argparse.Namespace) -> None:
    options = training.of(args)
    options.check()
    recipe = methods.of(args)
    for split in ("train", "validation"):
        if not (args.chat / f"{split}.jsonl").is_file():
            raise UserError(f"{args.chat}/{split}.jsonl: no such file; `ladder chat` makes it")
    from ladder.data.tokenizer import chat_template
    from ladder.model.checkpoint import card
    from ladder.model.convert import find

    described, config = card(args.checkpoint), read_json(args.checkpoint / "config.json")
    if options.sequence > config["max_position_embeddings"]:
        raise UserError(
            f"--sequence {options.sequence} is longer than the {config['max_position_embeddings']} positions of "
            f"{args.checkpoint}"
        )
    what = {key: described.get(key) for key in ("model", "wiring", "tp")}
    what |= {"variant": recipe.variant, "seed": options.seed}
    original = find(recipe.teacher) if recipe.teacher else None
    taught = check_teacher(args.checkpoint, original, options.sequence) if original else None
    objective = recipe.objective(what["wiring"], config["num_hidden_layers"], what["tp"], options.steps)
    template = chat_template(args.chat_template) if args.chat_template else None

    import torch

    from ladder.model import load
    from ladder.parallel.group import join
    from ladder.train.batches import check
    from ladder.train.layout import distribute
    from ladder.train.run import carry_out

    with join(options.device, tp=options.tp_ranks, always=options.sharded) as these:
        torch.manual_seed(options.seed)
        model, tokenizer = load(args.checkpoint, dtype="float32")  # master weights
        if not (template or tokenizer.chat_template):
            raise UserError(
                f"{args.checkpoint}: its tokenizer has no chat template, so conversations cannot be written for it; "
                "give --chat-template"
            )
        files = [args.chat / f"{split}.jsonl" for split in ("train", "validation")]
        data, held_out = (packed_chat(file, tokenizer, template, options.sequence) for file in files)
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


def check_teacher(checkpoint: Path, teacher: Path, sequence: int) -> dict:
    """The teacher's card. Raises UserError if it cannot be what ``checkpoint`` was converted from."""
    from ladder.model.checkpoint import card

    found, own = card(teacher), card(checkpoint)["wiring"]
    if found["wiring"] == own != "standard":
        raise UserError(f"--teacher {teacher}: its wiring is {own!r}, that of {checkpoint}; name the original")
    ours, theirs = (read_json(folder / "config.json") for folder in (checkpoint, teacher))
    for key in ("vocab_size", "hidden_size", "num_hidden_layers"):
        if ours[key] != theirs[key]:
            raise UserError(
                f"--teacher {teacher}: its {key} {theirs[key]} is not the {ours[key]} of {checkpoint}; "
                "name the original"
            )
    if sequence > theirs["max_position_embeddings"]:
        raise UserError(
            f"--sequence {sequence} is longer than the {theirs['max_position_embeddings']} positions of {teacher}"
        )
    words = [read_json(folder / "tokenizer.json")["model"] for folder in (checkpoint, teacher)]
    if words[0] != words[1]:
        raise UserError(f"--teacher {teacher}: its tokenizer is not that of {checkpoint}; name the original")
    return found


def packed_chat(path: Path, tokenizer, template: str | None, sequence: int):
    """The conversations of a JSONL file as a dataset of rows of ``sequence`` inputs."""
    from ladder.data.chat import encode, pack
    from ladder.train.batches import PackedChat

    conversations = list(read_jsonl(path))
    for line, row in enumerate(conversations, 1):
        if not row.get("messages"):
            raise UserError(f"{path}:{line}: no 'messages'; `ladder chat` writes such files")
    # one more: each input has a token after it
    packed = pack([encode(row["messages"], tokenizer, template) for row in conversations], sequence + 1)
    if not packed:
        raise UserError(f"{path}: no conversation has an assistant's answer within {sequence} tokens; is it empty?")
    return PackedChat(packed)
