"""A model and data small enough to train in a second."""

import contextlib

import numpy as np
import torch

from ladder.model import LadderConfig, LadderForCausalLM
from ladder.parallel.group import join
from ladder.train import layout
from ladder.train.batches import PackedTokens
from ladder.train.loop import train
from ladder.train.methods import SFT
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


def model(seed: int = 0, wiring: str = "ladder", tp: int | None = None, vocab: int = VOCAB) -> LadderForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"vocab_size": vocab, "tie_word_embeddings": True}
    return LadderForCausalLM(LadderConfig(wiring=wiring, tensor_parallel_size=tp, **shape))


def run(work, tracking=None, net=None, data=None, these=None, objective=SFT, **changes):
    """Train the toy in ``work``, from its last checkpoint if it has one; (final state, {name: weight})."""
    chosen = options(**changes)
    net = net or model()
    data = data or PackedTokens(Stream(700, 1), chosen.sequence)
    held_out = PackedTokens(Stream(200, 2), chosen.sequence)
    with contextlib.nullcontext(these) if these else join("cpu", always=chosen.sharded) as these:
        checkpoints = Checkpoints(work, these, chosen.keep, chosen.numeric())
        state = checkpoints.latest()
        net = layout.distribute(net, these, chosen)
        state = train(net, data, held_out, chosen, these, checkpoints, state, tracking, objective)
        weights = {name: value.clone() for name, value in net.layout.gathered(net).items()}
    return state, weights


def losses(state) -> list[float]:
    return [point["loss"] for point in state.training]


def killed():
    raise KeyboardInterrupt("as if killed")
