"""The settings of a benchmark of prefill and decode: declarations, and the defaults of a device (no torch)."""

from dataclasses import MISSING, dataclass

from ladder.options import COUNT, LENGTH, POSITIVE, RANKS, SEED, option
from ladder.outputs import path_or_name

WIRINGS = ("standard", "parallel", "ladder", "upper_bound")
BACKENDS = ("gloo", "nccl", "one-shot", "two-shot", "multimem")
PATH = {"type": path_or_name}


@dataclass(frozen=True)
class Options:
    """What `ladder bench` times. The ``numeric`` ones are what a record was made with: one made with anything else is
    another measurement. The rest chooses which points there are, or what is done with them."""

    size: tuple[str, ...] = option(MISSING, "rows of the table of sizes, or a config.json", one=True, more=PATH)
    tp: tuple[int, ...] = option(MISSING, "tensor-parallel degrees", one=True, **RANKS)
    layers: int | None = option(None, "run this many of the model's layers", minimum=1, maximum=1000)
    extrapolate: bool = option(False, "with --layers: times of the whole depth, from these and half of them")
    replicate_kv: bool = option(False, "with more ranks than KV heads, several ranks hold the same one")
    batch: tuple[int, ...] = option((1,), "sequences at once", one=True, **LENGTH)
    prompt: tuple[int, ...] = option((32,), "prompt tokens", one=True, **LENGTH)
    new_tokens: tuple[int, ...] = option((60,), "decode steps, each one a sample", one=True, **LENGTH | {"minimum": 2})
    prefills: int = option(6, "prefill samples", **COUNT)
    wirings: tuple[str, ...] = option(WIRINGS, "rows of the table of wirings")
    emulate: bool = option(False, "one rank with an emulated link, instead of real ranks", profile=False)
    rho: tuple[float, ...] = option(
        (), "emulated links: all-reduce time / mean module time at the first point", numeric=False, **POSITIVE
    )
    link: tuple[str, ...] = option(
        (), "emulated links: names of the table of links, or files of `ladder bench link`", numeric=False, more=PATH
    )
    blocks: int = option(0, "multiprocessors that an emulated all-reduce keeps busy on a GPU", **RANKS | {"minimum": 0})
    device: str = option("cpu", "where the ranks compute", profile=False, enum=("cpu", "cuda"))
    dtype: str | None = option(None, "default: fp32 on CPU, bf16 on cuda", enum=("fp32", "bf16", "fp16"))
    compute: tuple[str, ...] = option((), "default: eager on CPU, graphs on cuda", enum=("eager", "compiled", "graphs"))
    attention: str = option("matmul", "of decode", enum=("matmul", "sdpa", "flex"))
    backend: str | None = option(None, "reduces over real ranks (default: gloo on CPU, nccl on cuda)", enum=BACKENDS)
    baseline: bool = option(False, "also time plain transformers, static cache, compiled (TP 1)")
    trace: bool = option(False, "also write NAME.trace.json for ui.perfetto.dev", numeric=False, profile=False)
    replace: bool = option(
        False, "measure anew a point whose record was made with other settings", numeric=False, profile=False
    )
    seed: int = option(0, "of the random weights and tokens", profile=False, **SEED)


def defaults(device: str) -> dict:
    """The options that depend on the device, where they are not given."""
    if device == "cuda":
        return {"dtype": "bf16", "compute": ["graphs"], "backend": "nccl"}
    return {"dtype": "fp32", "compute": ["eager"], "backend": "gloo"}
