"""The scale study: where each wiring wins, over batch, latency and a faster all-reduce, and what speed costs. All of it
is simulated."""

import pandas as pd

from ladder.analysis.frames import Frames, select
from ladder.analysis.points import with_ends

CROSSED = ("ladder_lead_ends", "parallel_overtakes", "parallel_leads")
WITHIN = r"tokens_per_second_per_gpu_within_(.*)_ms"  # the record's metric holds the bound


def study(frames: Frames) -> tuple[dict, pd.DataFrame] | None:
    """(the study, its tidy rows), of this run before one that the repository keeps; None where there is none."""
    found = sorted(frames.with_extra("study"), key=lambda record: record["kept"])
    return (found[0]["study"], frames.own(record=found[0]["path"])) if found else None


def places(done: dict) -> pd.DataFrame:
    """link, tp -> its words, and whether it stands on assumptions."""
    rows = [{"link": p["link"], "tp": p["tp"], "network": p["words"], "assumed": "; ".join(p["assumed"])}
            for p in done["places"]]  # fmt: skip
    return pd.DataFrame(rows)


def cells(frames: Frames) -> pd.DataFrame:
    """Every setting and contest. winner: the fastest wiring; outcome: won (by more than the 90 % interval), open,
    nothing to gain, or does not fit; stands_for: the wirings that take the same time as the winner."""
    if (found := study(frames)) is None:
        return pd.DataFrame()
    done, rows = found[0], []
    for cell in done["cells"]:
        for contest in done["contests"]:
            leaders = cell["leaders"][contest] if cell["fits"] else None
            outcome = "does not fit" if leaders is None else ("nothing to gain", "won", "open")[min(len(leaders), 2)]
            row = {key: cell[key] for key in ("model", "link", "tp", "batch", "hardware")}
            row |= {"contest": contest, "outcome": outcome, "winner": leaders[0] if leaders else None}
            rows.append(row | {"leaders": " ".join(leaders or ()), "origin": "simulated"})
    return pd.DataFrame(rows).merge(places(done), how="left", on=["link", "tp"])


def gains(frames: Frames) -> pd.DataFrame:
    """Speed-up over standard by setting and wiring. usual: of a model's usual place, the largest TP degree of the first
    link on which it fits."""
    if (found := study(frames)) is None:
        return pd.DataFrame()
    done, rows = found[0], []
    usual = {model: usual_place(done, model) for model in dict.fromkeys(cell["model"] for cell in done["cells"])}
    for cell in done["cells"]:
        for wiring, (value, low, high) in (cell["speedup"] if cell["fits"] else {}).items():
            row = {key: cell[key] for key in ("model", "link", "tp", "batch")} | {
                "wiring": wiring,
                "origin": "simulated",
            }
            row |= {"speedup": value, "speedup_low": low, "speedup_high": high}
            rows.append(row | {"usual": (cell["link"], cell["tp"]) == usual[cell["model"]]})
    return pd.DataFrame(rows).merge(places(done), how="left", on=["link", "tp"]) if rows else pd.DataFrame()


def usual_place(done: dict, model: str) -> tuple | None:
    fitting = [cell for cell in done["cells"] if cell["model"] == model and cell["fits"]]
    if not fitting:
        return None
    link = fitting[0]["link"]
    tp = max(cell["tp"] for cell in fitting if cell["link"] == link)
    if link == "nvl72":  # a cluster of the calibrated device says more, where there is one
        other = [cell for cell in fitting if cell["hardware"] == done["hardware"]]
        return (other[0]["link"], other[0]["tp"]) if other else (link, tp)
    return link, tp


def wide(rows: pd.DataFrame, key: list[str], columns: dict[str, str]) -> pd.DataFrame:
    """The record's rows of several metrics side by side, with their ends: metric -> column."""
    made: dict[tuple, dict] = {}
    for row in rows[rows["metric"].isin(columns)].to_dict("records"):
        name = tuple(row[column] for column in key)
        here = made.setdefault(name, dict(zip(key, name, strict=True)) | {"origin": "simulated"})
        here |= with_ends(columns[row["metric"]], row)
    return pd.DataFrame(made.values(), columns=None if made else [*key, "origin"])


def crossovers(frames: Frames) -> pd.DataFrame:
    """By model and place: the batch at which ladder no longer leads, parallel overtakes it, and leads."""
    if (found := study(frames)) is None:
        return pd.DataFrame()
    done, rows = found
    key = ["model", "link", "tp"]
    every = select(rows, metric="speedup")[key].drop_duplicates()
    made = wide(rows, key, {f"batch_{name}": f"batch_{name}" for name in CROSSED}).drop(columns="origin")
    if every.empty:
        return pd.DataFrame()
    made = every.merge(made, how="left", on=key).merge(places(done), how="left", on=["link", "tp"])
    return made.assign(origin="simulated", first_batch=min(done["batches"]), last_batch=max(done["batches"]))


def latency_curves(frames: Frames) -> pd.DataFrame:
    if (found := study(frames)) is None:
        return pd.DataFrame()
    rows = []
    for curve in found[0]["latency"]:
        for wiring in ("parallel", "ladder", "upper_bound"):
            for us, (value, low, high) in zip(curve["us"], curve[wiring], strict=True):
                row = {key: curve[key] for key in ("model", "tp", "batch")} | {"wiring": wiring, "latency_us": us}
                row |= {"speedup": value, "speedup_low": low, "speedup_high": high}
                rows.append(row | {"origin": "simulated"})
    return pd.DataFrame(rows)


def latencies(frames: Frames) -> pd.DataFrame:
    """The latency of the link at which ladder's gain peaks and ends, and parallel overtakes it."""
    if (found := study(frames)) is None:
        return pd.DataFrame()
    names = {f"latency_{name}": f"latency_{name}" for name in (*CROSSED, "of_peak_gain", "gain_ends")}
    return wide(found[1], ["model", "tp", "batch"], names | {"peak_gain": "peak_gain"})


def one_shot(frames: Frames) -> pd.DataFrame:
    """Standard and ladder with NCCL and with a one-shot all-reduce, over standard with NCCL; ladder with NCCL over
    standard with one-shot, and whether it is ahead."""
    if (found := study(frames)) is None or not found[0]["one_shot"]:
        return pd.DataFrame()
    rows = []
    for cell in found[0]["one_shot"]:
        row = {key: cell[key] for key in ("model", "tp", "batch")} | {"origin": "simulated"}
        names = {
            "standard_one_shot": "standard_one_shot",
            "ladder": "ladder_nccl",
            "ladder_one_shot": "ladder_one_shot",
        }
        for key, column in (*names.items(), ("ladder_over_one_shot", "ladder_over_one_shot")):
            row |= with_ends(column, dict(zip(("value", "low", "high"), cell[key][-3:], strict=True)))
        low, high = row["ladder_over_one_shot_low"], row["ladder_over_one_shot_high"]
        rows.append(row | {"outcome": "ahead" if low > 1 else "behind" if high < 1 else "open"})
    return pd.DataFrame(rows)


def cost_curves(frames: Frames) -> pd.DataFrame:
    """tokens/s of a GPU against the time of a token, with the TP degree that gives most."""
    if (found := study(frames)) is None:
        return pd.DataFrame()
    rows = []
    for cost in found[0]["cost"]:
        for ms, speed, tp in zip(cost["ms"], cost["per_gpu"], cost["tp"], strict=True):
            rows.append({"model": cost["model"], "wiring": cost["wiring"], "ms_per_token": ms, "tp": tp,
                         "tokens_per_second_per_gpu": speed, "origin": "simulated"})  # fmt: skip
    return pd.DataFrame(rows)


def cost(frames: Frames) -> pd.DataFrame:
    """The same within a bound on the time of a token; over_standard: the ratio to standard's."""
    if (found := study(frames)) is None:
        return pd.DataFrame()
    rows = found[1][found[1]["metric"].str.match(WITHIN)]
    made = rows[["model", "wiring", "tp"]].assign(
        within_ms=pd.to_numeric(rows["metric"].str.extract(WITHIN)[0]), origin="simulated"
    )
    made["tokens_per_second_per_gpu"] = rows["value"]
    base = made[made["wiring"] == "standard"].set_index(["model", "within_ms"])["tokens_per_second_per_gpu"]
    made = made.join(base.rename("base"), on=["model", "within_ms"])
    made["over_standard"] = made["tokens_per_second_per_gpu"] / made["base"]
    return made.drop(columns="base").sort_values(["model", "within_ms"], kind="stable")


def about(frames: Frames) -> pd.DataFrame:
    """What a study rests on: how large a gain counts, which wirings take the same time, each link's hardware."""
    if (found := study(frames)) is None:
        return pd.DataFrame()
    done = found[0]
    rows = [{"name": "least gain that counts", "note": f"{done['worth']:g}"}]
    rows += [{"name": f"same time as {first}", "note": " ".join(names)} for first, names in done["same"].items()]
    rows += [{"name": p["words"], "note": f"{p['hardware']}: {p['why']}"} for p in done["places"]]
    return pd.DataFrame(rows).drop_duplicates()
