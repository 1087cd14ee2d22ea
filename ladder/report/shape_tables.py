"""Tables of speed where the model's shape differs: half of the layers converted, more layers at equal speed, and links
so fast that there is nothing to gain."""

from ladder.report import setting
from ladder.report.cells import Cell, Column, Table, missing, value, words
from ladder.report.frames import Frames
from ladder.report.points import NOT_TIMED, Point, by, deeper, emulated, headline, points
from ladder.report.quality import layers, rewired_share
from ladder.report.setting import TAIL
from ladder.report.speed_tables import NONE_HERE, first, paper_rows
from ladder.report.style import listing, look, number, percent, times

FAST = 0.1  # rho up to which a link counts as fast: an all-reduce takes a tenth of a module
HYBRID_CLAIM = "Hybrid-Ladder-8B-16L speedup"
APART = "from two records, not timed in turn: the machine's drift between them is in the ratio"


def hybrids(found: list[Point]) -> list[tuple[Point, str]]:
    return [(p, wiring) for p in found for wiring in p.wirings if "@" in wiring]


def share_of_gain(point: Point, hybrid: str) -> float | None:
    """How much of full ladder's gain a hybrid has; None where either was not timed, or where ladder gains nothing."""
    half, full = point.throughput_gain(hybrid), point.throughput_gain(hybrid.partition("@")[0])
    if not half or not full or full["value"] < 1.02:
        return None
    return (half["value"] - 1) / (full["value"] - 1)


def hybrid_speed(frames: Frames) -> Table:
    heads = ("Shape", "Link", "Origin")
    columns = [Column("Converted", words=True), Column("of the layers, %"), *setting.heads(*heads)]
    columns += [Column("converted so", "tokens/s over standard's"), Column("all layers", "tokens/s over standard's")]
    columns += [Column("share of the gain, %"), *setting.heads(*TAIL)]
    rows, told = [], []
    claims = [row for row in frames.claims.to_dict("records") if row["claim"] == HYBRID_CLAIM]
    full = frames.paper("table1_speedup_by_model_size", model="8B", p2p="enabled")
    for row in claims:
        gain = {"metric": "speedup", "unit": "x", "value": 1 + float(row["value"]) / 100, "origin": "published"}
        gain |= {"source": row["source"], "note": "; ".join(filter(None, (row["setting"], row["note"])))}
        start = setting.published(*heads, Shape="Llama-3.1-8B-Instruct, TP 8", Link=missing("the source does not say"))
        note = row["note"].replace("CONTRADICTS", "contradicts")
        cells = [value(gain, times, "", note), value(first(full), times, "not published")]
        cells.append(missing("the two are of different sources and batches"))
        rows.append([words("last 16 layers"), words("50", 50), *start, *cells, *setting.published(*TAIL)])
    for point, wiring in hybrids(points(frames)):
        name, _, chosen = wiring.partition("@")
        share, part = rewired_share(wiring, point.key["model"]), share_of_gain(point, wiring)
        cells = [value(point.throughput_gain(w), times, NOT_TIMED) for w in (wiring, name)]
        cells.append(
            missing("not both timed, or ladder gains nothing") if part is None else words(f"{100 * part:.0f}", part)
        )
        count = (
            missing("a depth that the table of sizes does not have")
            if share is None
            else words(f"{100 * share:.0f}", share)
        )
        start = [words(f"{look(name).label}, layers {chosen}"), count, *setting.own(point, *heads)]
        rows.append([*start, *cells, *setting.own(point, *TAIL)])
        if part is not None and share is not None:
            told.append(f"{percent(share)} of the layers have {percent(part)} of its gain {point.at}")
    if len(rows) == len(claims):
        rows.append([missing(NONE_HERE) for _ in columns])
    words_ = [f"{row['value']} %" for row in claims]
    caption = f"Published, Llama-3.1-8B with half its layers converted gains {' or '.join(words_)}. "
    caption += f"Against ladder in all layers, here {listing(told)}." if told else "This run timed no hybrid."
    return Table("hybrid_speed", "Half of the layers converted", caption, columns, rows)


def equal_speed(frames: Frames) -> Table:
    heads = ("TP", "Batch", "Link", "Origin")
    columns = [Column("Standard", words=True), Column("Larger ladder", words=True), Column("layers, ratio")]
    columns += [*setting.heads(*heads), Column("standard", "tokens/s"), Column("larger ladder", "tokens/s")]
    columns += [Column("larger over standard"), Column("ladder over standard, same size"), *setting.heads(*TAIL)]
    paper = frames.paper("table5_larger_ladder", metric="tokens/s").set_index("model", drop=False)
    rows, published, own = [], [], []
    for small, large in (("1.2B", "1.5B"), ("3.5B", "4.5B")):
        pair = [paper_rows(paper[paper["model"] == model])[0] for model in (small, large)]
        gain = ratio(pair[1], pair[0], "derived: ratio of the published tokens/s")
        published.append(times(gain["value"]))
        cells = [value(row, number, "") for row in pair] + [value(gain, times, ""), missing("not published")]
        start = [words(f"{small}, 40 layers"), words(f"{large}, 52 layers"), words("1.30", 1.3)]
        rows.append([*start, *setting.published(*heads), *cells, *setting.published(*TAIL)])
    for small, large in deeper(points(frames)):
        pair = [p.row("tokens_per_second", w, "both") for p, w in ((small, "standard"), (large, "ladder"))]
        more = layers(large.key["model"]) / layers(small.key["model"])
        start = [words(f"{p.key['model']}, {layers(p.key['model'])} layers") for p in (small, large)]
        start += [words(f"{more:.2f}", more), *setting.own(large, *heads, link=small.link)]
        cells = [value(row, number, NOT_TIMED) for row in pair]
        gain = ratio(pair[1], pair[0], f"derived: {APART}") if all(pair) else None
        cells += [value(gain, times, NOT_TIMED, note=APART), value(small.throughput_gain("ladder"), times, NOT_TIMED)]
        rows.append([*start, *cells, *setting.own(large, *TAIL)])
        if gain:
            own.append(f"{times(gain['value'])} {small.at} ({large.key['model']} on {large.hardware})")
    if not own:
        rows.append([missing(NONE_HERE) for _ in columns])
    caption = (
        f"Published, a ladder with 30 % more layers still has {listing(published)} the tokens per second of standard. "
    )
    caption += f"Timed here: {listing(own)}." if own else "This run timed no larger ladder."
    return Table("equal_speed", "A larger ladder against standard (the paper's Table 5)", caption, columns, rows)


def ratio(own: dict, other: dict, note: str) -> dict:
    ends = {"value": own["value"] / other["value"], "low": None, "high": None}
    return own | ends | {"metric": "tokens/s speedup over standard", "unit": "x", "note": note}


def fast_points(frames: Frames) -> list[Point]:
    """Points on links so fast, in every way of computing."""
    found = [p for p in emulated(frames) if p.rho <= FAST and p.row("speedup", "ladder")]
    return [p for group in by(found, lambda p: p.how).values() for p in headline(group)]


def fast_link(frames: Frames) -> Table:
    """Where there is nothing to hide, ladder must not cost anything."""
    heads, tail = ("Link", "Shape", "Origin"), ("Computed", *TAIL)
    columns = setting.heads(*heads)
    columns += [Column(f"{phase}, {clock} clock", "ladder over standard") for phase, clock, _ in RATIOS]
    columns += setting.heads(*tail)
    found, rows = fast_points(frames), []
    for point in found:
        cells: list[Cell] = [value(point.row(m, "ladder", p), lambda x: f"{x:.3f}×", NOT_TIMED) for p, _, m in RATIOS]
        rows.append([*setting.own(point, *heads), *cells, *setting.own(point, *tail)])
    if not rows:
        rows.append([missing(NONE_HERE) for _ in columns])
    told = []
    for point in found:
        row = point.row("speedup", "ladder")
        cell = f"{row['value']:.3f}×" + (f" [{row['low']:.3f}, {row['high']:.3f}]" if slower(row) is not None else "")
        verdict = {None: "no interval", True: "slower beyond noise", False: "not slower beyond noise"}[slower(row)]
        told.append(f"{cell} the decode speed of standard {point.at} ({point.how or point.hardware}): {verdict}")
    caption = (
        f"Ladder has {'; '.join(told)}." if told else "No point with an all-reduce of a tenth of a module or less."
    )
    notes = [
        "Brackets: 95 % interval, bootstrap over rounds in which both were timed in turn. Slower beyond noise: the "
        "whole interval is below 1."
    ]
    return Table("fast_link", "Ladder where there is nothing to hide", caption, columns, rows, notes)


RATIOS = [("decode", "wall", "speedup"), ("decode", "virtual", "speedup_virtual"), ("prefill", "wall", "speedup")]


def slower(row: dict) -> bool | None:
    """Whether a speed-up is below 1 with its whole interval; None where it has none."""
    high = row.get("high")
    return None if high is None or high != high else bool(high < 1)


TABLES = [fast_link, hybrid_speed, equal_speed]
