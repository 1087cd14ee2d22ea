"""Mutated inputs, each of which must end in success or in one sentence: never in a traceback, and not after 10 s.

    python -m tests.fuzz --seed 7 --count 400

prints a table by kind, and a line for each input that was accepted (to be judged by a reader) or that failed.
"""

import argparse
import contextlib
import io
import itertools
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # as pytest does
from fuzz_inputs import KINDS

SECONDS = 10


class Outcome(NamedTuple):
    verdict: str  # accepted, sentence, noise, traceback, hang
    said: str


class Hang(BaseException):
    """The command did not end in time."""


# The oracle --------------------------------------------------------------------------------------------------------


def judge(target: list | Callable) -> Outcome:
    """Run a command line (or a function) and say how it ended."""
    from ladder.cli import main
    from ladder.errors import sentence

    def stop(*_):
        raise Hang

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = (target(), 0)[1] if callable(target) else main([str(word) for word in target])
            except Exception as error:
                if not callable(target) or sentence(error) is None:
                    raise
                code = print(f"ladder: {sentence(error)}", file=err) or 1
    except Hang:
        return Outcome("hang", f"over {SECONDS} s")
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error}"[:160].replace("\n", " ")
        return Outcome("traceback", f"{said} ({Path(last.filename).name}:{last.lineno})")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    said = err.getvalue()
    if code == 0:
        return Outcome("accepted", said[-160:].strip())
    return Outcome("sentence" if code == 1 and len(said.strip().splitlines()) == 1 else "noise", said[:300].strip())


def make_checkpoint(folder: Path) -> Path:
    """A small Llama in two files, with a tokenizer, converted so that it has a ladder.json."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ladder.cli import main
    from ladder.data.tokenizer import chat_template, train

    train(["a text of some words"] * 9, 300, folder / "plain", chat_template("chatml"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=300, num_key_value_heads=2, max_position_embeddings=64, **sizes))
    model.save_pretrained(folder / "plain", max_shard_size="20KB")
    words = ["convert", folder / "plain", folder / "model", "--wiring", "standard"]
    assert main([str(word) for word in words]) == 0
    return folder / "model"


def run(seed: int, count: int, checkpoint: Path, kinds: list[str] | None = None) -> Iterator[tuple[str, str, Outcome]]:
    """(kind, mutation, outcome) of ``count`` mutations, the kinds in turn."""
    for number, name in zip(range(count), itertools.cycle(kinds or KINDS), strict=False):
        rng = random.Random(f"{seed} {number}")
        with tempfile.TemporaryDirectory() as folder:
            target, act = KINDS[name](rng, Path(folder), checkpoint)
            yield name, act, judge(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", choices=KINDS)
    args = parser.parse_args()
    os.environ |= {"LADDER_TRACKING": "off", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    verdicts, lines = {name: Counter() for name in KINDS}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, act, outcome in run(args.seed, args.count, make_checkpoint(Path(folder)), args.kinds):
            verdicts[name][outcome.verdict] += 1
            if outcome.verdict != "sentence":
                lines.append(f"{outcome.verdict:<10} {name:<22} {act!r:.100}  {outcome.said!r:.240}")
    columns = ("sentence", "accepted", "noise", "traceback", "hang")
    print(f"{'kind':<22} {'tried':>9}", *(f"{column:>9}" for column in columns))
    for name, counts in (*verdicts.items(), ("all", sum(verdicts.values(), Counter()))):
        print(f"{name:<22} {counts.total():>9}", *(f"{counts[column]:>9}" for column in columns))
    print(*sorted(lines), sep="\n")


if __name__ == "__main__":
    main()
