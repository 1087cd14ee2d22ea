"""Will a training run fit, and which setting would make it? Estimates, in bytes of one rank."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from ladder import cost
from ladder.cost import Training
from ladder.errors import UserError
from ladder.files import size_text
from ladder.memory import available
from ladder.parallel.group import Group
from ladder.train.losses import LOGITS
from ladder.train.options import Options


def need(config, options: Options, ranks: Group, trained: float = 1.0) -> Training:
    """Of a model of ``config`` of which the share ``trained`` is not frozen; nothing is allocated."""
    part = cost.part(config, ranks.tp)
    tokens = options.per_rank(ranks.size)[1] * options.sequence
    return cost.training(
        part,
        tokens,
        2 if options.precision == "bf16" else 4,
        shard=options.shard,
        gathered=ranks.sharded,
        recompute=options.activation_checkpointing,
        logits=min(LOGITS[ranks.device.type], tokens * part.vocab),
        trained=trained,
    )


def check(config, options: Options, ranks: Group, trained: float = 1.0) -> None:
    """Refuse what cannot fit on this rank's device, whatever its activations take."""
    free = available(ranks.device)
    needed = need(config, options, ranks, trained)
    if free is not None and needed.states > free:
        raise UserError(
            f"weights, gradients and optimizer take {size_text(needed.states)} of each rank, but {ranks.device} has "
            f"{size_text(free)} free; {cure(config, options, ranks, free, trained)}"
        )


def cure(config, options: Options, ranks: Group, free: int | None, trained: float = 1.0) -> str:
    """The least change of settings that needs less than now and, by the estimate, fits into ``free`` bytes."""
    now = need(config, options, ranks, trained)
    smallest = None
    for changed, flags in _cures(options, ranks):
        found = need(config, changed, ranks, trained)
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
def explained(config, options: Options, ranks: Group, trained: float = 1.0) -> Iterator[None]:
    """Turn running out of memory into a sentence that says which setting would fit."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)):
            raise
        free = torch.cuda.get_device_properties(ranks.device).total_memory if ranks.device.type == "cuda" else None
        _, micro = options.per_rank(ranks.size)
        raise UserError(
            f"out of memory on {ranks.device} with --micro-batch {micro}; {cure(config, options, ranks, free, trained)}"
        ) from error
