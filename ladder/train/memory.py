"""Will a training run fit, and which setting would make it? Estimates, in bytes of one rank."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ladder.errors import UserError
from ladder.files import size_text
from ladder.memory import available
from ladder.parallel.group import Group
from ladder.train.losses import LOGITS
from ladder.train.options import Options


@dataclass(frozen=True)
class Need:
    """states: fp32 weights, gradients and AdamW's two moments, exact but for rounding. working: an estimate of gathered
    weights, activations and logits at their peak."""

    states: int
    working: int

    @property
    def total(self) -> int:
        return self.states + self.working


def need(config, options: Options, ranks: Group) -> Need:
    """Of a model of ``config``; nothing is allocated."""
    data, tp, of_compute = ranks.size, ranks.tp, 2 if options.precision == "bf16" else 4
    hidden, layers, wide = config.hidden_size, config.num_hidden_layers, config.intermediate_size // tp
    queries, keys = (n * config.head_dim // tp for n in (config.num_attention_heads, config.num_key_value_heads))
    attention, mlp = hidden * (2 * queries + 2 * keys), 3 * hidden * wide
    rest = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2) + (2 * layers + 1) * hidden
    states = 16 * (layers * (attention + mlp) + rest) // options.shard
    # Gathered: what is outside of attention and MLP with its gradient, and two modules with one's gradient.
    gathered = of_compute * (2 * rest + 3 * max(attention, mlp)) if ranks.sharded else 0
    _, micro = options.per_rank(data)
    # Kept of each module: its input, and what its norm needs, in fp32 too; unless recomputed, what attention (queries
    # and keys before and after rotation) and MLP (gate, its activation, up, product) keep.
    inside = [(3 * queries + 4 * keys) * of_compute, 4 * wide * of_compute]
    a_layer = 2 * hidden * (2 * of_compute + 8)
    tokens = layers * a_layer + (max(inside) if options.activation_checkpointing else layers * sum(inside))
    logits = min(LOGITS, micro * options.sequence * config.vocab_size) * (of_compute + 12)
    return Need(states, gathered + micro * options.sequence * tokens + logits)


def check(config, options: Options, ranks: Group) -> None:
    """Refuse what cannot fit on this rank's device, whatever its activations take."""
    free = available(ranks.device)
    needed = need(config, options, ranks)
    if free is not None and needed.states > free:
        raise UserError(
            f"weights, gradients and optimizer take {size_text(needed.states)} of each rank, but {ranks.device} has "
            f"{size_text(free)} free; {cure(config, options, ranks, free)}"
        )


def cure(config, options: Options, ranks: Group, free: int | None) -> str:
    """The least change of settings that needs less than now and, by the estimate, fits into ``free`` bytes."""
    now = need(config, options, ranks)
    smallest = None
    for changed, flags in _cures(options, ranks):
        found = need(config, changed, ranks)
        if found.total < now.total:
            smallest = flags
            if free is None or found.total <= free:
                fits = f" of {size_text(free)}" if free is not None else ""
                return f"{flags} would fit by the estimate ({size_text(found.total)}{fits})"
    more = "use more ranks, with --shard over all of them"
    return f"{smallest} needs least, but does not fit by the estimate either; {more}" if smallest else more


def _cures(options: Options, ranks: Group) -> Iterator[tuple[Options, str]]:
    """Smaller micro-batches first, which cost least; then recomputing; then sharding over more ranks."""
    _, micro = options.per_rank(ranks.size)
    micros = [micro >> n for n in range(micro.bit_length())]
    for shard in (n for n in range(options.shard, ranks.size + 1) if ranks.size % n == 0):
        for recompute in sorted({options.activation_checkpointing, True}):
            for smaller in micros:
                changed = replace(
                    options, shard=shard, activation_checkpointing=recompute, micro_batch=smaller, tp_ranks=ranks.tp
                )
                with contextlib.suppress(UserError):
                    changed.per_rank(ranks.size)
                    flags = [f"--micro-batch {smaller}"] * (smaller != micro)
                    flags += ["--activation-checkpointing"] * (recompute != options.activation_checkpointing)
                    flags += [f"--shard {shard}"] * (shard != options.shard)
                    if flags:
                        yield changed, " ".join(flags)


@contextlib.contextmanager
def explained(config, options: Options, ranks: Group) -> Iterator[None]:
    """Turn running out of memory into a sentence that says which setting would fit."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)):
            raise
        free = torch.cuda.get_device_properties(ranks.device).total_memory if ranks.device.type == "cuda" else None
        _, micro = options.per_rank(ranks.size)
        raise UserError(
            f"out of memory on {ranks.device} with --micro-batch {micro}; {cure(config, options, ranks, free)}"
        ) from error
