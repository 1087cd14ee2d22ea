"""How each wiring looks and is called, on every page: the one place for colours, markers and words."""

from dataclasses import dataclass

from ladder.wiring import parse_layers

# Text and axes are drawn in this colour and then become currentColor, so that a page's dark mode applies to them.
INK = "#010203"
# Okabe-Ito hues that differ for colour-blind eyes and reach 3:1 on the site's white and on its dark grey alike;
# markers and dashes say the same again without colour.
LOOKS = {
    "standard": ("standard", "#2f7fd1", "s"),
    "parallel": ("parallel", "#009e73", "^"),
    "parallel-2norm": ("parallel, 2 norms", "#4b9c3a", "v"),
    "ladder": ("ladder", "#d55e00", "o"),
    "upper_bound": ("upper bound", "#8a8a8a", "D"),
}
OTHER = ("#b8579a", "P")
COMMUNICATION = "#a67c00"
HYBRIDS = [("#b8579a", "P", "--"), ("#6a6fd8", "X", ":"), ("#00929f", "v", "-.")]
ORDER = list(LOOKS)


@dataclass(frozen=True)
class Look:
    label: str
    colour: str
    marker: str
    dashes: str = "-"


def look(wiring: str) -> Look:
    """``ladder@5-9`` gets a colour, marker and dashes by its layers, the same on every page."""
    name, _, chosen = wiring.partition("@")
    label, colour, marker = LOOKS.get(name, (name, *OTHER))
    if chosen:
        return Look(f"{label}, layers {chosen}", *HYBRIDS[sum(map(ord, chosen)) % len(HYBRIDS)])
    return Look(label, colour, marker)


def order(wiring: str) -> tuple:
    """Sorting key: standard first, the upper bound last among the known, hybrids from few layers to many, then all."""
    name, _, chosen = wiring.partition("@")
    place = ORDER.index(name) if name in ORDER else len(ORDER)
    count = len(parse_layers(chosen, 10**6)) if chosen else 10**6
    return (place, name, count, chosen)


def share(wiring: str, layers: int) -> float:
    """Share of a model's layers that a wiring rewires: 0 for standard, 1 for all."""
    name, _, chosen = wiring.partition("@")
    if name == "standard":
        return 0.0
    return len(parse_layers(chosen, layers)) / layers if chosen else 1.0


def number(value: float, digits: int = 2) -> str:
    """1234.5 -> '1,234', 0.1234 -> '0.12'; large numbers without decimals."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def times(value: float) -> str:
    return f"{value:.2f}×"


def percent(fraction: float, digits: int = 0, signed: bool = False) -> str:
    return f"{100 * fraction:{'+' if signed else ''}.{digits}f} %".replace("-", "−")


def listing(words) -> str:
    """['a', 'b', 'c'] -> 'a, b and c'."""
    words = list(words)
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def loss_text(nats: float) -> str:
    return f"{nats:.3f}"


def share_text(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def signed(points_: float) -> str:
    return f"{100 * points_:+.1f}".replace("-", "−")


def signed_number(value_: float) -> str:
    return f"{value_:+.1f}".replace("-", "−")


def signed_loss(nats: float) -> str:
    return f"{nats:+.3f}".replace("-", "−")


def percent_text(value_: float) -> str:
    return f"{value_:.2f}"
