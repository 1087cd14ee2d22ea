"""Will it fit? What one rank needs, counted from the model's shape before any weight is made.

Everything is in bytes unless it says GiB.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil

import torch

from ladder.cost import GIB, Part, eager_prefill, part
from ladder.errors import UserError
from ladder.memory import available
from ladder.model import slicing
from ladder.model.modeling import LadderConfig
from ladder.residual import Table


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. loading: the largest weight as a whole, which is there while a rank's slice is cut from it."""

    weights: int
    kv: int
    activations: int
    loading: int

    @property
    def total(self) -> int:
        """Weights are made before the first cache and the first prefill."""
        return self.weights + max(self.loading, self.kv + self.activations)


def rank_part(config: LadderConfig, tp: int = 1, replicate_kv: bool = False) -> Part:
    """One of ``tp`` ranks' part, all of them alike: a degree that does not divide is refused (UserError)."""
    slicing.check_degree(config, tp, replicate_kv=replicate_kv)
    return part(config, tp, signal=config.rows().signal)


def need(
    config: LadderConfig,
    tp: int,
    batch: int,
    length: int,
    dtype_bytes: int,
    replicate_kv: bool = False,
    *,
    prompt: int | None = None,
    caches: int = 1,
    in_flight: int = 2,
    layers: int | None = None,
) -> Memory:
    """What one of ``tp`` ranks needs to generate ``batch`` sequences of ``length`` tokens (prompt and new ones).

    prompt: tokens of a prefill (default: ``length``, the most). caches: wirings timed in one process have one each.
    in_flight: the most of the wirings' :func:`in_flight` (default: ladder's). layers: that many instead of all.

    Weights and caches are exact, activations an estimate of eager prefill's peak.
    """
    mine = replace(rank_part(config, tp, replicate_kv), layers=layers or config.num_hidden_layers)
    return Memory(
        weights=mine.weights * dtype_bytes,
        kv=mine.kv(batch, length) * dtype_bytes * caches,
        activations=eager_prefill(mine, batch, length if prompt is None else prompt, dtype_bytes, in_flight),
        loading=part(config).largest * dtype_bytes,
    )


def in_flight(rows: Table) -> int:
    """Hidden states kept for sums under way under a wiring's ``rows``: a rank's own share is read beside its sum."""
    steps = {"launch": 1, "wait": -1, "compute": 0}
    sums = max(accumulate(steps[event.kind] for event in rows.events))
    return sums * (2 if rows.shares else 1)


def check_fits(
    name: str,
    device: str | torch.device,
    config: LadderConfig,
    tp: int,
    batch: int,
    length: int,
    dtype_bytes: int,
    replicate_kv: bool = False,
    *,
    extra: int = 0,
    sharing: int = 1,
    **choices,
) -> Memory:
    """What the model called ``name`` needs on a rank (:func:`need`, with its ``choices``), if ``device`` has that much.

    extra: bytes of a rank beside it, as the check of logits needs. sharing: ranks that share the device's memory (those
    of one machine, on CPU). Raises UserError with what would fit.
    """
    free = available(device)

    def of(tp: int = tp, batch: int = batch, layers: int | None = None, replicate_kv: bool = replicate_kv) -> int:
        return need(config, tp, batch, length, dtype_bytes, replicate_kv, layers=layers, **choices).total

    def room(degree: int) -> int:
        """Bytes for one of ``degree`` ranks, on as many devices as now if they share them."""
        return free // (ceil(sharing * degree / tp) if sharing > 1 else 1) - extra

    wanted = need(config, tp, batch, length, dtype_bytes, replicate_kv, **choices)
    if free is None or wanted.total <= room(tp):
        return wanted
    cures, depth = [], config.num_hidden_layers
    for shared in sorted({replicate_kv, True}):
        degrees = (d for d in range(1, config.num_attention_heads + 1) if _splits(config, d, shared))
        degree = next((d for d in degrees if of(tp=d, replicate_kv=shared) <= room(d)), None)
        if degree:
            cures.append(f"--tp {degree}" + (" --replicate-kv" if shared and not replicate_kv else ""))
            break
    if layers := bisect_right(range(1, depth), room(tp), key=lambda n: of(layers=n)):
        cures.append(f"--layers {layers} (of {depth}, extrapolated)")
    if smaller := bisect_right(range(1, batch), room(tp), key=lambda n: of(batch=n)):
        cures.append(f"--batch {smaller}")
    if not cures and (layers := bisect_right(range(1, depth), room(tp), key=lambda n: of(batch=1, layers=n))):
        cures.append(f"--batch 1 --layers {layers} (of {depth}, extrapolated)")
    cure = f"{' or '.join(cures)} would fit" if cures else "no TP degree, no batch and no number of layers would fit"
    beside = {"KV cache": wanted.kv, "activations": wanted.activations}
    if wanted.loading > wanted.kv + wanted.activations:
        beside = {"the largest weight before it is sliced": wanted.loading}
    beside |= {"the check of logits": extra} if extra else {}
    parts = ", ".join(f"{what} {_gib(size)}" for what, size in {"weights": wanted.weights, **beside}.items())
    raise UserError(
        f"{name} at --tp {tp} --batch {batch} needs {_gib(wanted.total + extra)} GiB on a rank ({parts}), but "
        f"{device} has {_gib(free)} GiB free{f' for {sharing} ranks' if sharing > 1 else ''}; {cure}"
    )


def _splits(config: LadderConfig, degree: int, replicate_kv: bool) -> bool:
    try:
        slicing.check_degree(config, degree, replicate_kv=replicate_kv)
    except UserError:
        return False
    return True


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"
