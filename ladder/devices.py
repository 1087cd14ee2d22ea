"""Accelerators as rows: memory, bandwidth and peak of each, from its maker's data sheet.

What a kernel reaches of them is not here: that is fitted or measured. A .json file describes one that has no row.
"""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ladder.errors import UserError, unknown_name
from ladder.reading import read_json, take


@dataclass(frozen=True)
class Device:
    """An accelerator, one rank's.

    memory_bytes: what a process can use: the total that CUDA or HIP reports (``torch.cuda.mem_get_info``), which is
    less than is sold. bandwidth: bytes/s of its memory. flops: peak of dense bf16 or fp16 matrix products summed in
    fp32. source: where they are from. power_w: watts of the whole board at most. links: those that it can have, the
    usual one first, of ladder/links.py and of the calibration; empty where nobody has said.
    """

    name: str
    words: str
    memory_bytes: float
    bandwidth: float
    flops: float
    source: str
    power_w: float | None = None
    links: tuple[str, ...] = ()

    def __post_init__(self):
        numbers = [self.memory_bytes, self.bandwidth, self.flops, *([] if self.power_w is None else [self.power_w])]
        if not all(isfinite(number) and number > 0 for number in numbers):
            raise ValueError("memory_bytes, bandwidth, flops and power_w must be finite numbers above 0")
        if not self.source:
            raise ValueError("source must say where the numbers are from")


MIB = 2**20
TOTAL, SPARSE = "; memory: CUDA's total", " (half of its figure with sparsity); memory: CUDA's total"
H100, H200, A100 = (f"NVIDIA {name} Tensor Core GPU data sheet" for name in ("H100", "H200", "A100"))
B200 = f"NVIDIA DGX B200 and HGX B200 data sheets, an eighth of the system{SPARSE}"
GB200 = f"NVIDIA GB200 NVL72 data sheet, a 72nd of the rack{SPARSE}"
A100_40G = f"{A100}{TOTAL} (deviceQuery in github.com/bottlerocket-os/bottlerocket/pull/3873)"
L40S, L4 = f"NVIDIA L40S data sheet{TOTAL}, with ECC", f"NVIDIA L4 data sheet{SPARSE}, with ECC"
ADA = f"NVIDIA Ada GPU architecture white paper, appendix A (fp16 with fp32 accumulate){TOTAL}"
MI300X = "AMD Instinct MI300X data sheet; memory: HIP's total"

ETHERNET = ("ethernet-100g", "ethernet-10g")
INFINIBAND = ("ib-ndr-2node", "ib-ndr", *ETHERNET)
HOPPER = ("nvlink-one-shot", "pcie5-host-staged", *INFINIBAND)
PCIE5, PCIE4 = ("pcie5-host-staged", "ethernet-10g"), ("pcie4-host-staged", "ethernet-10g")
LINKS = {
    "h100": ("nvlink", "h100-nvlink", "nvlink-p2p-off", "ib-ndr-2node-p2p-off", *HOPPER),
    "h100-pcie": PCIE5,
    "h200": ("h200-nvlink", "nvlink", *HOPPER),
    "b200": ("nvl72", *INFINIBAND),
    "gb200": ("nvl72",),
    "a100-80g": ("a100-nvlink", "pcie4-host-staged", *ETHERNET),
    "a100-40g": ("a100-nvlink", "pcie4-host-staged", *ETHERNET),
    "mi300x": ("mi300x-xgmi", "roce-400g"),
    **dict.fromkeys(("l40s", "l4", "rtx-4090"), PCIE4),
}

# name, words, memory_bytes, bandwidth, flops, source, power_w
_ROWS = (
    ("h100", "NVIDIA H100 SXM5, 80 GB HBM3", 81089 * MIB, 3.35e12, 989.4e12, H100 + SPARSE, 700),
    ("h100-pcie", "NVIDIA H100 PCIe, 80 GB HBM2e", 81008 * MIB, 2.0e12, 756.5e12, H100 + SPARSE, 350),
    ("h200", "NVIDIA H200 SXM, 141 GB HBM3e", 143156 * MIB, 4.8e12, 989.4e12, H200 + SPARSE, 700),
    ("b200", "NVIDIA B200 SXM, 180 GB HBM3e", 182642 * MIB, 8.0e12, 2.25e15, B200, 1000),
    ("gb200", "NVIDIA GB200 (one GPU of an NVL72 rack), 186 GB HBM3e", 188733 * MIB, 8.0e12, 2.5e15, GB200, 1200),
    ("a100-80g", "NVIDIA A100 SXM4, 80 GB HBM2e", 81050 * MIB, 2.039e12, 312e12, A100 + TOTAL, 400),
    ("a100-40g", "NVIDIA A100 SXM4, 40 GB HBM2", 42298834944, 1.555e12, 312e12, A100_40G, 400),
    ("l40s", "NVIDIA L40S, 48 GB GDDR6, PCIe", 45455 * MIB, 864e9, 362.05e12, L40S, 350),
    ("l4", "NVIDIA L4, 24 GB GDDR6, PCIe", 22559 * MIB, 300e9, 121e12, L4, 72),
    ("rtx-4090", "NVIDIA GeForce RTX 4090, 24 GB GDDR6X, PCIe", 24084 * MIB, 1.008e12, 165.2e12, ADA, 450),
    ("mi300x", "AMD Instinct MI300X, 192 GB HBM3", 196588 * MIB, 5.3e12, 1307.4e12, MI300X, 750),
)
DEVICES = {row[0]: Device(*row, LINKS[row[0]]) for row in _ROWS}

# What torch.cuda.get_device_name() says -> row. A board with another peak or memory has another name.
REPORTED = {
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
    "NVIDIA GB200": "gb200",
    "NVIDIA A100-SXM4-80GB": "a100-80g",
    "NVIDIA A100 80GB PCIe": "a100-80g",
    "NVIDIA A100-SXM4-40GB": "a100-40g",
    "NVIDIA A100-PCIE-40GB": "a100-40g",
    "NVIDIA L40S": "l40s",
    "NVIDIA L4": "l4",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "AMD Instinct MI300X": "mi300x",
}


def reported(name: str) -> Device | None:
    """The row of what torch calls ``name``; None: the table has no such board."""
    return DEVICES.get(REPORTED.get(name, ""))


def device(name: str | Path) -> Device:
    """The row called ``name``, or what a .json file says: {"device": {"name": ..., ...}}, the fields of Device.

    Raises UserError for an unknown name and for a file that is not one.
    """
    if str(name) in DEVICES:
        return DEVICES[str(name)]
    if Path(name).suffix != ".json":
        raise UserError(f"{unknown_name('hardware', str(name), DEVICES)}; a .json file that describes one is taken too")
    return of_content(read_json(name), str(name))


def of_content(content: dict, path: str) -> Device:
    """The device that ``content`` of a file describes under "device". Raises UserError for what is none."""
    fields = take(content, "device", dict, f"{path}: not a device")
    try:
        for key, kind in {"name": str, "words": str, "source": str}.items():
            take(fields, key, kind, "fields")
        for key in ("memory_bytes", "bandwidth", "flops"):
            take(fields, key, float, "fields")
        take(fields, "power_w", float, "fields", default=None)
        return Device(**fields | {"links": tuple(take(fields, "links", list, "fields", default=()))})
    except (TypeError, ValueError) as error:
        raise UserError(
            f'{path}: not a device ({error}); write {{"device": {{...}}}} with name, words, memory_bytes, bandwidth '
            "(bytes/s), flops and source, and power_w (watts) if you know it"
        ) from None
