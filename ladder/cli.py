"""``ladder ...``: one subcommand per rule of the pipeline; a rule's shell line can be pasted into a terminal."""

import argparse
import gc
import importlib
import os
import select
import sys
from collections.abc import Callable

from ladder import outputs
from ladder.arguments import Parser
from ladder.errors import sentence, tell, unknown_name

# name: (module with add_arguments(parser) and main(args), one line of help). Imported only when called.
COMMANDS = {
    "init": ("ladder.init", "check a configuration and tie jobs to it"),
    "track": ("ladder.tracking", "prepare MLflow tracking"),
    "corpus": ("ladder.data.corpus", "gather documents and split them into train, validation and test"),
    "tokenizer": ("ladder.data.tokenizer", "train a byte-level BPE, or take an existing tokenizer"),
    "tokens": ("ladder.data.tokens", "pack a corpus into memory-mapped token shards"),
    "chat": ("ladder.data.chat", "make or read chat-format data for finetuning"),
    "tasks": ("ladder.data.tasks", "make evaluation tasks from held-out documents"),
    "pretrain": ("ladder.train.pretrain", "train a model from scratch"),
    "convert": ("ladder.model.convert", "rewire a decoder's checkpoint"),
    "families": ("ladder.pages.families", "list the families of decoders that can be rewired"),
    "export": ("ladder.model.export", "write a checkpoint that loads without this package"),
    "adapt": ("ladder.train.adapt", "heal a converted checkpoint: distil or finetune it"),
    "fetch": ("ladder.evaluate.fetch", "copy the data sets of lm-eval's tasks, for machines without a network"),
    "evaluate": ("ladder.evaluate.run", "evaluate checkpoints with lm-eval"),
    "sensitivity": ("ladder.evaluate.sensitivity", "find which layers are free to convert, for which wiring"),
    "bench": ("ladder.bench.run", "time prefill and decode under tensor parallelism"),
    "bench train": ("ladder.bench.train", "time training steps, tokens/s and MFU of each wiring"),
    "bench link": ("ladder.bench.link", "measure latency and bandwidth of the link at hand"),
    "bench serve": ("ladder.bench.serve", "time wirings in vLLM: first token, latency per token, tokens/s"),
    "bench network": ("ladder.bench.network", "hold the emulated link against a real slow network"),
    "campaign": ("ladder.campaign", "run a list of measurements within a time, and say which bars they meet"),
    "plan": ("ladder.simulate.planner", "find how to serve a model: replicas or TP, wiring, batch"),
    "simulate": ("ladder.simulate.run", "predict prefill, decode and tokens/s on hardware that is not here"),
    "simulate rows": ("ladder.simulate.published", "write the published speed numbers as points"),
    "simulate validate": ("ladder.simulate.validate", "hold predictions against what was published and measured"),
    "simulate study": ("ladder.simulate.study", "predict where each wiring wins, over models, links and batches"),
    "simulate page": ("ladder.pages.whatif", "write the simulator's tables for the what-if page"),
    "calibrate": ("ladder.simulate.calibrate", "fit the simulator to measured points"),
    "together": ("ladder.together", "run several commands in one process"),
    "report": ("ladder.pages.build", "render tables, figures and claims from records"),
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    lines = "\n".join(f"  {name:<17} {help_}" for name, (_, help_) in COMMANDS.items())
    top = Parser(
        prog="ladder",
        description="Communication-hiding transformers for tensor-parallel inference.",
        epilog=f"commands:\n{lines}\n\n`ladder COMMAND --help` explains each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("command", metavar="COMMAND")
    words = 2 if " ".join(argv[:2]) in COMMANDS else 1
    name = " ".join(argv[:words])
    # A rank that others wait for may be gone: the sentence about it must not drown in torch's C++ stack traces.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    gc.disable()  # until the work begins (ladder.job): it would search what is imported again and again
    try:
        try:
            top.parse_args(argv[:1])
            if name not in COMMANDS:
                raise unknown_name("command", name, COMMANDS)
            parser, run = command(name)
            args = parser.parse_args(argv[words:])
            outputs.check(parser, args)
            # A command that works on several ranks, started as none: {their number: words that it takes besides}
            for size, more in (run(args) or {}).items():
                from ladder.parallel.group import launch

                launch(size, [sys.executable, "-m", "ladder", *argv, *more])
        finally:
            print(end="", flush=True)  # a full disk is met here, not when the interpreter ends
    except Exception as error:
        told = sentence(error)
        if told is None:
            raise
        if isinstance(error, OSError) and not _takes_output():
            if isinstance(error, BrokenPipeError):  # whoever read the output (`| head`) has seen enough
                return 1
            told = f"standard output: {told}"
        tell(told, f"ladder {name}: " if name in COMMANDS else "ladder: ")
        return 1
    except KeyboardInterrupt:
        tell("interrupted", f"ladder {name}: ")
        return 130
    finally:
        gc.enable()
    return 0


def command(name: str) -> tuple[argparse.ArgumentParser, Callable[[argparse.Namespace], dict[int, list[str]] | None]]:
    """The parser of a subcommand, and what runs it."""
    module = importlib.import_module(COMMANDS[name][0])
    parser = Parser(
        prog=f"ladder {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    return parser, module.main


def _takes_output() -> bool:
    """Whether standard output takes what is left for it; if not, that is dropped."""
    try:
        print(end="", flush=True)
    except OSError:
        takes = False
    else:
        poll = select.poll()
        poll.register(1, 0)
        takes = not poll.poll(0)  # POLLERR: nobody reads
    if not takes:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return takes


if __name__ == "__main__":
    sys.exit(main())
