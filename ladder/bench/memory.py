"""Will it fit? What one rank needs, counted from the model's parameters and the slicing plan before any weight is made.

Everything is in bytes unless it says GiB.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, prod

import torch

from ladder.errors import UserError
from ladder.memory import GIB, available
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.parallel import slicing
from ladder.residual import Table

# Hidden states that live at once in prefill beside those of sums under way: the stream, what is read of it, its norm,
# partial outputs, and what is being added up.
STREAMS = 8

Shapes = dict[str, tuple[int, ...]]


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


def shapes(config: LadderConfig) -> Shapes:
    """Shape of each parameter of the whole model, tied ones once."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in LadderForCausalLM(config).named_parameters()}


def shard_shapes(config: LadderConfig, tp: int, replicate_kv: bool = False, whole: Shapes | None = None) -> Shapes:
    """The same of one of ``tp`` ranks, embeddings and head replicated (as :func:`ladder.model.modeling.build` does).

    All ranks' are alike: a degree that does not divide is refused (UserError). whole: of the whole model, if known.
    """
    slicing.check_degree(config, tp, replicate_kv=replicate_kv)
    found = {}
    for name, shape in (shapes(config) if whole is None else whole).items():
        index = slicing.part(name, shape, 0, tp, config)
        found[name] = tuple(len(range(*part.indices(size))) for part, size in zip(index, shape, strict=True))
    return found


def kv_bytes(shard: Shapes, batch: int, length: int, dtype_bytes: int) -> int:
    """K and V of ``length`` positions: as wide as the rank's own projections."""
    width = sum(shape[0] for name, shape in shard.items() if name.endswith(("k_proj.weight", "v_proj.weight")))
    return width * batch * length * dtype_bytes


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
) -> Memory:
    """What one of ``tp`` ranks needs to generate ``batch`` sequences of ``length`` tokens (prompt and new ones).

    prompt: tokens of a prefill (default: ``length``, the most). caches: wirings timed in one process have one each.
    in_flight: the most of the wirings' :func:`in_flight` (default: ladder's).

    Weights and caches are exact. Activations are an estimate of eager prefill's peak: per token STREAMS + ``in_flight``
    hidden states, and the larger of the norm (two in fp32) and the widest module: attention keeps Q, K and V before and
    after rotation and its output; the MLP keeps gate and up in one, the activated gate, and the product. Then the
    logits of the last position. Attention itself is taken to be a fused kernel, without a matrix of scores.
    """
    choices = {"prompt": prompt, "caches": caches, "in_flight": in_flight}
    return _need(config, shapes(config), tp, batch, length, dtype_bytes, replicate_kv, **choices)


def _need(config, whole: Shapes, tp, batch, length, dtype_bytes, replicate_kv, *, prompt, caches, in_flight) -> Memory:
    shard = shard_shapes(config, tp, replicate_kv, whole)
    queries, keys = (shard[f"model.layers.0.self_attn.{name}_proj.weight"][0] for name in "qk")
    intermediate, hidden = shard["model.layers.0.mlp.gate_proj.weight"]
    module = max(3 * queries + 4 * keys, 4 * intermediate) * dtype_bytes
    token = (STREAMS + in_flight) * hidden * dtype_bytes + max(2 * 4 * hidden, module)
    tokens = batch * (length if prompt is None else prompt)
    return Memory(
        weights=sum(map(prod, shard.values())) * dtype_bytes,
        kv=kv_bytes(shard, batch, length, dtype_bytes) * caches,
        activations=tokens * token + batch * config.vocab_size * dtype_bytes,
        loading=max(map(prod, whole.values())) * dtype_bytes,
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
    prompt: int | None = None,
    caches: int = 1,
    in_flight: int = 2,
    extra: int = 0,
    sharing: int = 1,
) -> Memory:
    """What the model called ``name`` needs on a rank (:func:`need`), if ``device`` has that much.

    extra: bytes of a rank beside it, as the check of logits needs. sharing: ranks that share the device's memory (those
    of one machine, on CPU). Raises UserError with what would fit.
    """
    free, whole = available(device), shapes(config)
    choices = {"prompt": prompt, "caches": caches, "in_flight": in_flight}

    def of(tp: int = tp, batch: int = batch, layers: int | None = None, replicate_kv: bool = replicate_kv) -> int:
        chosen = whole if layers is None else {n: shape for n, shape in whole.items() if _layer(n) < layers}
        return _need(config, chosen, tp, batch, length, dtype_bytes, replicate_kv, **choices).total

    def room(degree: int) -> int:
        """Bytes for one of ``degree`` ranks, on as many devices as now if they share them."""
        return free // (ceil(sharing * degree / tp) if sharing > 1 else 1) - extra

    wanted = _need(config, whole, tp, batch, length, dtype_bytes, replicate_kv, **choices)
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


def _layer(parameter: str) -> int:
    """The layer that the parameter called so belongs to; -1: none."""
    after = parameter.partition(".layers.")[2]
    return int(after.partition(".")[0]) if after else -1


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"
