"""The plain model's generation, which the timed path is checked against, and random weights for both."""

import hashlib

import torch
from transformers import StaticCache

from ladder.model.modeling import LadderForCausalLM
from ladder.residual import Table

STD = 0.02  # of the random weights, as in pretraining


def random_weight(seed: int, device: str = "cpu", dtype: torch.dtype = torch.float32):
    """``weight(name, parameter)`` for :func:`shard`: the same values on every rank, one full tensor at a time."""

    def weight(name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(parameter.shape, dtype=dtype, device=device)
        key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")
        generator = torch.Generator(device).manual_seed(key)
        return torch.empty(parameter.shape, device=device).normal_(0, STD, generator=generator).to(dtype)

    return weight


class Decoder:
    """One wiring's generation, as transformers runs it, over a model that several wirings share.

    ``ids`` [batch, prompt + new tokens] are fed whatever the logits say, so that every wiring sees the same input.
    """

    def __init__(self, model: LadderForCausalLM, rows: Table, ids: torch.Tensor, prompt: int, all_reduce):
        self.model, self.rows, self.ids, self.prompt, self.all_reduce = model, rows, ids, prompt, all_reduce
        self.cache = StaticCache(config=model.config, max_cache_len=ids.shape[1])
        self.position = 0

    def prefill(self) -> torch.Tensor:
        """Read the prompt into an empty cache; logits of its last position [batch, vocabulary]."""
        with torch.inference_mode():
            self.cache.reset()
        self.position = 0
        return self._forward(self.prompt)

    def step(self) -> torch.Tensor:
        """One more token per sequence; its logits [batch, vocabulary]."""
        return self._forward(1)

    def _forward(self, count: int) -> torch.Tensor:
        self.model.rewiring.table, self.model.rewiring.all_reduce = self.rows, self.all_reduce
        ids = self.ids[:, self.position : self.position + count]
        self.position += count
        with torch.inference_mode():
            return self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits[:, -1]


def logits(decoder, steps: int) -> torch.Tensor:
    """Logits of the prompt's last position and of ``steps`` decode steps [batch, 1 + steps, vocabulary]."""
    # Cloned: a captured step overwrites the one before.
    return torch.stack([decoder.prefill().clone(), *(decoder.step().clone() for _ in range(steps))], dim=1)
