"""Time prefill and decode of a model's shards, wiring against wiring.

One rank of TP 8, alone, with an emulated link on which an all-reduce takes 0.4 and 0.8 of a module's time:

    ladder bench --size paper-1b-8l --tp 8 --emulate --rho 0.4 0.8 --record emulated.json

Two real ranks on this machine (gloo on CPU, NCCL with --device cuda; or start the ranks yourself with torchrun):

    ladder bench --size paper-1b-8l --tp 2 --record ranks.json

Weights are random, of the true shapes. Wirings are timed in turn (A B C A B C ...); before anything is timed, their
logits are compared with the unsharded model's, and the order of their all-reduces with the wiring table. Seconds are
medians with 95 % intervals (bootstrap over rounds). hidden = (T_standard - T_wiring) / (T_standard - T_upper_bound).
"""

import argparse
import os
import sys

from ladder.job import add_arguments as add_job_arguments
from ladder.job import job

DEFAULT_WIRINGS = ["standard", "parallel", "ladder", "upper_bound"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", required=True, help="row of the table of sizes")
    parser.add_argument("--layers", type=int, help="time this many of the model's layers")
    parser.add_argument("--tp", type=int, required=True, help="tensor-parallel degree")
    parser.add_argument(
        "--replicate-kv", action="store_true", help="with more ranks than KV heads, several ranks hold the same one"
    )
    parser.add_argument("--emulate", action="store_true", help="one rank with an emulated link, instead of real ranks")
    parser.add_argument("--rho", type=float, nargs="+", default=[0.4, 0.8], help="all-reduce time / mean module time")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens")
    parser.add_argument("--new-tokens", type=int, default=60, help="decode steps, each one a sample")
    parser.add_argument("--prefills", type=int, default=6, help="prefill samples")
    parser.add_argument("--wirings", nargs="+", default=DEFAULT_WIRINGS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights and tokens")
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    from ladder.bench import emulated, ranks
    from ladder.errors import UserError
    from ladder.model.modeling import LadderConfig
    from ladder.model.sizes import size
    from ladder.parallel.slicing import check_degree
    from ladder.wiring import pattern, table, tied

    shape = size(args.size)
    layers = args.layers or shape.layers
    changes = {"num_hidden_layers": layers, "max_position_embeddings": max(shape.positions, args.prompt)}
    # The norm of the first attention is there if any wiring reads it; the other weights serve all wirings.
    signals = [w for w in args.wirings if any(row.signal for row in table(w, layers, args.tp))]
    config = LadderConfig(**shape.config(**changes), wiring=(signals or ["standard"])[0])
    try:
        check_degree(config, args.tp, replicate_kv=args.replicate_kv)
    except UserError as error:
        raise UserError(str(error).replace("replicate_kv=True", "--replicate-kv")) from None
    if min(args.batch, args.prompt, args.layers or 1) < 1 or args.new_tokens < 2 or args.prefills < 1:
        raise UserError("--batch, --prompt, --layers and --prefills must be at least 1, --new-tokens at least 2")
    if args.emulate and args.device != "cpu":
        raise UserError("--emulate times a CPU rank only; leave out --device cuda, or leave out --emulate")
    if args.emulate and (any(rho <= 0 for rho in args.rho)):
        raise UserError(f"--rho {args.rho}: a ratio of times must be above 0")
    shared = args.tp > config.num_key_value_heads
    if shared and (own := [w for w in args.wirings if tied(w) and not pattern(w).timing_only]):
        raise UserError(
            f"--wirings {own[0]}: with several ranks on one KV head there is no whole model to check its logits "
            f"against; leave it out, or use --tp {config.num_key_value_heads} at most"
        )
    sizes = (args.tp, args.batch, args.prompt, args.new_tokens)
    point = emulated.Point(config, *sizes, args.wirings, args.seed, args.replicate_kv)
    name = f"{args.size}-tp{args.tp}-b{args.batch}-{'emulated' if args.emulate else args.device}"
    if int(os.environ.get("RANK", 0)) > 0:
        ranks.measure(point, args.prefills, args.device)
        return
    with job(args, "bench", name, model=args.size, seed=args.seed) as this:

        def say(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        if args.emulate:
            rows, extra = emulated.measure(point, args.rho, args.prefills, say)
        else:
            rows, extra = ranks.measure(point, args.prefills, args.device)
        if layers != shape.layers:
            part = f"{layers} of {shape.layers} layers"
            rows = [row | {"note": "; ".join(filter(None, (part, row.get("note"))))} for row in rows]
        rows = [this.row(**row) for row in rows]
        say(card(rows))
        this.finish(rows, **extra)


def card(rows: list[dict]) -> str:
    """The decode numbers for people."""
    lines = [f"{'rho':>5} {'wiring':<16} {'ms/step':>9} {'speed-up':>9} {'hidden':>7} {'virtual':>8} {'schedule':>9}"]
    keys = sorted({(r.get("rho", 0), r["wiring"]) for r in rows if r.get("phase") == "decode" and "wiring" in r})
    for rho, wiring in keys:
        here = {
            r["metric"]: r["value"]
            for r in rows
            if (r.get("rho", 0), r.get("wiring"), r.get("phase")) == (rho, wiring, "decode")
        }
        shares = [here.get(f"hidden_{kind}") for kind in ("wall", "virtual", "schedule")]
        cells = " ".join(f"{'-' if s is None else f'{s:.2f}':>8}" for s in shares)
        lines.append(f"{rho:>5g} {wiring:<16} {here['seconds'] * 1e3:>9.2f} {here['speedup']:>8.2f}x {cells}")
    return "\n".join(lines)
