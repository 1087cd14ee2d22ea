"""About the measuring itself: our decode path against the hardware's limit and another library, compiled against eager,
the emulated link against a real network, and where the presets of links are from."""

import pandas as pd

from ladder import links
from ladder.analysis.frames import Frames
from ladder.analysis.points import NETWORK, Measurement, by, every, none_if_nan, plain, with_ends
from ladder.looks import hardware_words, order

SETTING = ("model", "tp", "batch", "prompt", "dtype", "compute")
LIMIT = ("step_bytes", "copy_bandwidth", "roofline_fraction", "memory_bytes")


def setting(point: Measurement) -> dict:
    made = {name: none_if_nan(point.key[name]) for name in SETTING}
    return made | {
        "link": point.link,
        "origin": point.origin,
        "hardware": point.hardware,
        "record": point.key["record"],
    }


def pairs(frames: Frames) -> list[tuple[Measurement, Measurement]]:
    """(eager, compiled or in graphs) of the same point."""
    found = []
    for group in by(every(frames), lambda p: p.alike("compute")).values():
        ways = {none_if_nan(p.key["compute"]): p for p in group}
        found += [(ways["eager"], ways[way]) for way in ("compiled", "graphs") if "eager" in ways and way in ways]
    return found


def compiled(frames: Frames) -> pd.DataFrame:
    """Share hidden eager and compiled (virtual clock where both have one), and eager's time over compiled's."""
    rows = []
    for eager, fast in pairs(frames):
        for wiring in fast.wirings:
            row = setting(fast) | {"wiring": wiring}
            clock = "hidden_virtual" if all(p.row("hidden_virtual", wiring) for p in (eager, fast)) else "hidden_wall"
            shares = [p.row(clock, wiring) for p in (eager, fast)]
            if all(shares) and wiring not in ("standard", "upper_bound"):  # 0 and 1 by definition
                row |= with_ends("hidden_eager", shares[0]) | with_ends("hidden_compiled", shares[1])
                row["hidden_lost"] = shares[0]["value"] - shares[1]["value"]
            for phase in ("decode", "prefill"):
                gain = fast.row("compile_speedup", wiring, phase) or eager.row("compile_speedup", wiring, phase)
                row |= with_ends(f"{phase}_compile_speedup", gain)
            rows.append(row)
    return pd.DataFrame(rows)


def limit_points(frames: Frames) -> list[tuple[Measurement, str]]:
    """(point, wiring) to hold against the hardware, one of each model and way of computing: the fewest ranks and
    sequences, where nothing communicates, so that only our path is judged."""
    found = [p for p in plain(every(frames)) if p.row("roofline_fraction", "upper_bound")]
    groups = by(found, lambda p: p.alike("tp", "batch", "prompt", "new_tokens", "link", "backend")).values()
    chosen = [min(group, key=lambda p: (p.key["tp"] > 1, p.key["batch"], -p.key["tp"], p.rho or 0)) for group in groups]
    return [(p, "standard" if p.key["tp"] == 1 else "upper_bound") for p in chosen]


def decode_limit(frames: Frames) -> pd.DataFrame:
    """A decode step beside the time that its bytes take at a measured copy's bandwidth, and beside transformers'."""
    rows, library = [], every(frames, library=True)
    same = ("model", "tp", "batch", "prompt", "dtype", "hardware")
    for point, wiring in limit_points(frames):
        seconds, host = point.row("seconds", wiring), point.row("host_seconds", wiring)
        other = next(
            (p for p in library if all(none_if_nan(p.key[k]) == none_if_nan(point.key[k]) for k in same)), None
        )
        row = setting(point) | {"wiring": wiring} | with_ends("decode_s", seconds)
        for name in LIMIT:
            shared = name in ("copy_bandwidth", "memory_bytes")
            row |= with_ends(
                name, point.row(name, None if name == "copy_bandwidth" else wiring, None if shared else "decode")
            )
        if host:
            row["host_share"] = host["value"] / seconds["value"]
        faster, base = point.row("over_transformers", "standard"), other and other.row("seconds", "standard")
        if faster or base:
            row |= with_ends("over_transformers", faster or {"value": base["value"] / seconds["value"]})
            row["one_record"] = bool(faster) or base["record"] == seconds["record"]
        rows.append(row)
    for point in library:
        row = setting(point) | {"wiring": "standard"} | with_ends("decode_s", point.row("seconds", "standard"))
        rows.append(row | with_ends("memory_bytes", point.row("memory_bytes", "standard", None)))
    return pd.DataFrame(rows)


def network(frames: Frames) -> pd.DataFrame:
    """Two real ranks over TCP with a delay, beside the same ranks on the emulated link. counted: standard and ladder in
    decode with as many all-reduces under way as the real link has, which the claim judges."""
    rows = []
    ratios = frames.own(stage="bench", metric=NETWORK).to_dict("records")
    for ratio in sorted(ratios, key=lambda r: (natural(r["link"]), r["phase"], order(r["wiring"]))):
        name, _, way = ratio["link"].partition(": emulated, ")
        row = {key: ratio[key] for key in ("wiring", "phase", "model", "tp", "batch", "record")} | {
            "origin": "emulated"
        }
        row |= {"link": name, "emulated_as": way or "as the row says", "hardware": hardware_words(ratio["hardware"])}
        for column, origin, link in (("real_s", "measured", name), ("emulated_s", "emulated", ratio["link"])):
            where = {key: ratio[key] for key in ("record", "wiring", "phase", "tp", "batch")}
            found = frames.own(metric="seconds", origin=origin, link=link, **where).to_dict("records")
            row |= with_ends(column, found[-1] if found else None)
        row |= with_ends("emulated_over_real", ratio)
        decode = ratio["phase"] == "decode" and ratio["wiring"] in ("standard", "ladder")
        rows.append(row | {"counted": decode and "serial" not in ratio["link"]})
    made = pd.DataFrame(rows)
    if len(made):  # what the emulation makes of a wiring's speed-up
        key = ["record", "link", "emulated_as", "phase", "tp", "batch"]
        base = made[made["wiring"] == "standard"].set_index(key)[["real_s", "emulated_s"]]
        made = made.join(base.add_prefix("base_"), on=key)
        for kind in ("real", "emulated"):
            made[f"{kind}_speedup"] = made[f"base_{kind}_s"] / made[f"{kind}_s"]
        made = made.drop(columns=["base_real_s", "base_emulated_s"])
    return made


def natural(link: str) -> tuple[int, str]:
    """Sorts '50 us' before '250 us'."""
    digits = "".join(c if c.isdigit() else " " for c in str(link)).split()
    return (int(digits[0]) if digits else 0, str(link))


def presets(frames: Frames) -> pd.DataFrame:
    """The links that the benchmark emulates, a row a number of ranks, and those measured here."""
    rows = []
    for row in links.rows():
        what = {"link": row["name"], "name": row["words"], "bandwidth_gbs": row["bus_bandwidth"] / 1e9}
        what |= {"in_flight": row["in_flight"], "origin": row["origin"], "source": row["source"]}
        rows += [what | {"ranks": n, "latency_us": us} for n, us in row["latency_us"].items()]
    measured = frames.own(stage="bench", metric=["link_alpha", "link_beta"])
    for (name, tp, record), group in measured.groupby(["link", "tp", "record"]):
        cell, row = group.set_index("metric")["value"], group.iloc[-1]
        rows.append({"link": name, "name": f"{row['backend']}, {hardware_words(none_if_nan(row['hardware']))}",
                     "ranks": int(tp), "latency_us": cell["link_alpha"] * 1e6, "origin": "measured", "record": record,
                     "bandwidth_gbs": 2 * (tp - 1) / tp / cell["link_beta"] / 1e9,
                     "in_flight": 2 if row["backend"] == "gloo" else 1, "source": row["note"]})  # fmt: skip
    return pd.DataFrame(rows)
