"""How each wiring looks and is called, on every page: the one place for colours, markers and words."""

import re
from dataclasses import dataclass

from ladder.wiring import parse_layers, split_name

# Hues that reach 3:1 on the site's white and on its dark grey alike. A family shares a hue; markers and dashes tell its
# members apart, and say the same again without colour. Numbered families stand under the form of their name.
LOOKS = {
    "standard": ("standard", "#2f7fd1", "s", "-"),
    "parallel": ("parallel", "#009e73", "^", "-"),
    "parallel-2norm": ("parallel-2norm", "#4b9c3a", "v", "--"),
    "ladder": ("ladder", "#d55e00", "o", "-"),
    "ladder-<k>": ("ladder-<k>", "#b8579a", "p", "--"),
    "partial": ("partial", "#a07a00", "X", "-."),
    "dtp-<k>": ("dtp-<k>", "#c0607f", "h", ":"),
    "spd": ("spd", "#7a6fd6", "<", "-"),
    "desync-<k>x": ("desync-<k>x", "#00929f", "d", "--"),
    "desync-nx": ("desync-nx", "#00929f", ">", ":"),
    "fal": ("fal", "#97793b", "P", "-"),
    "fal+": ("fal+", "#97793b", "*", "--"),
    "upper_bound": ("upper bound", "#8a8a8a", "D", "-"),
}
OTHER = ("#b8579a", "P", "-")
COMMUNICATION = "#a67c00"
HYBRIDS = [("#b8579a", "P", "--"), ("#6a6fd8", "X", ":"), ("#00929f", "v", "-.")]
ORDER = list(LOOKS)


@dataclass(frozen=True)
class Look:
    label: str
    colour: str
    marker: str
    dashes: str = "-"


def family(name: str) -> str:
    """The key of LOOKS for a wiring's name: ``desync-4x`` -> ``desync-<k>x``, ``ladder`` -> ``ladder``."""
    return name if name in LOOKS else re.sub(r"(?<=-)\d+", "<k>", name)


def look(wiring: str, tp: int | None = None) -> Look:
    """``ladder@5-9`` gets a colour, marker and dashes by its layers, the same on every page.

    tp: the number of ranks T of a checkpoint whose wiring depends on it; the label then says so.
    """
    name, chosen = split_name(wiring)
    label, *how = LOOKS.get(family(name), (name, *OTHER))
    label = name if "<k>" in label else label
    if chosen:
        label, how = f"{label}, layers {chosen}", HYBRIDS[sum(map(ord, wiring)) % len(HYBRIDS)]
    return Look(label if tp is None else f"{label} (T = {tp:g})", *how)


def order(wiring: str) -> tuple:
    """Sorting key: in the order of LOOKS, families by their number, hybrids from few layers to many, then all."""
    name, chosen = split_name(wiring)
    place = ORDER.index(family(name)) if family(name) in ORDER else len(ORDER)
    number_ = [int(digits) for digits in re.findall(r"\d+", name)]
    count = len(parse_layers(chosen)) if chosen else 10**6
    return (place, number_, name, count, chosen)


def share(wiring: str, layers: int) -> float:
    """Share of a model's layers that a wiring rewires: 0 for standard, 1 for all."""
    name, chosen = split_name(wiring)
    if name == "standard":
        return 0.0
    return len(parse_layers(chosen)) / layers if chosen else 1.0


def hardware_words(name: str | None) -> str:
    """'8 x NVIDIA H100 80GB HBM3' -> '8 × H100', 'Intel(R) Xeon(R) Gold 6430 CPU @ 2.10GHz, 2 cores' -> 'Xeon Gold
    6430, 2 cores'."""
    noise = r"\((?:R|TM)\)|\b(?:NVIDIA|Intel|AMD|Processor|HBM\w*|CPU(?= @))\b|@ [\d.]+GHz|[- ](?:SXM\d?|\d+GB)\b"
    text = re.sub(noise, "", name or "", flags=re.IGNORECASE)
    text = re.sub(r"\s+", " ", text).replace(" ,", ",").strip()
    return re.sub(r"^(\d+) x ", r"\1 × ", text).removeprefix("1 × ") or "not recorded"
