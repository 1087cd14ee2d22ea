"""What is timed: prefill and single-token decode steps of a (sharded) model; wirings share weights, not caches."""

import hashlib

import torch
from transformers import StaticCache

from ladder.model.modeling import LadderForCausalLM
from ladder.wiring import ends_apart, table, tied, trace

STD = 0.02  # of the random weights, as in pretraining


def random_weight(seed: int, device: str = "cpu", dtype: torch.dtype = torch.float32):
    """``weight(name, parameter)`` for :func:`shard`: the same values on every rank, one full tensor at a time."""

    def weight(name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(parameter.shape, dtype=dtype, device=device)
        key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(key)
        return torch.empty(parameter.shape).normal_(0, STD, generator=generator).to(device, dtype)

    return weight


class Decoder:
    """One wiring's generation over a model that several wirings share.

    ``ids`` [batch, prompt + new tokens] are fed whatever the logits say, so that every wiring sees the same input.
    ``tp``: the number of ranks, of which ``model`` is one.
    """

    def __init__(self, model: LadderForCausalLM, wiring: str, tp: int, ids: torch.Tensor, prompt: int, all_reduce):
        self.model, self.wiring, self.ids, self.prompt = model, wiring, ids, prompt
        self.rows = table(wiring, model.config.num_hidden_layers, tp)
        self.all_reduce = all_reduce
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
        self.model.model.rows, self.model.model.all_reduce = self.rows, self.all_reduce
        ids = self.ids[:, self.position : self.position + count]
        self.position += count
        with torch.inference_mode():
            return self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits[:, -1]


def unsharded(model: LadderForCausalLM, wiring: str, tp: int, ids: torch.Tensor, prompt: int) -> Decoder:
    """What ``tp`` ranks must give together: a whole model's generation, over virtual ranks if the wiring is tied."""
    model.model.set_virtual_ranks(tp if tied(wiring) else 1)
    return Decoder(model, wiring, tp, ids, prompt, model.model.all_reduce)


def difference(found: torch.Tensor, expected: torch.Tensor, decoder_rows, rank: int, tp: int) -> float:
    """Largest difference between rank ``rank``'s logits and the unsharded model's [..., vocabulary].

    Where the ranks' streams end apart, a rank's logits count in its own part of the vocabulary only.
    """
    apart = (found - expected).abs()
    return (apart.chunk(tp, -1)[rank] if ends_apart(decoder_rows) else apart).max().item()


def logits(decoder: Decoder, steps: int) -> torch.Tensor:
    """Logits of the prompt's last position and of ``steps`` decode steps [batch, 1 + steps, vocabulary]."""
    return torch.stack([decoder.prefill(), *(decoder.step() for _ in range(steps))], dim=1)


def modules(model: LadderForCausalLM) -> list[torch.nn.Module]:
    """Attention and MLP of each layer, in the order of the wiring's rows."""
    return [module for layer in model.model.layers for module in (layer.self_attn, layer.mlp)]


class Watch:
    """Notes, while the block lasts, when attention and MLP modules run (``clock`` seconds) and in which order."""

    def __init__(self, model: LadderForCausalLM, clock):
        self.model, self.clock = model, clock
        self.spans: list[tuple[int, float, float]] = []  # (module, start, end)

    def __enter__(self):
        self.handles, start = [], {}
        for n, module in enumerate(modules(self.model)):

            def before(*_, n=n):
                start[n] = self.clock()

            def after(*_, n=n):
                self.spans.append((n, start[n], self.clock()))

            self.handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()

    def seconds(self) -> list[float]:
        """Of each module, in order."""
        return [end - start for _, start, end in self.spans]


def order(decoder: Decoder) -> list[tuple[str, int]]:
    """Computing, launching and waiting as they really happen in one decode step: [(kind, module or all-reduce)]."""
    seen: list[tuple[str, int]] = []
    real, launched = decoder.all_reduce, 0

    class Noted:
        def __init__(self, handle, index):
            self.handle, self.index = handle, index

        def wait(self):
            seen.append(("wait", self.index))
            return self.handle.wait()

    def all_reduce(partial):
        nonlocal launched
        seen.append(("launch", launched))
        launched += 1
        return Noted(real(partial), launched - 1)

    handles = []
    for n, module in enumerate(modules(decoder.model)):
        handles.append(module.register_forward_pre_hook(lambda *_, n=n: seen.append(("compute", n))))
    decoder.all_reduce = all_reduce
    try:
        decoder.step()
    finally:
        decoder.all_reduce = real
        for handle in handles:
            handle.remove()
    return seen


def expected_order(decoder: Decoder) -> list[tuple[str, int]]:
    """The same, as the wiring table says."""
    return [(event.kind, event.index) for event in trace(decoder.rows)]
