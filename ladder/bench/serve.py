"""Time a model in vLLM, wiring against wiring, in turn: time to the first token, latency per token, tokens/s.

    ladder bench serve --size llama-3.1-8b --tp 4 --batch 1 16 64 --prompt 512 --new-tokens 128 --record served.json

On two CPU ranks, also with a path between them that delays every packet (Linux, root):

    ladder bench serve --size paper-1b-8l --tp 2 --dtype fp32 --delay-us 0 2000 --record served.json

Each wiring has an engine of its own, all of them alive at once, with random weights. `standard` is vLLM's own model,
with the all-reduce and the fusions that vLLM chooses for it; the others run by this package's plug-in. Where vLLM
compiles, the order of launches and waits is first read off the graph that it runs, and compared with the wiring's.
Then they are timed step by step (A B C, B C A, ...) as `ladder bench` does it. A prefill's seconds end with the first
token of every sequence; prefix caching is off.
"""

import argparse
import contextlib
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

from ladder import options
from ladder.bench.options import Options
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job

WIRINGS = ["standard", "parallel", "ladder"]
SPARE = 8  # positions that no sample needs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", required=True, help="row of the table of sizes")
    parser.add_argument("--tp", type=int, required=True, help="tensor-parallel degree")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="sequences at once")
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens")
    parser.add_argument("--new-tokens", type=int, default=60, help="decode steps, each one a sample")
    parser.add_argument("--delay-us", type=float, nargs="+", help="one way between two CPU ranks, in microseconds")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="bf16")
    options.add_arguments(parser, Options, "layers", "prefills", "wirings", "seed", wirings=WIRINGS)
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    from ladder.bench.point import BenchCase
    from ladder.bench.slowpath import check_possible
    from ladder.errors import UserError
    from ladder.model.modeling import LadderConfig
    from ladder.model.sizes import size
    from ladder.model.slicing import check_degree
    from ladder.vllm import check_installed
    from ladder.wiring import Wiring

    options.check(Options, args)
    check_installed("`ladder bench serve`")
    delays = args.delay_us or [None]
    if args.delay_us:
        if args.tp != 2 or min(args.delay_us) < 0:
            raise UserError(f"--delay-us {args.delay_us} at --tp {args.tp}: it takes two ranks and no negative delay")
        check_possible()
    shape = size(args.size)
    changes = {"num_hidden_layers": args.layers or shape.layers}
    changes["max_position_embeddings"] = max(shape.positions, args.prompt + args.new_tokens + SPARE)
    config = LadderConfig(**shape.config(**changes), wiring="standard")
    check_degree(config, args.tp, replicate_kv=True)
    for wiring in args.wirings:
        parsed = Wiring.parse(wiring)
        Wiring(parsed.name, parsed.layers, args.tp if parsed.tied else None).of_model(config.num_hidden_layers)
    with job(args, "bench", f"{args.size}-serve", model=args.size, seed=args.seed) as this:
        rows, orders = [], {}
        for delay in delays:
            on = "this machine's" if delay is None else f"two namespaces, {delay:g} us one way"
            for batch in args.batch:
                print(f"batch {batch}, link: {on}", file=sys.stderr, flush=True)
                shared = {"seed": args.seed, "dtype": args.dtype, "compute": ("vllm",)}
                point = BenchCase(config, args.tp, batch, args.prompt, args.new_tokens, tuple(args.wirings), **shared)
                with engines(point, delay) as (decoders, order):
                    orders |= order
                    rows += tidy(point, on, decoders, args.prefills)
        if config.num_hidden_layers != shape.layers:
            rows = [row | {"timed_layers": config.num_hidden_layers} for row in rows]
        rows = [this.row(**row) for row in rows]
        print(card(rows), file=sys.stderr, flush=True)
        this.finish(rows, order=orders)


class Decoder:
    """One engine, as :class:`ladder.bench.timing.Timer` times it. A step is one of vLLM's: a token of each sequence."""

    def __init__(self, llm, point):
        from vllm import SamplingParams

        self.engine, self.prompts, self.number, self.running = llm.llm_engine, point.ids(), 0, []
        self.prompts = self.prompts[:, : point.prompt].tolist()
        self.how = SamplingParams(temperature=0, max_tokens=point.new_tokens + SPARE, ignore_eos=True, detokenize=False)

    def prefill(self) -> None:
        self.engine.abort_request(self.running)
        self.running = []
        for prompt in self.prompts:
            self.number += 1
            self.running.append(self.engine.add_request(f"{self.number}", {"prompt_token_ids": prompt}, self.how))
        started = 0
        while started < len(self.prompts):
            started += sum(len(output.outputs[0].token_ids) == 1 for output in self.engine.step())

    def step(self) -> None:
        self.engine.step()


@contextlib.contextmanager
def engines(point, delay: float | None):
    """({(wiring, "vllm"): decoder}, {wiring: the checked order of launches and waits}); ended afterwards."""
    from vllm import LLM
    from vllm.platforms import current_platform

    from ladder.bench.slowpath import forwarder

    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    decoders, orders = {}, {}
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ladder-serve-")))
        for number, wiring in enumerate(point.wirings):
            folder = home / str(number)
            write(point, wiring, folder)
            how = {"load_format": "dummy", "skip_tokenizer_init": True, "enable_prefix_caching": False}
            how |= {"dtype": {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[point.dtype]}
            how |= {"max_model_len": point.length + SPARE, "max_num_seqs": point.batch, "async_scheduling": False}
            how |= {"gpu_memory_utilization": 0.9 / len(point.wirings)}
            if current_platform.is_cpu():
                from ladder.bench.serve_worker import SLOW  # the processes of the engines leave the cores to each other

                how |= {"worker_cls": "ladder.bench.serve_worker.Worker", "kv_cache_memory_bytes": 2**28}
                how |= {"max_num_batched_tokens": point.batch * point.length}  # vLLM tries a step of so many first
                how.pop("gpu_memory_utilization")
            if delay is not None:
                stack.enter_context(forwarder(f"{folder}/ends", delay * 1e-6))
                os.environ[SLOW] = json.dumps([str(folder), free_port()])
            os.environ["VLLM_CACHE_ROOT"] = str(folder / "cache")
            llm = LLM(str(folder), tensor_parallel_size=point.tp, **how)
            stack.callback(llm.llm_engine.engine_core.shutdown)
            orders |= checked_order(point, wiring, folder / "cache")
            decoders[wiring, "vllm"] = Decoder(llm, point)
        yield decoders, orders


def write(point, wiring: str, folder: Path) -> None:
    """A checkpoint without weights."""
    from ladder.files import write_json
    from ladder.model.families import rewired
    from ladder.wiring import Wiring

    folder.mkdir()
    tp = point.tp if Wiring.parse(wiring).tied else None
    write_json(folder / "config.json", rewired(point.config.to_dict(), wiring, tp))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def checked_order(point, wiring: str, cache: Path) -> dict[str, str]:
    """{wiring: the order in the compiled graph}, if one was compiled. Raises RuntimeError if it is not the wiring's."""
    from ladder.vllm.order import expected, order_of

    wanted, orders = expected(point.rows(wiring)), set(order_of(cache))
    if wiring == "standard" or point.tp == 1 or not orders:
        return {}
    if orders != {wanted}:
        raise RuntimeError(f"{wiring}: vLLM's graph runs {', '.join(orders)}, not the wiring's {wanted}")
    return {wiring: wanted}


def tidy(point, link: str, decoders: dict, prefills: int) -> list[dict]:
    """Rows of one point."""
    from vllm.platforms import current_platform

    from ladder.bench.rows import compare, throughput, what
    from ladder.bench.timing import Timer

    samples = Timer(decoders, point.new_tokens).samples(prefills)
    shared = what(point, backend=current_platform.dist_backend, origin="measured", link=link)
    rows = []
    for phase in ("prefill", "decode"):
        rows += compare(samples[phase], None, shared | {"phase": phase})
    return rows + throughput(point, samples, shared)


def card(rows: list[dict]) -> str:
    """The comparison for people."""
    lines = [f"{'link':<36} {'batch':>5} {'phase':<8} {'wiring':<14} {'ms':>8} {'over standard':>22}"]
    for row in rows:
        if row["metric"] != "seconds":
            continue
        gain = [
            f"{other['value']:.3f} [{other['low']:.3f}, {other['high']:.3f}]"
            for other in rows
            if other["metric"] == "speedup" and all(other[k] == row[k] for k in ("link", "batch", "phase", "wiring"))
        ]
        cells = f"{row['wiring']:<14} {row['value'] * 1e3:>8.2f} {''.join(gain):>22}"
        lines.append(f"{row['link']:<36} {row['batch']:>5} {row['phase']:<8} {cells}")
    return "\n".join(lines)
