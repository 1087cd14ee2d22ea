"""Tables of speed where the model's shape differs: half of the layers converted, larger models at equal speed, and
links so fast that there is nothing to gain."""

from dataclasses import dataclass
from itertools import product

from ladder.model.sizes import SIZES
from ladder.report import setting
from ladder.report.cells import Cell, Column, Table, missing, value, words
from ladder.report.frames import Frames, select
from ladder.report.noise import against, trained_steps
from ladder.report.points import KEY, NOT_TIMED, Measurement, by, emulated, headline, none_if_nan, points, together
from ladder.report.quality import LOSS, NOT_EVALUATED, PERPLEXITY, parameters, rewired_share, rows_of, trained
from ladder.report.setting import TAIL
from ladder.report.speed_tables import NONE_HERE, first, paper_rows
from ladder.report.style import listing, look, number, percent, signed_loss, times
from ladder.wiring import Wiring, split_name

FAST = 0.1  # rho up to which a link counts as fast: an all-reduce takes a tenth of a module
HYBRID_CLAIM = "Hybrid-Ladder-8B-16L speedup"
TOLERANCE = 0.05  # by which a larger model may be slower and still count as equally fast
APART = "from two records, not timed in turn: the machine's drift between them is in the ratio"


def hybrids(found: list[Measurement]) -> list[tuple[Measurement, str]]:
    return [(p, wiring) for p in found for wiring in p.wirings if split_name(wiring)[1]]


def share_of_gain(point: Measurement, hybrid: str) -> float | None:
    """How much of full ladder's gain a hybrid has; None where either was not timed, or where ladder gains nothing."""
    half, full = point.throughput_gain(hybrid), point.throughput_gain(split_name(hybrid)[0])
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
        name, chosen = split_name(wiring)
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


@dataclass(frozen=True)
class Pair:
    """A smaller and a larger model, (point, wiring) each, timed in the same setting. rows: their tokens/s."""

    small: tuple[Measurement, str]
    large: tuple[Measurement, str]
    rows: tuple[dict, dict]

    @property
    def ratio(self) -> dict:
        """Of the larger one's tokens/s to the smaller one's."""
        same = self.large[0].key["record"] == self.small[0].key["record"]
        return ratio(self.rows[1], self.rows[0], "derived: tokens/s over the smaller model's" if same else APART)

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """(model, wiring) of both."""
        return tuple((point.key["model"], wiring) for point, wiring in (self.small, self.large))


def simulated(frames: Frames) -> list[Measurement]:
    rows = frames.own(stage="simulate", metric="tokens_per_second").dropna(subset=["wiring", "model"])
    return [
        Measurement(dict(zip(KEY, key, strict=True)), group, rows[:0]) for key, group in rows.groupby(KEY, dropna=False)
    ]


def pairs(frames: Frames) -> list[Pair]:
    """Every model and every larger one of the same setting, under all wirings that both are trained with here; the
    smaller one under standard in any case."""
    ours, found = set(trained(frames, "pretrain")), []
    timed = [p for p in (*points(frames), *simulated(frames)) if none_if_nan(p.key["timed_layers"]) is None]
    for small, large in product(timed, timed):
        models = small.key["model"], large.key["model"]
        if not 0 < parameters(models[0]) < parameters(models[1]) or not together(small, large):
            continue
        for wirings in product(small.wirings, large.wirings):
            both_trained = set(zip(models, wirings, strict=True)) <= ours
            if any(Wiring.parse(w).timing_only for w in wirings) or not (wirings[0] == "standard" or both_trained):
                continue
            speeds = [p.row("tokens_per_second", w, "both") for p, w in zip((small, large), wirings, strict=True)]
            if all(speeds):
                found.append(Pair((small, wirings[0]), (large, wirings[1]), tuple(speeds)))
    return found


def apart(frames: Frames, pair: Pair) -> list[Cell]:
    """Loss and perplexity of the larger model less the smaller one's."""
    small, large = ({"model": m, "wiring": w, "variant": "pretrained"} for m, w in pair.names)
    if not rows_of(frames, LOSS, **small).size or not rows_of(frames, LOSS, **large).size:
        return [missing("not both trained in this run")] * 2
    if len({trained_steps(frames).get((model, "pretrained", wiring)) for model, wiring in pair.names}) > 1:
        return [missing("trained for another number of steps")] * 2
    loss = against(frames, LOSS, large, small, "no seed in common")
    if len({SIZES[model].vocab for model, _ in pair.names}) > 1:
        loss = missing("losses of other tokens: the vocabularies differ")
    return [loss, against(frames, PERPLEXITY, large, small, NOT_EVALUATED)]


def equal_speed(frames: Frames) -> Table:
    heads = ("TP", "Batch", "Link", "Origin")
    columns = [Column("Smaller", words=True), Column("Larger", words=True), Column("parameters, ratio")]
    columns += [*setting.heads(*heads), Column("smaller", "tokens/s"), Column("larger", "tokens/s")]
    columns += [Column("larger over smaller", "tokens/s"), Column("validation loss, nats", "larger − smaller")]
    columns += [Column("perplexity", "larger − smaller"), *setting.heads(*TAIL)]
    paper = frames.paper("table5_larger_ladder")
    rows, published = [], []
    for small, large in (("1.2B", "1.5B"), ("3.5B", "4.5B")):
        pair, quality = (
            [paper_rows(select(paper, model=model, metric=metric))[0] for model in (small, large)]
            for metric in ("tokens/s", "Wikitext PPL")
        )
        gain = ratio(pair[1], pair[0], "derived: ratio of the published tokens/s")
        published.append(times(gain["value"]))
        change = quality[1] | {"value": quality[1]["value"] - quality[0]["value"], "note": "derived: their difference"}
        cells = [value(row, number, "") for row in pair] + [value(gain, times, ""), missing("not published")]
        cells.append(value(change, signed_loss, "", note="Wikitext, per word; ours: held-out documents, per byte"))
        more = float(large[:-1]) / float(small[:-1])
        start = [words(f"{small} standard"), words(f"{large} ladder"), words(f"{more:.2f}", more)]
        rows.append([*start, *setting.published(*heads), *cells, *setting.published(*TAIL)])
    found = pairs(frames)
    shown = [pair for pair in found if pair.ratio["value"] >= 1 - TOLERANCE]
    quality = {pair.names: apart(frames, pair) for pair in shown}
    for pair in shown:
        small, large = pair.small[0], pair.large[0]
        more = parameters(large.key["model"]) / parameters(small.key["model"])
        start = [words(f"{p.key['model']} {look(w).label}") for p, w in (pair.small, pair.large)]
        start += [words(f"{more:.2f}", more), *setting.own(large, *heads, link=small.link)]
        cells = [value(row, number, NOT_TIMED) for row in pair.rows]
        cells.append(value(pair.ratio, times, NOT_TIMED, note=APART if pair.ratio["note"] == APART else ""))
        rows.append([*start, *cells, *quality[pair.names], *setting.own(large, *TAIL)])
    if not shown:
        reason = f"all {len(found)} larger models timed here are slower by more" if found else NONE_HERE
        rows.append([missing(reason) for _ in columns])
    notes = [
        f"Shown: pairs of models timed whole in the same setting, of which the larger has at least {1 - TOLERANCE:g} "
        "times the tokens/s of the smaller, so answers in the same time; the smaller under standard, or both as "
        "trained in this run. Both were trained on the same tokens. over, unclear, within: against the noise floor of "
        "the smaller model under standard."
    ]
    title = "Larger models at equal speed (the paper's Table 5)"
    return Table("equal_speed", title, equal_speed_caption(published, found, shown, quality), columns, rows, notes)


def equal_speed_caption(published: list[str], found: list[Pair], shown: list[Pair], quality: dict) -> str:
    caption = (
        f"Published, a ladder with 30 % more layers still has {listing(published)} the tokens per second of standard. "
    )
    if not found:
        return caption + "This run timed no two models in the same setting."
    caption += (
        f"Here, of {len(found)} pairs in the same setting, in {len(shown)} the larger model is as fast as the smaller "
        f"one within {percent(TOLERANCE)}, or faster"
    )
    told = []
    for names, group in by(shown, lambda p: p.names).items():
        cells = quality[names]
        if any(cell.text for cell in cells):
            (small, base), (large, wiring) = names
            speeds = listing(f"{times(p.ratio['value'])} {p.small[0].at} ({p.large[0].origin})" for p in group)
            ends = [
                f"{name} {cell.text}" for name, cell in zip(("loss", "perplexity"), cells, strict=True) if cell.text
            ]
            text = f"{large} {look(wiring).label} has {speeds} the tokens per second of {small} {look(base).label}"
            told.append(f"{text}: {listing(ends)} against the noise floor")
    if told:
        return f"{caption}. {'; '.join(told)}."
    return caption + ("; none of them were both trained in this run." if shown else ".")


def ratio(own: dict, other: dict, note: str) -> dict:
    ends = {"value": own["value"] / other["value"], "low": None, "high": None}
    return own | ends | {"metric": "tokens_per_second_ratio", "unit": "x", "note": note}


def fast_points(frames: Frames) -> list[Measurement]:
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
