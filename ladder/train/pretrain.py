"""Train a model from scratch on packed tokens.

Reads the token shards of `ladder tokens` and the tokenizer beside them; writes the model as a Hugging Face directory,
and a record with the losses, the speed and their curves. It resumes from its last checkpoint when it was killed, and is
told so by SIGTERM too. One process is one rank; more are started by torchrun:

  ladder pretrain --size tiny --wiring ladder --seed 0 --tokens build/tokens --tokenizer build/tokenizer \\
      --work build/work/tiny-ladder-s0 --out build/models/tiny-ladder-s0 --record build/records/tiny-ladder-s0.json
  torchrun --nproc-per-node 8 -m ladder pretrain --size paper-1b --shard 8 --precision bf16 ...
  torchrun --nproc-per-node 8 -m ladder pretrain --size llama-3.1-8b --tp-ranks 2 --shard 4 --precision bf16 ...
"""

import argparse
from pathlib import Path

import ladder.job
import ladder.options
from ladder.errors import UserError
from ladder.files import sha256
from ladder.model.sizes import size
from ladder.parallel.environment import rank
from ladder.reading import read_json, take
from ladder.train import options as training
from ladder.wiring import Wiring


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ladder.job.add_arguments(parser)
    parser.add_argument("--size", required=True, help="row of the table of sizes")
    parser.add_argument("--wiring", required=True, help="standard, parallel, ladder, ladder@4-7, ...")
    parser.add_argument("--tp", type=int, help="tensor-parallel degree of a wiring that depends on it (spd, ...)")
    parser.add_argument("--tokens", type=Path, required=True, help="directory of `ladder tokens`")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory of `ladder tokenizer`")
    training.add_arguments(parser)


def main(args: argparse.Namespace) -> None:
    options = ladder.options.of(training.Options, args)
    options.check()
    shape = size(args.size)
    rows = Wiring.parse(args.wiring, args.tp).of_model().table(shape.layers)
    if options.sequence > shape.positions:
        raise UserError(f"--sequence {options.sequence} is longer than the {shape.positions} positions of {args.size}")

    from ladder.train.batches import check, packed_tokens

    splits = ("train", "validation")  # one rank compares digests for all
    data, held_out = (packed_tokens(args.tokens, split, options.sequence, verify=rank() == 0) for split in splits)
    check(data, options.batch, args.tokens / "train")
    check(held_out, 1, args.tokens / "validation")
    manifest = args.tokens / "manifest.json"
    vocab = take(read_json(manifest), "vocab_size", int, str(manifest), least=1)
    special = special_tokens(args.tokenizer, args.tokens, vocab)

    import torch

    from ladder.model import LadderConfig, LadderForCausalLM
    from ladder.model.slicing import check_degree
    from ladder.parallel.group import join
    from ladder.train import layout
    from ladder.train.run import carry_out
    from ladder.train.speed import settled

    options = settled(options, shape.parameters) if options.precision == "auto" else options
    config = shape.config(vocab_size=vocab, **special)
    check_degree(LadderConfig(**config), args.tp or 1, rows.ends_apart)
    layout.check(LadderConfig(**config, wiring=args.wiring, tensor_parallel_size=args.tp), options.tp_ranks)
    with join(options.device, tp=options.tp_ranks, always=options.sharded) as these:
        torch.manual_seed(options.seed)  # the same initial weights for every wiring of a size
        model = LadderForCausalLM(LadderConfig(**config, wiring=args.wiring, tensor_parallel_size=args.tp))
        what = {"model": args.size, "wiring": args.wiring, "tp": args.tp}
        what |= {"variant": "pretrained", "seed": options.seed}
        carry_out(
            args,
            "pretrain",
            f"{args.size}-{args.wiring}-s{options.seed}",
            what,
            {"tokens": sha256(args.tokens / "manifest.json"), "config": config},
            model,
            args.tokenizer,
            data,
            held_out,
            options,
            these,
        )


def special_tokens(tokenizer: Path, tokens: Path, vocab: int) -> dict:
    """Ids of bos, eos and pad. Raises UserError if the tokenizer is not the one that made ``tokens``."""
    if not (tokenizer / "tokenizer.json").is_file():
        raise UserError(f"{tokenizer}: no tokenizer there (tokenizer.json is missing); `ladder tokenizer` makes one")
    made_with = read_json(tokens / "manifest.json").get("tokenizer")
    if made_with not in (None, sha256(tokenizer / "tokenizer.json")):
        raise UserError(
            f"{tokens}/manifest.json: made with another tokenizer than {tokenizer}; run `ladder tokens` again"
        )

    from ladder.data.tokenizer import load_auto

    loaded = load_auto(tokenizer)
    if len(loaded) != vocab:
        raise UserError(
            f"{tokens}/manifest.json: vocab_size {vocab} is not the {len(loaded)} of {tokenizer}; "
            "run `ladder tokens` again"
        )
    return {f"{name}_token_id": getattr(loaded, f"{name}_token_id") for name in ("bos", "eos", "pad")}
