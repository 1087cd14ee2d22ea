"""Interconnects as rows: what one all-reduce costs on each, and where every number is from.

    seconds = alpha(ranks) + bytes * beta(ranks),    beta(ranks) = 2 (ranks - 1) / ranks / bus bandwidth

Bus bandwidth is that of nccl-tests (doc/PERFORMANCE.md). The cost is affine, real links are not: they change protocol
with the size. A row holds for decode, whose messages of kilobytes are nearly all latency; at 1 to 16 MB, as in
prefill, 8 H100 took 1.1 to 1.4 times as long as their row says (in the measurement that it cites, 2 MB aside).
Most rows are of single runs on somebody's machine: others of the same kind differ by tens of percent.

``ladder bench link`` measures the link at hand and writes a file that stands for a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, log2
from pathlib import Path

import numpy as np

from ladder.errors import UserError, unknown_name
from ladder.link_rows import ROWS
from ladder.reading import read_json, take, whole

MOST_IN_FLIGHT = 64
ORIGINS = ("published", "fitted", "measured", "assumed")  # the first word of each number's source


@dataclass(frozen=True)
class Link:
    """An interconnect.

    latency_us: microseconds of an all-reduce of few bytes (kilobytes at most), by number of ranks. bus_bandwidth:
    bytes/s of large ones.
    latency_from, bandwidth_from: "published: ...", "fitted: ...", "measured: ..." or "assumed: ...".
    in_flight: how many all-reduces may be under way at once: 1 for NCCL (a communicator is serial), 2 for gloo.
    """

    name: str
    words: str
    latency_us: Mapping[int, float]
    bus_bandwidth: float
    latency_from: str
    bandwidth_from: str
    in_flight: int = 1

    def __post_init__(self):
        numbers = [*self.latency_us.values(), self.bus_bandwidth]
        if not self.latency_us or not all(isfinite(number) and number > 0 for number in numbers):
            raise ValueError("latencies and bus bandwidth must be finite numbers above 0")
        if type(self.in_flight) is not int or not 1 <= self.in_flight <= MOST_IN_FLIGHT or min(self.latency_us) < 2:
            raise ValueError(f"in_flight must be 1 to {MOST_IN_FLIGHT}, and a latency is that of at least 2 ranks")
        for source in (self.latency_from, self.bandwidth_from):
            if source.partition(":")[0] not in ORIGINS:
                raise ValueError(f"a source begins with one of {', '.join(ORIGINS)} and a colon, not {source!r}")

    @property
    def source(self) -> str:
        """Where both numbers are from, in words."""
        return f"latency {self.latency_from}; bandwidth {self.bandwidth_from}"

    @property
    def origin(self) -> str:
        latency, bandwidth = (text.partition(":")[0] for text in (self.latency_from, self.bandwidth_from))
        return latency if latency == bandwidth else f"latency {latency}, bandwidth {bandwidth}"

    def alpha(self, ranks: int) -> float:
        """Seconds of an all-reduce of no bytes (:func:`latency`)."""
        return 0.0 if ranks == 1 else float(latency(self.latency_us, ranks)) * 1e-6

    def beta(self, ranks: int) -> float:
        """Seconds per byte."""
        return 2 * (ranks - 1) / ranks / self.bus_bandwidth

    def seconds(self, nbytes: int, ranks: int) -> float:
        """Seconds of one all-reduce of ``nbytes`` on each of ``ranks``."""
        return self.alpha(ranks) + nbytes * self.beta(ranks)


def latency(us: Mapping, ranks: int):
    """The value at ``ranks`` of a table by number of ranks, whose values may be arrays.

    Between two entries linear in log2(ranks); below the first, that entry's value. Beyond the last it is assumed to go
    on with the slope of the last two, and not to fall; a single entry is assumed to be a tree whose levels cost the
    same, so latency grows as log2(ranks).
    """
    at = sorted(us)
    if ranks in us or ranks < at[0]:
        return us.get(ranks, us[at[0]])
    if ranks > at[-1]:
        before, value = (log2(at[-2]), us[at[-2]]) if len(at) > 1 else (0.0, 0.0)
        slope = np.maximum((us[at[-1]] - value) / (log2(at[-1]) - before), 0)
        return us[at[-1]] + slope * (log2(ranks) - log2(at[-1]))
    low, high = max(n for n in at if n < ranks), min(n for n in at if n > ranks)
    share = (log2(ranks) - log2(low)) / (log2(high) - log2(low))
    return us[low] + share * (us[high] - us[low])


DECODE = (
    "fitted: published 70B speed at batch 1 (reports/published/fig2_70b_throughput.csv; it mixes two machines): time "
    "per token of standard less that of the model without communication and less prefill's share, over 160 all-reduces"
)

LINKS = {
    link.name: link
    for link in (
        Link(
            "h100-nvlink",
            "H100 SXM, NVLink 4 and NVSwitch, one node, NCCL",
            {2: 12.9, 4: 14.4, 8: 24.0},
            370e9,
            f"{DECODE}. NCCL on 8 H100 took 19-21 us for 128 B to 16 KB "
            "(github.com/ByteDance-Seed/Triton-distributed/issues/57)",
            "published: 365-370 GB/s by rings of 2 to 8 GPUs (github.com/NVIDIA/nccl/issues/1455; NCCL's authors in "
            "nccl-tests/issues/212). In-switch reduction (NVLS) reaches 480 with 8 GPUs, for messages above 256 MB",
        ),
        Link(
            "h200-nvlink",
            "H200 SXM, NVLink 4 and NVSwitch, one node, NCCL",
            {2: 12.9, 4: 14.4, 8: 24.0},
            370e9,
            "assumed: as h100-nvlink; both have 18 links of NVLink 4, 900 GB/s (NVIDIA's system description for MLPerf "
            "Inference 4.1, H200-SXM-141GBx8)",
            "assumed: as h100-nvlink, for the same reason",
        ),
        Link(
            "nvlink-one-shot",
            "H100 SXM, NVLink 4 and NVSwitch, one node, one-shot kernel of vLLM in a CUDA graph",
            {2: 4.5, 4: 4.9, 8: 5.5},
            367e9,
            "published: 16 KB, back to back and so rather short (github.com/ai-dynamo/aiconfigurator, "
            "campaign_checkpoints/h100_sxm/custom_allreduce_perf.txt). Without a graph 8 KB took 11 us, and NCCL's 22 "
            "(github.com/yifuwang/symm-mem-recipes/pull/3). Every rank reads all others' bytes: with 8 ranks, 64 KB to "
            "1 MB take 1.3 to 1.9 times as long as this row says",
            "published: 320 us for 64 MiB with 8 Hopper GPUs by in-switch reduction (multimem), the faster kernel from "
            "512 KB on (github.com/vllm-project/vllm/pull/42324)",
        ),
        Link(
            "nvl72",
            "GB200 NVL72, NVLink 5 and NVSwitch, one rack, NCCL",
            {8: 23.0},
            840e9,
            "assumed: as 8 B200, 23 us for 32 KB, 4 with symmetric memory (github.com/NVIDIA/nccl-tests/issues/333); "
            "for more ranks no time of a small message was found",
            "published: 835-847 GB/s for 8 GiB on 72 GPUs (github.com/coreweave/nccl-tests/pull/43)",
        ),
        Link(
            "a100-nvlink",
            "A100 SXM, NVLink 3 and NVSwitch, one node, NCCL",
            {2: 10.0, 4: 16.9, 8: 33.7},
            230e9,
            "published: DGX A100, 8 to 128 B, one ring of one channel (github.com/NVIDIA/nccl-tests/issues/123)",
            "published: 231 GB/s for 1 GiB on 8 GPUs of one p4d.24xlarge (github.com/NVIDIA/nccl/issues/527); NCCL's "
            "own model has 235 as the most (src/graph/tuning.cc)",
        ),
        Link(
            "mi300x-xgmi",
            "MI300X, Infinity Fabric between every two, one node of 8, RCCL",
            {8: 14.0},
            315e9,
            "published: 13-15 us for 1 to 64 KB with 8 GPUs, 16-24 for fewer bytes (github.com/hisohara/ai-scripts, "
            "training/01_rccl-smoketest)",
            "published: 1 to 8 GiB with 8 GPUs (github.com/hisohara/ai-scripts). Two share one link, of which 48 GB/s "
            "can be used (rocm.blogs.amd.com, mi300x-rccl-xgmi): with fewer than 8 this row says too much",
        ),
        Link(
            "pcie5-host-staged",
            "PCIe 5 through host memory (NCCL without peer-to-peer), one node",
            {2: 21.5, 4: 26.4, 8: 64.1},
            28e9,
            f"{DECODE}; here with NCCL_P2P_DISABLE=1 on H100, where small messages go through host memory",
            "published: 8 RTX 5090, 1 to 8 GB; 35 GB/s with 4 (github.com/NVIDIA/nccl/issues/1639). Not the paper's "
            "machine: its large messages stayed on NVLink",
        ),
        Link(
            "pcie4-host-staged",
            "PCIe 4 through host memory (NCCL without peer-to-peer), one node",
            {2: 10.8, 8: 42.1},
            14e9,
            "published: 16 KB on 2 RTX 4070 Ti SUPER (pastebin.com/ne4ipn6K) and 8 B on 8 RTX 4090 (github.com/NVIDIA/"
            "nccl/issues/1530), back to back and so rather short; 8 RTX 3090 took 54 us (issues/1439)",
            "assumed: half of PCIe 5's. NCCL's topology of 8 RTX 4090 has 24 GB/s in a socket and 10 across "
            "(log in github.com/NVIDIA/nccl-tests/issues/307)",
        ),
        Link(
            "ib-ndr-2node",
            "two nodes of 8 GPUs with NVLink, 8 x 400 Gb/s InfiniBand NDR a node, NCCL",
            {16: 46.5},
            343e9,
            "published: 46.3-47.6 us for 4 to 512 B on 16 H20, NVLSTree (github.com/NVIDIA/nccl/issues/1244)",
            "published: the same machines, NCCL's default; two nodes of 8 H100 gave 330 GB/s without in-switch "
            "reduction, 430 with it (github.com/NVIDIA/nccl/issues/1221)",
        ),
        Link(
            "ib-ndr",
            "nodes of 8 H100 with NVLink, 8 x 400 Gb/s InfiniBand NDR a node, NCCL",
            {16: 32.5, 32: 47.5},
            366e9,
            "published: 16 KB on two and four nodes; 8 to 64 B took 25 and 35 us "
            "(github.com/NVIDIA/nccl-tests/issues/309)",
            "published: 16 GiB on four nodes; another cluster gave 467 GB/s with two nodes, 325 with four, 320 with "
            "eight (github.com/NVIDIA/nccl-tests/issues/309)",
        ),
        Link(
            "roce-400g",
            "two nodes of 8 MI355X, 8 x 400 Gb/s Ethernet (RoCE) a node, RCCL",
            {16: 46.0},
            385e9,
            "published: 46-47 us for 4 to 32 KB, 37 for 16 B (github.com/prasad-nair-amd/alibaba)",
            "published: 8 to 16 GiB (github.com/prasad-nair-amd/alibaba); two nodes of 8 H100 on such a network gave "
            "231 GB/s (github.com/NVIDIA/nccl/issues/2409)",
        ),
        Link(
            "ethernet-100g",
            "nodes of 8 GPUs with NVLink, one 100 Gb/s Ethernet adapter a node, NCCL",
            {16: 163.0, 32: 319.0, 64: 630.0},
            5e9,
            "published: 8 to 512 B on 2, 4 and 8 p3dn.24xlarge (V100, EFA; gist.github.com/jacobkahn/"
            "a92f4425abf831ac0799fabe9079263d, 1fb3977e99056b7935a6c63dda1e145f, 3150a1a38abba40f58d8263d9c55969f); "
            "assumed to be with all 8 GPUs of each",
            "published: 4-6 GB/s for 8 to 128 MB, 4 nodes of 8 V100, TCP (github.com/NVIDIA/nccl/issues/450)",
        ),
        Link(
            "ethernet-10g",
            "one GPU a node, 10 Gb/s Ethernet, TCP",
            {2: 100.0, 4: 200.0, 8: 300.0},
            1.18e9,
            "assumed: a tree, one round trip a level, 100 us each (Cardwell et al., IETF 97, have less than 100 us for "
            "a round trip of 10 Gb/s TCP in a data centre, without what NCCL adds); no published all-reduce was found",
            "assumed: line rate less the frames of a TCP stream (1448 of 1538 bytes)",
        ),
    )
}

LINKS |= {row[0]: Link(*row) for row in ROWS}
ALIASES = {"pcie": "pcie5-host-staged", "ethernet": "ethernet-100g", "ib": "ib-ndr"}


def link(name: str | Path) -> Link:
    """The row called ``name``, by its short name too, or the link in a .json file of ``ladder bench link``.

    Raises UserError for an unknown name and for a file that is not one.
    """
    row = ALIASES.get(str(name), str(name))
    if row in LINKS:
        return LINKS[row]
    if Path(name).suffix != ".json":
        names = [*LINKS, *ALIASES]
        raise UserError(f"{unknown_name('link', str(name), names)}; a .json file of `ladder bench link` is taken too")
    where = f"{name}: not a link of `ladder bench link`"
    fields = take(read_json(name), "link", dict, where)
    latency_us = take(fields, "latency_us", dict, where)
    for key, kind in {"name": str, "words": str, "bus_bandwidth": float}.items():
        take(fields, key, kind, where)
    for key in ("latency_from", "bandwidth_from"):
        take(fields, key, str, where)
    try:
        us = {whole(ranks): take(latency_us, ranks, float, f"{where}: latency_us") for ranks in latency_us}
        return Link(**fields | {"latency_us": us})
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} ({error}); measure it again") from None


def rows() -> list[dict]:
    """The table as plain values, for a page; latency_us by number of ranks, bus_bandwidth in bytes/s."""
    return [
        {
            "name": row.name,
            "words": row.words,
            "latency_us": dict(row.latency_us),
            "bus_bandwidth": row.bus_bandwidth,
            "in_flight": row.in_flight,
            "source": row.source,
            "origin": row.origin,
        }
        for row in LINKS.values()
    ]
