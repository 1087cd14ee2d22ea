"""Tables about the measuring itself: our decode path against the hardware's limit, compiled against eager, the
emulated link against a real network, and where the presets of links are from."""

import pandas as pd

from ladder import links
from ladder.report import setting
from ladder.report.cells import Column, Table, missing, value, words
from ladder.report.frames import Frames
from ladder.report.points import NETWORK, NOT_TIMED, TOO_FAST, Measurement, by, every, none_if_nan, plain
from ladder.report.setting import TAIL
from ladder.report.speed_tables import NONE_HERE
from ladder.report.style import hardware_words, listing, look, order, percent, seconds_text, signed_number, span, times

BAR = 0.10  # a prediction of the emulated link should be this close to the real network
MOST = 0.05  # of the share hidden that compiling may cost
BY_DEFINITION = "0 for standard and 1 for the upper bound, by definition"


def pairs(frames: Frames) -> list[tuple[Measurement, Measurement]]:
    """(eager, compiled or in graphs) of the same point."""
    groups = by(every(frames), lambda p: p.alike("compute")).values()
    found = []
    for group in groups:
        ways = {none_if_nan(p.key["compute"]): p for p in group}
        found += [(ways["eager"], ways[way]) for way in ("compiled", "graphs") if "eager" in ways and way in ways]
    return found


def compiled(frames: Frames) -> Table:
    heads, tail = ("Link", "Shape", "Origin"), ("Computed", *TAIL)
    columns = [Column("Wiring", words=True), *setting.heads(*heads)]
    columns += [Column("eager", "hidden in decode, %"), Column("compiled", "hidden in decode, %")]
    columns += [
        Column("points lost"),
        Column("decode", "eager time over compiled"),
        Column("prefill", "eager time over compiled"),
        *setting.heads(*tail),
    ]
    rows, lost, gains = [], [], []
    for eager, fast in pairs(frames):
        for wiring in fast.wirings:
            clock = "hidden_virtual" if all(p.row("hidden_virtual", wiring) for p in (eager, fast)) else "hidden_wall"
            shares = [p.row(clock, wiring) for p in (eager, fast)]
            ends = wiring in ("standard", "upper_bound")
            reason = BY_DEFINITION if ends else TOO_FAST
            cells = [value(None if ends else row, lambda h: f"{100 * h:.0f}", reason) for row in shares]
            if all(shares) and not ends:
                loss = shares[0]["value"] - shares[1]["value"]
                lost.append((loss, wiring, fast))
                cells.append(words(signed_number(100 * loss), loss))
            else:
                cells.append(missing(reason))
            for phase in ("decode", "prefill"):
                gain = fast.row("compile_speedup", wiring, phase) or eager.row("compile_speedup", wiring, phase)
                cells.append(value(gain, times, NOT_TIMED))
                gains += [gain["value"]] if gain and phase == "decode" else []
            start = [words(look(wiring).label), *setting.own(fast, *heads)]
            rows.append([*start, *cells, *setting.own(fast, *tail)])
    if not rows:
        rows.append([missing(NONE_HERE) for _ in columns])
    caption = "No point was timed both ways."
    if lost:
        loss, wiring, point = max(lost, key=lambda entry: entry[0])
        word = "more" if loss > MOST else "no more"
        caption = (
            f"Compiling costs {word} than {100 * MOST:.0f} points of the share hidden: at most "
            f"{signed_number(100 * loss)} ({look(wiring).label} {point.at}). "
        )
    if gains:
        verdict = "faster" if min(gains) > 1 else "slower" if max(gains) < 1 else "not always faster"
        caption = caption.removesuffix("No point was timed both ways.")
        caption += f"Compiled decode is {verdict}: {span(gains, times)} eager's speed."
    notes = ["Shares by the virtual clock where both have one, otherwise by the wall clock. Brackets: 95 % interval."]
    return Table("compiled", "Compiled against eager", caption.strip(), columns, rows, notes)


def library_point(point: Measurement, found: list[Measurement]) -> Measurement | None:
    """The plain library's timing of the same model, batch, prompt and dtype on the same hardware."""
    same = ("model", "tp", "batch", "prompt", "dtype", "hardware")
    return next((p for p in found if all(none_if_nan(p.key[k]) == none_if_nan(point.key[k]) for k in same)), None)


def limit_points(frames: Frames) -> list[tuple[Measurement, str]]:
    """(point, wiring) to hold against the hardware, one of each model and way of computing: the fewest ranks and
    sequences, where nothing communicates, so that only our path is judged."""
    found = [p for p in plain(every(frames)) if p.row("roofline_fraction", "upper_bound")]
    groups = by(found, lambda p: p.alike("tp", "batch", "prompt", "new_tokens", "link", "backend")).values()
    chosen = [min(group, key=lambda p: (p.key["tp"] > 1, p.key["batch"], -p.key["tp"], p.rho or 0)) for group in groups]
    return [(p, "standard" if p.key["tp"] == 1 else "upper_bound") for p in chosen]


def decode_limit(frames: Frames) -> Table:
    heads = ("Shape", "Computed", "Origin")
    columns = [*setting.heads(*heads), Column("ms per step"), Column("GB read")]
    columns += [Column("copy, GB/s"), Column("of the limit, %"), Column("host, %")]
    columns += [Column("memory, GiB"), Column("× transformers"), *setting.heads(*TAIL)]
    rows, shares, told, baselines = [], {}, [], every(frames, library=True)
    for point, wiring in limit_points(frames):
        seconds, fraction = point.row("seconds", wiring), point.row("roofline_fraction", wiring)
        host, other = point.row("host_seconds", wiring), library_point(point, baselines)
        base = other.row("seconds", "standard") if other else None
        faster = point.row("over_transformers", "standard")
        faster = faster or (over(base, seconds, "over_transformers", "x") if base else None)
        cells = [
            value(seconds, seconds_text, NOT_TIMED),
            value(point.row("step_bytes", wiring), lambda b: f"{b / 1e9:.2f}", NOT_MEASURED),
            value(point.row("copy_bandwidth", None, None), lambda b: f"{b / 1e9:,.0f}", NOT_MEASURED),
            value(fraction, lambda f: f"{100 * f:.0f}", NOT_MEASURED),
            value(
                over(host, seconds, "host_share", "fraction") if host else None,
                lambda s: f"{100 * s:.1f}",
                NOT_MEASURED,
            ),
            value(point.row("memory_bytes", wiring, None), lambda b: f"{b / 2**30:.2f}", NOT_MEASURED),
            value(faster, times, "the plain library was not timed on this shape"),
        ]
        rows.append([*setting.own(point, *heads), *cells, *setting.own(point, *TAIL)])
        if fraction:
            shares.setdefault(point.hardware, []).append(fraction["value"])
        if fraction and faster:
            told.append(
                f"{percent(fraction['value'])} and {times(faster['value'])} transformers for {point.key['model']}"
            )
    for point in baselines:
        seconds, memory = point.row("seconds", "standard"), point.row("memory_bytes", "standard", None)
        cells = [value(seconds, seconds_text, NOT_TIMED), *(missing(NOT_MEASURED) for _ in range(4))]
        cells += [value(memory, lambda b: f"{b / 2**30:.2f}", NOT_MEASURED), missing("is transformers itself")]
        rows.append([*setting.own(point, *heads), *cells, *setting.own(point, *TAIL)])
    if not rows:
        rows.append([missing(NONE_HERE) for _ in columns])
    parts = [f"{span(s, percent)} on {name}" for name, s in shares.items()]
    caption = f"Decode reads weights and cache at this share of a measured copy's speed: {listing(parts)}"
    caption += f" ({listing(told)})." if told else "."
    notes = [
        "Nothing communicates here: standard at TP 1, otherwise the upper bound on one rank. The limit is the time "
        "that the weights and the cache take at the bandwidth of a measured copy. Host: the time that the host needs "
        "to launch a step, as a share of the step.",
        "transformers: the plain library, static cache and compiled, on the same shapes and hardware.",
    ]
    title = "Decode at the hardware's limit"
    return Table("decode_limit", title, caption if parts else f"{NONE_HERE.capitalize()}.", columns, rows, notes)


NOT_MEASURED = "not measured there"


def over(one: dict, other: dict, metric: str, unit: str) -> dict:
    """The quotient of two rows."""
    note = f"derived: {one['metric']} ({one['compute']}) over {other['metric']} ({other['compute']})"
    if one["record"] != other["record"]:
        note += ", from two records, not timed in turn"
    ends = {"value": one["value"] / other["value"], "low": None, "high": None}
    return other | ends | {"metric": metric, "unit": unit, "note": note}


def network_rows(frames: Frames) -> pd.DataFrame:
    return frames.own(stage="bench", metric=NETWORK)


def predicted(frames: Frames) -> pd.DataFrame:
    """The ratios that are held to the bar: standard and ladder in decode, with as many all-reduces under way at once as
    the real link has."""
    rows = network_rows(frames)
    rows = rows[rows["wiring"].isin(["standard", "ladder"]) & (rows["phase"] == "decode")]
    return rows[["serial" not in link for link in rows["link"]]]


def network(frames: Frames) -> Table:
    columns = [Column("Network", words=True), Column("Emulated as", words=True), Column("Wiring", words=True)]
    columns += [Column("Phase", words=True), *setting.heads("Model", "TP", "Hardware"), Column("ms, real", "measured")]
    columns += [Column("ms, emulated", "emulated"), Column("emulated over real", "emulated")]
    rows = []
    ratios = sorted(
        network_rows(frames).to_dict("records"), key=lambda r: (natural(r["link"]), r["phase"], order(r["wiring"]))
    )
    for ratio in ratios:
        real, predicted_ = (seconds_of(frames, ratio, origin) for origin in ("measured", "emulated"))
        name, _, way = ratio["link"].partition(": emulated, ")
        start = [words(name), words(way or "as the row says"), words(look(ratio["wiring"]).label)]
        start += [words(ratio["phase"]), words(ratio["model"]), setting.number(ratio["tp"])]
        start += [words(hardware_words(none_if_nan(ratio["hardware"])))]
        cells = [value(row, seconds_text, NOT_MEASURED) for row in (real, predicted_)]
        rows.append([*start, *cells, value(ratio, lambda x: f"{x:.2f}", "")])
    if not rows:
        rows.append([missing(NONE_HERE) for _ in columns])
    held = predicted(frames)
    if len(held):
        told = []
        for model, group in held.groupby("model"):
            worst = group.loc[(group["value"] - 1).abs().idxmax()]
            word = "within" if abs(worst["value"] - 1) <= BAR else "not within"
            off = f"{percent(worst['value'] - 1, signed=True)} ({look(worst['wiring']).label}, {worst['link']})"
            told.append(f"{word} {percent(BAR)} for {model}: at worst {off}")
        caption = (
            "The emulated link predicts the decode time of standard and ladder over a real slow network "
            f"{'; '.join(told)}."
        )
    else:
        caption = "No record holds the emulated link against a real slow network."
    notes = [
        "Real: two ranks over TCP between two network namespaces, with a delay on the way. Emulated: the same ranks, "
        "each all-reduce as long as an isolated one took there; with two under way at once, as gloo has, and serial "
        "for comparison. Brackets: 95 % interval.",
    ]
    return Table("network", "The emulated link against a real slow network", caption, columns, rows, notes)


def natural(link: str) -> tuple[int, str]:
    """Sorts '50 us' before '250 us'."""
    digits = "".join(c if c.isdigit() else " " for c in str(link)).split()
    return (int(digits[0]) if digits else 0, str(link))


def seconds_of(frames: Frames, ratio: dict, origin: str) -> dict | None:
    """The seconds that a ratio was made from: same record, wiring and phase, emulated or on the real link."""
    link = ratio["link"] if origin == "emulated" else ratio["link"].partition(": emulated, ")[0]
    where = {key: ratio[key] for key in ("record", "wiring", "phase", "tp", "batch")}
    found = frames.own(metric="seconds", origin=origin, link=link, **where).to_dict("records")
    return found[-1] if found else None


def presets(frames: Frames) -> Table:
    """The links that the benchmark emulates, each number with its source, and those measured here."""
    found = links.rows()
    ranks = sorted({n for row in found for n in row["latency_us"]})
    columns = [Column("Link", words=True), Column("What it is", words=True)]
    columns += [Column(f"{n} ranks", "latency, µs") for n in ranks]
    columns += [Column("bandwidth, GB/s"), Column("at once"), Column("Origin", words=True)]
    rows = []
    for row in found:
        latency = [row["latency_us"].get(n) for n in ranks]
        cells = [missing("no source for so many ranks") if us is None else words(f"{us:g}", us) for us in latency]
        bandwidth = row["bus_bandwidth"] / 1e9
        end = [words(f"{bandwidth:g}", bandwidth), words(row["in_flight"], row["in_flight"])]
        origin = words(row["origin"], note=f"{row['name']}: {row['source']}")
        rows.append([words(row["name"]), words(row["words"]), *cells, *end, origin])
    measured = frames.own(stage="bench", metric=["link_alpha", "link_beta"])
    for (name, tp, _), group in measured.groupby(["link", "tp", "record"]):
        cell, row = group.set_index("metric")["value"], group.iloc[-1]
        latency, bandwidth = cell["link_alpha"] * 1e6, 2 * (tp - 1) / tp / cell["link_beta"] / 1e9
        cells = [words(f"{latency:.1f}", latency) if n == tp else missing("not measured") for n in ranks]
        at_once = 2 if row["backend"] == "gloo" else 1
        origin = words("measured", note=f"{name}: ladder bench link; {row['note']}")
        what = f"{row['backend']}, {tp:g} ranks, {hardware_words(none_if_nan(row['hardware']))}"
        end = [words(f"{bandwidth:.1f}", bandwidth), words(at_once, at_once), origin]
        rows.append([words(name), words(what), *cells, *end])
    caption = (
        f"{len(found)} links; of each number is said whether it was published, fitted to published times, or assumed."
    )
    notes = [
        "An all-reduce takes the latency plus its bytes times 2 (n − 1) / n over the bandwidth; between two numbers of "
        "ranks the latency is interpolated, beyond the last it is assumed to go on growing. At once: all-reduces under "
        "way at the same time in one communicator."
    ]
    return Table("links", "Links that can be emulated", caption, columns, rows, notes)


TABLES = [decode_limit, compiled, network, presets]
