"""Speed measurements of ours, point by point: one model, TP degree, batch, link and way of computing, timed under
several wirings in one record, in turn. Rows of different records are never put into one point."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pandas as pd

from ladder.analysis.frames import Frames, select
from ladder.looks import hardware_words, order
from ladder.model.sizes import SIZES
from ladder.wiring import split_name

KEY = ["record", "origin", "backend", "model", "tp", "batch", "prompt", "new_tokens", "rho", "link"]
KEY += ["dtype", "compute", "timed_layers", "hardware"]
LIBRARY = "transformers"  # the column compute of the plain library, timed as a baseline
COMPARED = {"standard", "parallel", "ladder", "upper_bound"}
NETWORK = "emulated_over_real"  # the metric of records that hold the emulated link against a real network


@dataclass(frozen=True)
class Measurement:
    """key: the columns of KEY; rows: what was timed there, by wiring and phase; shared: rows of the same record without
    wiring or phase (memory, copy bandwidth, ...) that hold here too."""

    key: dict
    rows: pd.DataFrame
    shared: pd.DataFrame

    @cached_property
    def _latest(self) -> dict[tuple, dict]:
        found = [*self.shared.to_dict("records"), *self.rows.to_dict("records")]
        return {(row["metric"], none_if_nan(row["wiring"]), none_if_nan(row["phase"])): row for row in found}

    def row(self, metric: str, wiring: str | None, phase: str | None = "decode") -> dict | None:
        """The latest row of a metric, of this wiring and phase or of all of them; None where it was not measured."""
        places = [(wiring, phase), (wiring, None), (None, phase), (None, None)]
        return next((found for place in places if (found := self._latest.get((metric, *place)))), None)

    def value(self, metric: str, wiring: str | None, phase: str | None = "decode") -> float | None:
        row = self.row(metric, wiring, phase)
        return None if row is None else row["value"]

    @cached_property
    def wirings(self) -> list[str]:
        return sorted(self.rows["wiring"].unique(), key=order)

    @property
    def origin(self) -> str:
        return self.key["origin"]

    @property
    def rho(self) -> float | None:
        return none_if_nan(self.key["rho"])

    @property
    def hardware(self) -> str:
        return hardware_words(none_if_nan(self.key["hardware"]))

    @property
    def how(self) -> str:
        """How it was computed, e.g. "bf16, graphs"; of old records, nothing."""
        return ", ".join(filter(None, (none_if_nan(self.key["dtype"]), none_if_nan(self.key["compute"]))))

    @property
    def link(self) -> str:
        """The link in words: its emulated rho, or else its name."""
        return self.link_name if self.rho is None else f"emulated, ρ {self.rho:g}"

    @property
    def link_name(self) -> str:
        """What the link is, the same for all points on it: its emulated latency, the preset, the real link."""
        name = none_if_nan(self.key["link"])
        if self.origin == "emulated":
            return name if name and name.startswith("emulated") else f"emulated, {name or 'not named'}"
        return ", ".join(filter(None, (name, none_if_nan(self.key["backend"]))))

    @property
    def fitted(self) -> bool:
        """Whether the link was set to this machine's speed, and is no preset and no real link."""
        return str(self.key["link"]).startswith("emulated")

    def alike(self, *but: str) -> tuple:
        """All of the key but the record, rho (it is said of the first point on a link only) and the columns named:
        points with the same can stand in one curve."""
        return tuple(None if column in {"record", "rho", *but} else none_if_nan(self.key[column]) for column in KEY)

    def throughput_gain(self, wiring: str) -> dict | None:
        """tokens/s over standard's, derived from the two where it must be; None where either is missing."""
        if row := self.row("speedup", wiring, "both"):
            return row
        own, standard = (self.row("tokens_per_second", w, "both") for w in (wiring, "standard"))
        if own is None or standard is None:
            return None
        note = "derived: tokens_per_second over that of standard"
        ratio = {"value": own["value"] / standard["value"], "low": None, "high": None}
        return own | ratio | {"metric": "speedup", "unit": "x", "note": note}

    def improvement(self, wiring: str, phase: str) -> dict | None:
        """1 - T_wiring / T_standard of a phase in percent, derived from the speed-up and its interval."""
        row = self.row("speedup", wiring, phase)
        if row is None:
            return None
        ends = {key: 100 * (1 - 1 / row[key]) for key in ("value", "low", "high") if pd.notna(row[key])}
        note = "derived: 100 (1 - 1 / speedup)"
        return row | ends | {"metric": "latency_improvement", "unit": "percent", "note": note}

    def per_gpu(self, wiring: str) -> dict | None:
        """tokens/s of one rank's device."""
        row = self.row("tokens_per_second_per_gpu", wiring, "both")
        if row is None and (row := self.row("tokens_per_second", wiring, "both")):
            ends = {key: row[key] / self.key["tp"] for key in ("value", "low", "high") if pd.notna(row[key])}
            row = row | ends | {"metric": "tokens_per_second_per_gpu", "note": "derived: tokens_per_second over tp"}
        return row


def none_if_nan(value):
    """None for what an old or a shared row does not say."""
    return None if pd.isna(value) else value


@lru_cache(maxsize=4)
def every(frames: Frames, library: bool = False) -> tuple[Measurement, ...]:
    """Every point in every way that it was computed; emulated ones first, then by hardware, model, TP degree, batch
    and link. Of a point that was measured twice the later record counts.

    library: the points of the plain library instead of ours. Records about a real slow network are left out.
    """
    bench = frames.own(stage="bench")
    bench = bench[~bench["record"].isin(select(bench, metric=NETWORK)["record"])]
    bench = bench[(bench["compute"] == LIBRARY) == library] if library else bench[bench["compute"] != LIBRARY]
    whole = bench["wiring"].notna() & bench["phase"].notna()
    loose, started = bench[~whole], {r["path"]: r["provenance"].get("started") or "" for r in frames.records}
    found: dict[tuple, Measurement] = {}
    groups = bench[whole].groupby(KEY, dropna=False, sort=True)
    for key, rows in sorted(groups, key=lambda group: started.get(group[0][0], "")):
        point = Measurement(dict(zip(KEY, key, strict=True)), rows, holding(loose, key))
        found[(*point.alike(), point.rho, *point.wirings)] = point
    return tuple(sorted(found.values(), key=place))


def holding(loose: pd.DataFrame, key: tuple) -> pd.DataFrame:
    """The rows that say nothing else than ``key`` does; what was measured of the machine holds for its emulation."""
    chosen = pd.Series(True, index=loose.index)
    for column, wanted in zip(KEY, key, strict=True):
        if column not in ("origin", "backend"):
            chosen &= loose[column].isna() | (loose[column] == wanted)
    return loose[chosen]


def place(point: Measurement) -> tuple:
    model = point.key["model"]
    size = SIZES[model].parameters if model in SIZES else 0
    start = (point.origin, point.hardware, size, model, point.key["tp"], point.key["batch"])
    return (*start, point.rho or 0, point.link, point.how, point.wirings)


def points(frames: Frames) -> list[Measurement]:
    """The points to show: what was computed in several ways (eager, compiled, graphs) counts in the fastest only."""
    found = every(frames)
    twins: dict[tuple, list[Measurement]] = {}
    for point in found:
        twins.setdefault(point.alike("compute"), []).append(point)
    total: dict[tuple, dict[str, float]] = {}  # by way, over all links on which all ways were timed
    for group in twins.values():
        ways = {p.key["compute"]: p.value("seconds", "standard") for p in group}
        if len(ways) > 1 and all(ways.values()):
            for way, seconds in ways.items():
                sums = total.setdefault(group[0].alike("compute", "link"), {})
                sums[way] = sums.get(way, 0.0) + seconds
    slow = {(*key, way) for key, sums in total.items() for way in sums if way != min(sums, key=sums.get)}
    return [
        p
        for p in found
        if len({twin.key["compute"] for twin in twins[p.alike("compute")]}) == 1
        or (*p.alike("compute", "link"), p.key["compute"]) not in slow
    ]


def emulated(frames: Frames, batch: int | None = None) -> list[Measurement]:
    """Points on links that were set by rho, in every way of computing."""
    return [p for p in every(frames) if p.rho is not None and batch in (None, p.key["batch"])]


def sweeps(found: list[Measurement], over: str, least: int = 2) -> list[list[Measurement]]:
    """Curves: points that differ in the column ``over`` alone, in its order, each value once."""
    groups: dict[tuple, dict] = {}
    for point in found:
        groups.setdefault(point.alike(over), {}).setdefault(point.key[over], point)
    return [[group[at] for at in sorted(group)] for group in groups.values() if len(group) >= least]


def together(small: Measurement, large: Measurement) -> bool:
    """Whether two models were timed in the same setting: on the same link; or where modules are alike, at the same
    rho."""
    alike = small.alike("model") == large.alike("model")
    if small.rho is not None and small.rho == large.rho and is_deeper(large.key["model"], small.key["model"]):
        alike = small.alike("model", "link") == large.alike("model", "link")
    return alike


def is_deeper(model: str, other: str) -> bool:
    if model not in SIZES or other not in SIZES:
        return False
    one, two = vars(SIZES[model]), vars(SIZES[other])
    shapes_agree = {**one, "layers": 0} == {**two, "layers": 0}
    return shapes_agree and 1.2 <= one["layers"] / two["layers"] <= 1.4


def plain(found: list[Measurement]) -> list[Measurement]:
    """Without the points for a hybrid (which lack a wiring of ``COMPARED``) and without deeper models: both have tables
    of their own."""
    models = {p.key["model"] for p in found}
    return [
        p
        for p in found
        if (set(p.wirings) >= COMPARED or not any(split_name(wiring)[1] for wiring in p.wirings))
        and not any(is_deeper(p.key["model"], model) for model in models)
    ]


def over_rho(found: list[Measurement]) -> list[list[Measurement]]:
    """Curves over rho: points that differ in their link alone, each rho once."""
    groups: dict[tuple, dict] = {}
    for point in plain(found):
        if point.rho is not None and point.key["tp"] > 1:
            groups.setdefault(point.alike("link"), {}).setdefault(point.rho, point)
    return [[group[rho] for rho in sorted(group)] for group in groups.values()]


def headline(found: list[Measurement]) -> list[Measurement]:
    """What to show of each model: the longest curve over rho; on presets and real links the widest TP degree and of
    that the smallest batch."""
    shape = ("tp", "batch", "prompt", "new_tokens")
    curves = by(over_rho(found), lambda c: c[0].alike("link", "compute", "dtype", "timed_layers", *shape))
    kept = [p for group in curves.values() for p in max(group, key=extent)]
    others = by([p for p in plain(found) if not p.fitted and p.key["tp"] > 1], lambda p: p.alike(*shape))
    for group in others.values():
        widest = max(p.key["tp"] for p in group)
        smallest = min(p.key["batch"] for p in group if p.key["tp"] == widest)
        kept += [p for p in group if (p.key["tp"], p.key["batch"]) == (widest, smallest)]
    return sorted(kept, key=place)


def extent(curve: list[Measurement]) -> tuple:
    return (len(curve), curve[0].key["tp"], -curve[0].key["batch"])


def by(found: list, key: Callable) -> dict[object, list]:
    """What was found, grouped by ``key``; groups and their members in their order."""
    groups: dict[object, list] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    return groups


def with_ends(name: str, row: dict | None) -> dict:
    """A row's value, low and high as columns NAME, NAME_low, NAME_high; {} for None."""
    if row is None:
        return {}
    ends = {end: none_if_nan(row.get(end)) for end in ("low", "high")}
    return {name: row["value"]} | {f"{name}_{end}": value for end, value in ends.items() if value is not None}
