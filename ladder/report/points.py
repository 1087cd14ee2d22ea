"""Speed measurements of ours, point by point: one model, TP degree, batch and link, timed under several wirings."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from ladder.report.frames import Frames
from ladder.report.style import order

KEY = ["origin", "backend", "model", "tp", "batch", "prompt", "new_tokens", "rho", "link"]
# What our benchmark did not do, in words for empty cells.
NOT_TIMED = "not timed in this run"
TOO_FAST = "the link is too fast to matter here: communication is under a fifth of the compute time"


@dataclass(frozen=True)
class Point:
    """key: the columns of KEY; rows: all tidy rows measured there."""

    key: dict
    rows: pd.DataFrame

    @cached_property
    def _latest(self) -> dict[tuple, dict]:
        return {(row["metric"], row["wiring"], row["phase"]): row for row in self.rows.to_dict("records")}

    def row(self, metric: str, wiring: str, phase: str = "decode") -> dict | None:
        """The latest row of a metric, or None where it was not measured."""
        return self._latest.get((metric, wiring, phase))

    def value(self, metric: str, wiring: str, phase: str = "decode") -> float | None:
        row = self.row(metric, wiring, phase)
        return None if row is None else row["value"]

    @property
    def wirings(self) -> list[str]:
        return sorted(self.rows["wiring"].dropna().unique(), key=order)

    @property
    def origin(self) -> str:
        return self.key["origin"]

    @property
    def rho(self) -> float | None:
        return None if pd.isna(self.key["rho"]) else float(self.key["rho"])

    @property
    def link(self) -> str:
        """The link in words: its emulated rho, or the name of the real one."""
        if self.rho is not None:
            return f"emulated, ρ {self.rho:g}"
        return f"{self.key['link']}, {self.key['backend']}"

    def throughput_gain(self, wiring: str) -> dict | None:
        """tokens/s over standard's, as a tidy row derived from the two; None where either is missing."""
        own, standard = (self.row("tokens_per_second", w, "both") for w in (wiring, "standard"))
        if own is None or standard is None:
            return None
        note = "derived: tokens_per_second over that of standard"
        return own | {"metric": "speedup", "unit": "x", "value": own["value"] / standard["value"], "note": note}

    def improvement(self, wiring: str, phase: str) -> dict | None:
        """1 - T_wiring / T_standard of a phase in percent, derived from the speed-up and its interval."""
        row = self.row("speedup", wiring, phase)
        if row is None:
            return None
        ends = {key: 100 * (1 - 1 / row[key]) for key in ("value", "low", "high") if pd.notna(row[key])}
        note = "derived: 100 (1 - 1 / speedup)"
        return row | ends | {"metric": "latency_improvement", "unit": "percent", "note": note}


def points(frames: Frames) -> list[Point]:
    """Every point, emulated ones first, then by model, TP degree, batch and rho."""
    timed = frames.own(stage="bench")
    timed = timed[
        timed["metric"].isin(["tokens_per_second", "seconds"]) | timed["rho"].notna() | timed["phase"].notna()
    ]
    timed = timed[timed["wiring"].notna() & timed["phase"].notna()]
    found = [Point(dict(zip(KEY, key, strict=True)), rows) for key, rows in timed.groupby(KEY, dropna=False, sort=True)]
    return sorted(found, key=lambda p: (p.origin, p.key["model"], p.key["tp"], p.key["batch"], p.rho or 0))


def emulated(frames: Frames, batch: int | None = None) -> list[Point]:
    return [p for p in points(frames) if p.rho is not None and batch in (None, p.key["batch"])]
