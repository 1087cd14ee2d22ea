"""Tables of the simulator's fitted parameters, and of what it says of the points that were timed here."""

import pandas as pd

from ladder import links
from ladder.report import setting
from ladder.report.cells import Cell, Column, Table, missing, value, words
from ladder.report.frames import Frames
from ladder.report.simulator_tables import digits, empty, simulated, validation
from ladder.report.style import hardware_words, listing, look, percent, seconds_text, signed_number, times
from ladder.simulate.scores import POINT

NOT_COMPARED = "no record of the benchmark was compared"
PARAMETERS = {  # a parameter's name, or what follows its link's: (what it is, unit, factor to the unit)
    "stream_one": ("share of memory bandwidth at which weights are read for one sequence", "1", 1),
    "stream_many": ("the same for several sequences", "1", 1),
    "kv_stream": ("the same of K and V, read once for each query head; caches let it exceed 1", "1", 1),
    "matmul": ("share of the peak that large products reach", "1", 1),
    "kernel_us": ("time of a kernel in decode beside its reading", "µs", 1),
    "prefill_kernel_us": ("the same in prefill", "µs", 1),
    "interference_small": ("slowdown of compute beside an all-reduce of 64 KiB and less", "1", 1),
    "interference_large": ("the same of 256 KiB and more", "1", 1),
    "latency_us": ("latency of an all-reduce", "µs", 1),
    "small_bandwidth": ("bandwidth in the protocol for small messages", "GB/s", 1e-9),
    "switch": ("latency of the protocol for large messages, over the other's", "1", 1),
    "bandwidth": ("bandwidth of large messages", "GB/s", 1e-9),
}
TABLE_ROWS = {"nvlink": "h100-nvlink", "ib-ndr-2node": "ib-ndr-2node"}  # rows of the table of links that are the same


def calibration(frames: Frames) -> Table:
    name, title = "calibration", "The fitted parameters"
    columns = [Column("Parameter", words=True), Column("What it is", words=True), Column("Origin", words=True)]
    columns += [Column("value"), Column("unit", words=True), Column("standard error, %"), Column("table of links")]
    record = validation(frames)
    if record is None:
        return empty(name, title, columns)
    held = record["calibration"]
    rows = []
    for parameter in held["parameters"]:
        link, _, rest = parameter["name"].rpartition(".") if "." in parameter["name"] else ("", "", parameter["name"])
        if rest.isdigit():
            link, rest = link.split(".")[0], f"{link.split('.')[1]}.{rest}"
        kind, _, ranks = rest.partition(".")
        what, unit, factor = PARAMETERS[kind]
        what = ", ".join(filter(None, (link, what, f"{ranks} ranks" if ranks else "")))
        fitted = parameter["stderr"] is not None
        tidy = simulated(record, metric=parameter["name"], value=factor * parameter["value"], unit=unit, link=link)
        tidy |= {"stderr": factor * parameter["value"] * parameter["stderr"]} if fitted else {}
        note = "the standard error is relative" if fitted else f"kept: {parameter['kept']}"
        cells = [words(parameter["name"]), words(what), words("fitted" if fitted else "assumed")]
        shown = factor * parameter["value"]
        cells += [Cell(f"{shown:.3g}", shown, (tidy | {"note": note},)), words("–" if unit == "1" else unit)]
        error = parameter["stderr"]
        cells.append(words(f"{100 * error:.0f}", error) if fitted else missing("held while the others were fitted"))
        rows.append([*cells, beside(link, kind, ranks)])
    sure = [parameter for parameter in held["parameters"] if parameter["stderr"] is not None]
    worst = max(sure, key=lambda p: p["stderr"], default=None)
    caption = f"{len(sure)} parameters are fitted to published speeds on {held['hardware']}. "
    if worst:
        caption += f"The least certain is {worst['name']} (standard error {percent(worst['stderr'])}). "
    same = "is" if held["difference"] < 1e-3 else "is not"
    caption += (
        f"This {same} the committed calibration: no parameter differs by more than {percent(held['difference'], 2)}."
    )
    if held["other_parameters"]:
        caption += f" Only one of the two has {listing(held['other_parameters'])}."
    notes = [
        "Standard errors are of the fit alone. An all-reduce takes the faster of two protocols, each a latency plus "
        "2 (n − 1) / n times its bytes over a bandwidth.",
        "Table of links: what stands there for the same link, with its own origin; its sources are on the page of the "
        "benchmark.",
    ]
    return Table(name, title, caption, columns, rows, notes)


def beside(link: str, kind: str, ranks: str) -> Cell:
    """The number of the table of links for a fitted one."""
    row = links.LINKS.get(TABLE_ROWS.get(link, ""))
    if row is None or kind not in ("latency_us", "bandwidth"):
        return missing("no such row")
    source = row.latency_from if kind == "latency_us" else row.bandwidth_from
    shown = row.latency_us.get(int(ranks)) if kind == "latency_us" else row.bus_bandwidth / 1e9
    if shown is None:
        return missing("no such row")
    return words(f"{shown:g} ({source.partition(':')[0]})", shown)


def own(frames: Frames) -> Table:
    name, title = "validation_own", "Against this pipeline's own timings"
    columns = [Column("Wiring", words=True), *setting.heads("Model", "TP", "Batch", "Link", "Origin")]
    columns += [Column("Used", words=True), *(Column(key, "ms per step") for key in ("timed", "simulated", "error, %"))]
    columns += [Column(key, "speed-up") for key in ("timed", "simulated")]
    columns += [Column(key, "hidden, %") for key in ("timed", "schedule", "simulated")] + setting.heads(*setting.TAIL)
    record = validation(frames)
    found = record["own"] if record else []
    if not found:
        return empty(name, title, columns, NOT_COMPARED) if record else empty(name, title, columns)
    rows = []
    for entry in found:
        point = {key: entry[key] for key in POINT}
        seen = point | {"stage": "bench", "origin": entry["origin"], "record": entry["path"], "phase": "decode"}
        made = simulated(record, **point, phase="decode", note=f"calibration {entry['calibration']}")
        reason = entry["reason"] or "not predicted"
        start = [words(look(entry["wiring"]).label), words(entry["model"])]
        start += [setting.number(entry["tp"]), setting.number(entry["batch"])]
        start += [words(entry["record_link"] or entry["link"]), words(f"simulated against {entry['origin']}")]
        start.append(words("fitted" if entry["use"] == "calibration" else "held out"))

        def cell(row: dict, metric: str, key: str, form, reason: str, entry=entry, **ends) -> Cell:
            got = entry.get(key)
            unit = {"seconds": "s", "speedup": "x"}.get(metric, "fraction")
            full = None if got is None else row | {"metric": metric, "value": got, "unit": unit} | ends
            return value(full, form, reason)

        off = entry["predicted_step_s"] / entry["step_s"] - 1 if entry.get("predicted_step_s") else None
        ends = {key: entry[key] for key in ("low", "high") if entry.get(key) is not None}
        share = "too little communication to tell"
        cells = [
            cell(seen, "seconds", "step_s", seconds_text, ""),
            cell(made, "seconds", "predicted_step_s", seconds_text, reason),
            missing(reason) if off is None else words(signed_number(100 * off), abs(off)),
            cell(seen, "speedup", "speedup", times, "standard was not timed"),
            cell(made, "speedup", "predicted_speedup", times, reason, **ends),
            cell(seen, "hidden_wall", "hidden", hundred, share),
            cell(seen | {"origin": "simulated"}, "hidden_schedule", "hidden_schedule", hundred, "no module was timed"),
            cell(made, "hidden", "predicted_hidden", hundred, reason if off is None else share),
        ]
        rows.append([*start, *cells, words(hardware_words(entry["hardware_words"]))])
    notes = [
        "Schedule: two resources with the record's own module times. Simulated: from shapes alone, with a calibration "
        "fitted to standard and the upper bound of the same machine, or, on a GPU that the table of devices has, the "
        "published one. Brackets: 90 % interval.",
        "A model of bandwidth fits a GPU: a CPU has caches and a varying clock that it does not know.",
    ]
    return Table(name, title, own_caption(found), columns, rows, notes)


def hundred(fraction: float) -> str:
    return f"{100 * fraction:.0f}".replace("-", "−")


def own_caption(found: list[dict]) -> str:
    held = [e for e in found if e["use"] == "validation"]
    off = [abs(e["predicted_step_s"] / e["step_s"] - 1) for e in held if e.get("predicted_step_s")]
    gaps = [abs(e["hidden_schedule"] - e["hidden"]) for e in held
            if e.get("hidden") is not None and e.get("hidden_schedule") is not None]  # fmt: skip
    parts = []
    if off:
        series = pd.Series(off)
        part = f"{digits(series.median())} (median) and {digits(series.quantile(0.9))} (90th percentile)"
        parts.append(f"{len(off)} decode steps of wirings that were not fitted are predicted within {part}.")
    else:
        parts.append("These records identify no calibration of their machine, so seconds are not predicted.")
    if gaps:
        gap = 100 * pd.Series(gaps).median()
        parts.append(f"The schedule with measured module times is {gap:.0f} points (median) off the share hidden.")
    return " ".join(parts)


TABLES = [calibration, own]
