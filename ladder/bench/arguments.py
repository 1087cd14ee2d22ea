"""What `ladder bench` was asked for: completed, and refused before anything is built if it cannot be timed."""

import argparse

from ladder.bench.grid import Shape
from ladder.bench.memory import check_fits, in_flight, need, rank_part
from ladder.bench.options import defaults
from ladder.bench.point import DTYPES, BenchCase
from ladder.errors import UserError
from ladder.links import link
from ladder.model.modeling import LadderConfig
from ladder.model.sizes import size
from ladder.model.slicing import check_degree
from ladder.parallel.environment import environment
from ladder.parallel.group import check_gpus
from ladder.wiring import Wiring, table


def check(args: argparse.Namespace) -> None:
    """Fill in defaults; refuse what cannot be timed, before anything is built."""
    usual = defaults(args.device)
    args.dtype, args.compute = args.dtype or usual["dtype"], args.compute or usual["compute"]
    if args.device == "cpu" and "graphs" in args.compute:
        raise UserError("--compute graphs needs a GPU (--device cuda); on the CPU use eager or compiled")
    if args.emulate:
        if args.backend:
            raise UserError("--backend is what real ranks reduce with; leave it out, or leave out --emulate")
        if not args.rho and not args.link:
            args.rho = [0.4, 0.8]
        for name in args.link:
            link(name)
        if missing := [w for w in ("standard", "upper_bound") if w not in args.wirings]:
            raise UserError(f"--wirings lacks {missing[0]}: what is hidden is relative to 'standard' and 'upper_bound'")
    else:
        args.backend = args.backend or usual["backend"]
        if args.device == "cpu" and args.backend != "gloo":
            raise UserError(f"backend {args.backend} needs GPUs (--device cuda); on the CPU use gloo")
        if args.rho or args.link:
            raise UserError("--rho and --link set an emulated link; add --emulate, or leave them out")
        if args.extrapolate or args.baseline:
            raise UserError("--extrapolate and --baseline are for one rank by itself; add --emulate")
    if args.baseline and args.tp != [1]:
        raise UserError(f"--baseline times plain transformers on one rank; use --tp 1, not {args.tp[0]}")
    if args.extrapolate and (args.layers or 0) < 2:
        raise UserError("--extrapolate needs --layers of at least 2: it takes the times of these and of half of them")


def point(args: argparse.Namespace, shape: Shape) -> BenchCase:
    """The point of one shape; raises UserError for what the model, the wirings and the degree do not allow."""
    row = size(shape.size)
    layers = args.layers or row.layers
    if layers > row.layers:
        raise UserError(f"--layers {layers}: {shape.size} has {row.layers}")
    changes = {"num_hidden_layers": layers}
    changes["max_position_embeddings"] = max(row.positions, shape.prompt + shape.new_tokens)
    # The norm of the first attention is there if any wiring reads it; the other weights serve all wirings.
    signals = [w for w in args.wirings if table(w, layers, shape.tp).signal]
    config = LadderConfig(**row.config(**changes), wiring=(signals or ["standard"])[0])
    try:
        check_degree(config, shape.tp, replicate_kv=args.replicate_kv)
    except UserError as error:
        raise UserError(str(error).replace("replicate_kv=True", "--replicate-kv")) from None
    shared = shape.tp > config.num_key_value_heads
    if shared and (own := [w for w in map(Wiring.parse, args.wirings) if w.tied and not w.timing_only]):
        raise UserError(
            f"--wirings {own[0]}: with several ranks on one KV head there is no whole model to check its logits "
            f"against; leave it out, or use --tp {config.num_key_value_heads} at most"
        )
    chosen = {"dtype": args.dtype, "compute": tuple(args.compute), "attention": args.attention}
    chosen |= {"seed": args.seed, "replicate_kv": args.replicate_kv, "device": args.device}
    return BenchCase(config, *shape[1:], tuple(args.wirings), **chosen)


def fits(args: argparse.Namespace, shape: Shape) -> None:
    """Refuse a point that this machine's memory cannot hold."""
    if args.device == "cuda":
        check_gpus(1 if args.emulate or environment() else shape.tp)
    this = point(args, shape)
    size = DTYPES[args.dtype].itemsize
    flight = max(in_flight(this.rows(wiring)) for wiring in args.wirings)
    chosen = {"prompt": shape.prompt, "in_flight": flight}
    wanted = need(this.config, shape.tp, shape.batch, this.length, size, args.replicate_kv, **chosen).total
    # The check of logits: the whole model in fp32, and once more what its shards fuse.
    part = rank_part(this.checked().config)
    fused = part.layers * part.hidden * (part.queries + 2 * part.keys + 2 * part.intermediate)
    whole = 4 * (part.weights + fused)
    chosen["caches"] = len(args.wirings) * len(args.compute)
    alone = args.emulate or args.device == "cuda"
    sharing = 1 if alone else int(environment().get("LOCAL_WORLD_SIZE", shape.tp))
    chosen |= {"extra": max(0, whole - wanted) // sharing, "sharing": sharing}
    check_fits(
        shape.size, args.device, this.config, shape.tp, shape.batch, this.length, size, args.replicate_kv, **chosen
    )
