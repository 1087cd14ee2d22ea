"""A model and data small enough to train in a second; also run by torchrun, as one of two ranks (see test_ranks.py)."""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from ladder.model import LadderConfig, LadderForCausalLM
from ladder.train import ranks
from ladder.train.batches import PackedTokens
from ladder.train.loop import train
from ladder.train.options import Options
from ladder.train.state import Checkpoints

VOCAB = 64
TOY = {"sequence": 16, "steps": 6, "batch": 4, "lr": 1e-2, "warmup": 2, "evaluate_every": 3, "validation_windows": 5}
TOY |= {"checkpoint_every": 2, "device": "cpu"}


class Stream:
    """Stands for TokenShards: tokens that follow from the ones before, so that there is something to learn."""

    def __init__(self, tokens: int, seed: int):
        self.stream = np.cumsum(np.random.default_rng(seed).integers(0, 4, tokens)) % VOCAB
        self.tokens = tokens

    def read(self, start: int, length: int) -> np.ndarray:
        return self.stream[start : start + length].astype(np.int64)


class Tracking:
    """Keeps what is logged; ``at`` calls a function when a step is logged."""

    def __init__(self, at=None):
        self.logged, self.at = [], at or {}

    def log(self, step, values):
        self.logged.append((step, values))
        if "train/loss" in values and step in self.at:
            self.at[step]()

    def flush(self):
        pass


def options(**changes) -> Options:
    return Options(**TOY | changes)


def model(seed: int = 0, wiring: str = "ladder") -> LadderForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LadderForCausalLM(LadderConfig(vocab_size=VOCAB, tie_word_embeddings=True, wiring=wiring, **shape))


def run(work, tracking=None, net=None, data=None, these=None, **changes):
    """Train the toy in ``work``, from its last checkpoint if it has one; (final state, {name: weight})."""
    chosen = options(**changes)
    net = net or model()
    data = data or PackedTokens(Stream(700, 1), chosen.sequence)
    held_out = PackedTokens(Stream(200, 2), chosen.sequence)
    with contextlib.nullcontext(these) if these else ranks.start(chosen) as these:
        checkpoints = Checkpoints(work, these, chosen.keep, chosen.numeric())
        state = checkpoints.latest()
        net = ranks.distribute(net, these, chosen)
        state = train(net, data, held_out, chosen, these, checkpoints, state, tracking)
        weights = {name: whole(value) for name, value in net.named_parameters()}
    return state, weights


def whole(value) -> torch.Tensor:
    value = value.full_tensor() if hasattr(value, "full_tensor") else value
    return value.detach().clone()


def losses(state) -> list[float]:
    return [point["loss"] for point in state.training]


def killed():
    raise KeyboardInterrupt("as if killed")


def two_ranks(folder: Path, cases: dict) -> None:
    """What a rank under torchrun does: every case in turn, the results to a file of its own."""
    results = {}
    with ranks.start(options()) as these:
        for name, changes in cases.items():
            if kill := changes.pop("kill", None):
                with contextlib.suppress(KeyboardInterrupt):
                    run(folder / name, Tracking({kill["at"]: killed}), these=these, **kill["options"])
            state, weights = run(folder / name, these=these, **changes)
            norm = sum(value.double().square().sum().item() for value in weights.values()) ** 0.5
            results[name] = {"training": losses(state), "validation": state.validation, "norm": norm}
    (folder / f"rank{these.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    two_ranks(Path(sys.argv[1]), json.loads(sys.argv[2]))
