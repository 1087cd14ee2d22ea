"""The table of metrics: what a number is called, its unit, how it is written, which way is better, and what its ends
are. Records, derived tables, tables and charts of the site take all of that from here."""

import math
from dataclasses import dataclass

BOOTSTRAP, PREDICTED, SEEDS, ERRORS = (
    "95 % interval (bootstrap)",
    "90 % interval of the prediction",
    "lowest and highest seed",
    "two standard errors to either side",
)


@dataclass(frozen=True)
class Metric:
    """form: a format specification that Python and d3 share; it is applied to value × scale. Numbers from 1000 on are
    written without decimals. better: 1 if more is better, -1 if less is, 0 if neither. interval: what the columns
    NAME_low and NAME_high are."""

    label: str
    unit: str = ""
    form: str = ".2f"
    better: int = 0
    interval: str = ""
    scale: float = 1

    def text(self, value: float) -> str:
        """The number as a table shows it: 1.308 -> '1.31×'."""
        shown = value * self.scale
        form = self.form.replace(".2f", ",.0f") if abs(shown) >= 999.5 else self.form
        return f"{shown:{form}}".replace("-", "−") + ("×" if self.unit == "×" else "")

    @property
    def title(self) -> str:
        """The name with its unit, for a head or an axis."""
        return f"{self.label}, {self.unit}" if self.unit not in ("", "×") else self.label


def _share(label: str, form: str = ".0f", better: int = 0, interval: str = "") -> Metric:
    return Metric(label, "%", form, better, interval, 100)


def _change(label: str, form: str = "+.3f", unit: str = "", interval: str = BOOTSTRAP) -> Metric:
    return Metric(label, unit, form, -1, interval)


METRICS = {
    # speed
    "tokens_per_second": Metric("tokens/s", "", ".2f", 1, BOOTSTRAP),
    "tokens_per_second_per_gpu": Metric("tokens/s per GPU", "", ".2f", 1),
    "speedup": Metric("tokens/s over standard", "×", ".2f", 1, BOOTSTRAP),
    "decode_speedup": Metric("decode speed-up", "×", ".2f", 1, BOOTSTRAP),
    "decode_speedup_virtual": Metric("decode speed-up, virtual clock", "×", ".2f", 1, BOOTSTRAP),
    "prefill_speedup": Metric("prefill speed-up", "×", ".2f", 1, BOOTSTRAP),
    "decode_saved": Metric("decode time saved", "%", ".1f", 1, BOOTSTRAP),
    "prefill_saved": Metric("prefill time saved", "%", ".1f", 1, BOOTSTRAP),
    "throughput_gained": Metric("tokens/s gained", "%", ".1f", 1, BOOTSTRAP),
    "decode_s": Metric("decode step", "ms", ".2f", -1, BOOTSTRAP, 1e3),
    "prefill_s": Metric("prefill", "ms", ".1f", -1, BOOTSTRAP, 1e3),
    "hidden": _share("communication hidden", better=1, interval=BOOTSTRAP),
    "decode_hidden_wall": _share("hidden in decode, wall clock", better=1, interval=BOOTSTRAP),
    "decode_hidden_virtual": _share("hidden in decode, virtual clock", better=1, interval=BOOTSTRAP),
    "decode_hidden_schedule": _share("hidden in decode, schedule", better=1),
    "prefill_hidden_wall": _share("hidden in prefill, wall clock", better=1, interval=BOOTSTRAP),
    "prefill_hidden_virtual": _share("hidden in prefill, virtual clock", better=1, interval=BOOTSTRAP),
    "prefill_hidden_schedule": _share("hidden in prefill, schedule", better=1),
    "exposed": _share("communication with nothing computing", better=-1),
    "start_s": Metric("start", "ms", ".2f", scale=1e3),
    "end_s": Metric("end", "ms", ".2f", scale=1e3),
    "ms_per_token": Metric("time per token", "ms", ".1f", -1),
    "share_of_gain": _share("share of full ladder's gain", better=1),
    "layers_share": _share("layers converted"),
    "loss_difference": _change("validation loss, difference", unit="nats"),
    "perplexity_difference": _change("perplexity, difference"),
    "size_ratio": Metric("parameters, ratio", "×"),
    "speed_ratio": Metric("larger over smaller, tokens/s", "×", ".2f", 1),
    "saved": Metric("time saved against standard", "%", ".1f", 1),
    "small_speed": Metric("smaller model's tokens/s", "", ".2f", 1),
    "large_speed": Metric("larger model's tokens/s", "", ".2f", 1),
}
# What tells rows apart: the head of its column.
DIMENSIONS = {
    "backend": "Backend",
    "derived": "Derived here",
    "dtype": "Number format",
    "file": "Published file",
    "lane": "Lane",
    "larger": "Larger",
    "link_name": "Link, without its ρ",
    "name": "Name",
    "new_tokens": "New tokens",
    "one_record": "Timed in turn",
    "p2p": "P2P",
    "prompt": "Prompt tokens",
    "record": "Record",
    "slower": "Slower beyond noise",
    "smaller": "Smaller",
    "source": "Source in full",
    "timed_layers": "Layers run",
    "trusted": "Agrees with the authors' other data",
    "view": "Shown as",
    "model": "Model",
    "wiring": "Wiring",
    "tp": "TP",
    "batch": "Batch",
    "link": "Link",
    "origin": "Origin",
    "hardware": "Hardware",
    "compute": "Computed",
    "phase": "Phase",
    "rho": "ρ",
    "clock": "Clock",
    "table": "Source",
}


def unknown(columns) -> list[str]:
    """The columns of a derived table that are in neither table."""
    ends = ("_low", "_high")
    return [c for c in columns if c not in DIMENSIONS and c.removesuffix(ends[0]).removesuffix(ends[1]) not in METRICS]


def label(column: str) -> str:
    """The head of a column."""
    return METRICS[column].title if column in METRICS else DIMENSIONS.get(column, column)


def text(column: str, value) -> str:
    """A cell of a column as the page shows it; '' for a missing value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if column in METRICS:
        return METRICS[column].text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
