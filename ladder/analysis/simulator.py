"""Predictions beside what was published and what was timed here, and the parameters behind them."""

import pandas as pd

from ladder import links
from ladder.analysis.frames import Frames
from ladder.looks import hardware_words
from ladder.simulate.scores import FIT, LINK, POINT

USES = {"validation": "held out", "calibration": "fitted", "link": "fitted (the link)"}
TABLE_ROWS = {"nvlink": "h100-nvlink", "ib-ndr-2node": "ib-ndr-2node"}  # rows of the table of links that are the same
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
# What the record compares -> the row of METRICS, and the factor to its unit.
WHAT = {"speedup": ("speedup", 1), "tokens_per_s": ("tokens_per_second", 1), "prefill_s": ("prefill_seconds", 1),
        "memory_gb": ("memory_bytes", 1e9)}  # fmt: skip
ERRORS = {"median": "error_median", "p90": "error_p90", "max": "error_max"}  # others have the record's names
ERRORS |= {k: k for k in ("bias", "inside", "r2", "without_median", "without_p90", "ladder_median", "rule_median")}


def record_of(frames: Frames) -> dict | None:
    """The latest record of `ladder simulate validate`, this run's before a kept one."""
    found = [record for record in frames.with_extra("groups") if "validation" in record]
    return max(found, key=lambda r: (not r["kept"], r["provenance"].get("started") or ""), default=None)


def groups(frames: Frames) -> pd.DataFrame:
    """Errors of predictions by group of published numbers, and of the authors' own repeats."""
    if (record := record_of(frames)) is None:
        return pd.DataFrame()
    repeats = [
        {**row, "group": "the authors' own repeats", "what": what, "n": row["pairs"], "origin": "published"}
        for what, row in record["noise"].items()
    ]
    rows = [
        {"group": row["group"], "metric": WHAT[row["what"]][0], "n": row["n"], "origin": row.get("origin", "simulated")}
        | {column: row.get(key) for key, column in ERRORS.items()}
        for row in (*record["groups"], *repeats)
    ]
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def predictions(frames: Frames) -> pd.DataFrame:
    """Every published number beside its prediction. group: empty for what is not scored, for the reason given; copy:
    repeats a number above, and counts once."""
    if (record := record_of(frames)) is None:
        return pd.DataFrame()
    rows = []
    for entry in record["validation"]:
        metric, factor = WHAT[entry["what"]]
        row = {key: entry[key] for key in POINT} | {"metric": metric, "group": entry["group"], "table": entry["set"]}
        row |= {"use": USES.get(entry["use"], entry["use"]), "reason": entry["reason"], "source": entry["source"]}
        row |= {"published": factor * entry["published"], "copy": bool(entry["copy"]), "hardware": entry["hardware"]}
        if entry.get("predicted") is not None:
            ends = [entry[end] if entry[end] is None else factor * entry[end] for end in ("low", "high")]
            row |= {"simulated": factor * entry["predicted"], "error": entry["predicted"] / entry["published"] - 1}
            row |= dict(zip(("simulated_low", "simulated_high"), ends, strict=True))
        row["kind"] = "fitted" if entry["group"] in (FIT, LINK) else "held out" if entry["group"] else "not scored"
        rows.append(row)
    return pd.DataFrame(rows)


def winners(frames: Frames) -> pd.DataFrame:
    """How often the predicted winner of ladder and parallel is the published one, where they are far apart and
    close."""
    if (record := record_of(frames)) is None:
        return pd.DataFrame()
    made = record["winners"]
    return pd.DataFrame([{"name": key, "n": made[key]["n"], "right": made[key]["right"], "near": made["near"]}
                         for key in ("far", "close")])  # fmt: skip


def calibration(frames: Frames) -> pd.DataFrame:
    """The fitted parameters, their relative standard error (none: held while the others were fitted), and what the
    table of links has for the same."""
    if (record := record_of(frames)) is None:
        return pd.DataFrame()
    held, rows = record["calibration"], []
    for parameter in held["parameters"]:
        link, _, rest = parameter["name"].rpartition(".") if "." in parameter["name"] else ("", "", parameter["name"])
        if rest.isdigit():
            link, rest = link.split(".")[0], f"{link.split('.')[1]}.{rest}"
        kind, _, ranks = rest.partition(".")
        what, unit, factor = PARAMETERS[kind]
        fitted = parameter["stderr"] is not None
        row = {
            "parameter": parameter["name"],
            "name": ", ".join(filter(None, (link, what, ranks and f"{ranks} ranks"))),
        }
        row |= {
            "estimate": factor * parameter["value"],
            "unit": "" if unit == "1" else unit,
            "hardware": held["hardware"],
        }
        row |= {"origin": "fitted" if fitted else "assumed", "relative_stderr": parameter["stderr"]}
        row |= {"note": None if fitted else f"kept: {parameter['kept']}", "differs_from_committed": held["difference"]}
        rows.append(row | {"in_links": in_links(link, kind, ranks)})
    return pd.DataFrame(rows)


def in_links(link: str, kind: str, ranks: str) -> float | None:
    row = links.LINKS.get(TABLE_ROWS.get(link, ""))
    if row is None or kind not in ("latency_us", "bandwidth"):
        return None
    return row.latency_us.get(int(ranks)) if kind == "latency_us" else row.bus_bandwidth / 1e9


def own(frames: Frames) -> pd.DataFrame:
    """Predictions beside this pipeline's own timings."""
    record, rows = record_of(frames), []
    for entry in record["own"] if record else ():
        row = {key: entry[key] for key in POINT} | {"link": entry["record_link"] or entry["link"]}
        row |= {"origin": entry["origin"], "record": entry["path"], "hardware": hardware_words(entry["hardware_words"])}
        row |= {"use": "fitted" if entry["use"] == "calibration" else "held out", "reason": entry["reason"]}
        step, made = entry["step_s"], entry.get("predicted_step_s")
        row |= {"decode_s": step, "simulated_decode_s": made, "error": made / step - 1 if made else None}
        row |= {"decode_speedup": entry.get("speedup"), "simulated_speedup": entry.get("predicted_speedup")}
        row |= {"simulated_speedup_low": entry.get("low"), "simulated_speedup_high": entry.get("high")}
        row |= {"decode_hidden_wall": entry.get("hidden"), "decode_hidden_schedule": entry.get("hidden_schedule")}
        rows.append(row | {"simulated_hidden": entry.get("predicted_hidden")})
    return pd.DataFrame(rows)
