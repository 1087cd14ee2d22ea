"""Tables of the scale study: where each wiring wins, and where the winner changes. All of it is simulated."""

import pandas as pd

from ladder.report.cells import Cell, Column, Table, missing, value, words
from ladder.report.frames import Frames, select
from ladder.report.style import listing, look, number, percent, times

NONE_HERE = "this run has no scale study; `ladder simulate study` makes its record"
NO_FIT = "no model fits"
GAINS = "simulated: tokens/s over standard's"
INTERVALS = "In brackets: 90 % intervals, from the calibration's covariance, its residual noise and what is assumed."


def study(frames: Frames) -> tuple[dict, pd.DataFrame] | None:
    """(the study, its tidy rows), of this run before one that the repository keeps; None where there is none."""
    found = sorted(frames.with_extra("study"), key=lambda record: record["kept"])
    return (found[0]["study"], frames.own(record=found[0]["path"])) if found else None


def empty(name: str, title: str, columns: list[Column], reason: str = NONE_HERE) -> Table:
    return Table(name, title, f"Nothing here: {reason}.", columns, [[missing(reason) for _ in columns]])


def place_words(done: dict) -> dict[str, str]:
    """Links by their short words."""
    return {place["link"]: place["words"] for place in done["places"]}


def equal_words(done: dict) -> str:
    """Which wirings are one and the same here."""
    same = [
        f"{look(first).label} stands for {listing(names)}, which take the same time"
        for first, names in done["same"].items()
    ]
    return f"{'; '.join(same)}." if same else ""


def line(rows: pd.DataFrame, metric: str, **where) -> dict | None:
    found = select(rows, metric=metric, **where)
    return found.iloc[0].to_dict() if len(found) else None


def scale_winners(frames: Frames) -> Table:
    name, title = "scale_winners", "Where each wiring wins"
    if (found := study(frames)) is None:
        return empty(name, title, [Column("Model", words=True), Column("Link", words=True), Column("Settings")])
    done, rows = found
    columns = [Column("Model", words=True), Column("Link", words=True), Column("Settings")]
    winners = select(rows, metric="won")
    winners = winners[winners["value"] > 0]
    asked = []
    for contest, names in done["contests"].items():
        some = set(select(winners, note=contest)["wiring"])
        asked += [(contest, wiring) for wiring in [*(name for name in names if name in some), None]]
    for contest, wiring in asked:
        columns.append(Column(look(wiring).label if wiring else "not decidable", f"simulated: {contest}"))
    columns.append(Column("nothing to gain"))
    lines, told = [], place_words(done)
    for model in dict.fromkeys(cell["model"] for cell in done["cells"]):
        for link in dict.fromkeys(place["link"] for place in done["places"]):
            where = {"model": model, "link": link}
            first = line(rows, "nothing_to_gain", **where)
            if first is None:
                reason = "the model does not fit there"
                cells = [missing(reason, **where) for _ in range(len(columns) - 2)]
            else:
                cells = [words(f"{first['n']:g}", first["n"])]
                for contest, wiring in asked:
                    of = {"note": contest} | ({"wiring": wiring} if wiring else {})
                    cells.append(value(line(rows, "won" if wiring else "not_decidable", **where, **of), count, ""))
                cells.append(value(first, count, ""))
            lines.append([words(model), words(told[link]), *cells])
    contest = next(iter(done["contests"]))
    caption = f"Among {contest}: {by_link(select(winners, note=contest), told)}."
    sites = {place["link"]: f"{place['words']}: {place['hardware']}, {place['why']}" for place in done["places"]}
    notes = [
        f"{'; '.join(sites.values())}.",
        "A setting is a TP degree and a batch that fit the device's memory. A wiring wins where it is faster than "
        "every other by more than the 90 % interval of their ratio; a deeper ladder only where it beats ladder so.",
        f"Nothing to gain: without communication it would be less than {percent(done['worth'] - 1)} faster.",
        *filter(None, [equal_words(done)]),
    ]
    return Table(name, title, caption, columns, lines, notes)


def by_link(winners: pd.DataFrame, told: dict[str, str]) -> str:
    """What wins where: 'NVLink: ladder 28 times; ...'."""
    parts = []
    for link in told:
        wins = select(winners, link=link).groupby("wiring")["value"].sum().sort_values(ascending=False)
        parts.append(f"{told[link]}: {listing(f'{look(w).label} wins {n:g}' for w, n in wins.items()) or 'no winner'}")
    return "; ".join(parts)


def count(value_: float) -> str:
    return f"{value_:g}"


def won(done: dict, contest: str) -> str:
    """A sentence: of how many settings each wiring of a contest wins how many."""
    leaders = [cell["leaders"][contest] for cell in done["cells"] if cell["fits"]]
    wins = [(sum(some == [wiring] for some in leaders), look(wiring).label) for wiring in done["contests"][contest]]
    cells = [f"{label} wins {n}" for n, label in sorted(wins, reverse=True) if n]
    open_ = sum(len(some) > 1 for some in leaders)
    cells += [f"{open_} are not decidable"] if open_ else []
    nothing = leaders.count([])
    cells += [f"in {nothing} there is nothing to gain"] if nothing else []
    return f"Among {contest}, of {len(leaders)} settings that fit, {listing(cells) or 'none'}."


def scale_crossovers(frames: Frames) -> Table:
    """By model and place: ladder's gain, and the batch at which parallel overtakes it."""
    name, title = "scale_crossovers", "Batch at which parallel overtakes ladder"
    columns = [Column("Model", words=True), Column("Link", words=True), Column("TP")]
    if (found := study(frames)) is None:
        return empty(name, title, columns)
    done, rows = found
    shown = sorted(select(rows, metric="speedup")["batch"].unique())
    if not shown:
        return empty(name, title, columns, NO_FIT)
    shown = [shown[0], shown[-1]] if len(shown) > 1 else shown
    columns += [Column(f"ladder, batch {batch:g}", GAINS) for batch in shown]
    columns += [Column(f"no communication, batch {batch:g}", GAINS) for batch in shown[:1]]
    columns += [Column(head, "simulated: from which batch on") for head in CROSSED.values()]
    columns.append(Column("Assumed", words=True))
    told, lines, last = place_words(done), [], max(done["batches"])
    for model in dict.fromkeys(cell["model"] for cell in done["cells"]):
        for place in done["places"]:
            where = {"model": model, "link": place["link"], "tp": place["tp"]}
            if not len(select(rows, metric="speedup", **where)):
                continue
            asked = [("ladder", batch) for batch in shown] + [("upper_bound", shown[0])]
            cells = [
                value(line(rows, "speedup", wiring=wiring, batch=batch, **where), times, "it does not fit", **where)
                for wiring, batch in asked
            ]
            never = f"not up to batch {last:g}, or what fits"
            cells += [value(line(rows, f"batch_{key}", **where), batches, never, **where) for key in CROSSED]
            start = [words(model), words(told[place["link"]]), words(place["tp"], place["tp"])]
            lines.append([*start, *cells, words("; ".join(place["assumed"]) or "–")])
    notes = [INTERVALS, LEADS, f"{min(done['batches']):g}: at the study's first batch already."]
    return Table(name, title, crossover_caption(done, rows), columns, lines, notes)


CROSSED = {
    "ladder_lead_ends": "ladder no longer leads",
    "parallel_overtakes": "parallel is faster",
    "parallel_leads": "parallel leads",
}
LEADS = "To lead: to be faster by more than the 90 % interval of the ratio."


def batches(value_: float) -> str:
    return f"{value_:.0f}"


def crossover_caption(done: dict, rows: pd.DataFrame) -> str:
    first = min(done["batches"])
    places = len(select(rows, metric="speedup")[["model", "link", "tp"]].drop_duplicates())
    ends, leads = (select(rows, metric=f"batch_{key}")["value"] for key in ("ladder_lead_ends", "parallel_leads"))
    some, later = ends[ends > first], leads[leads > first]
    caption = f"At batch {first:g} ladder leads parallel in {places - sum(ends <= first)} of {places} combinations of "
    caption += "model, link and TP degree"
    caption += f", up to a batch of {some.min():.0f} to {some.max():.0f}" if len(some) else ""
    at_once = f"; parallel leads at every batch in {sum(leads <= first)}"
    return f"{caption}{at_once}, and from some batch on in {len(later)} more."


def scale_latencies(frames: Frames) -> Table:
    name, title = "scale_latencies", "Link latency at which ladder's gain peaks and ends"
    columns = [Column("Model", words=True), Column("TP"), Column("Batch")]
    if (found := study(frames)) is None:
        return empty(name, title, columns)
    done, rows = found
    columns += [Column("ladder's largest gain", GAINS), Column("gain largest", US)]
    columns += [Column(head, US) for head in CROSSED.values()]
    columns.append(Column(f"ladder's gain below {percent(done['worth'] - 1)}", US))
    lines = []
    for curve in done["latency"]:
        where = {key: curve[key] for key in ("model", "tp", "batch")}
        never = f"not up to {max(curve['us']):,.0f} µs"
        names = ["of_peak_gain", *CROSSED, "gain_ends"]
        cells = [value(line(rows, f"latency_{key}", **where), us_text, never, **where) for key in names]
        start = [words(where["model"]), words(where["tp"], where["tp"]), words(where["batch"], where["batch"])]
        lines.append([*start, value(line(rows, "peak_gain", **where), times, never, **where), *cells])
    if not lines:
        return empty(name, title, columns, NO_FIT)
    first = min(curve["batch"] for curve in done["latency"])
    peaks = select(rows, metric="latency_of_peak_gain", batch=first)[["model", "value"]].itertuples(index=False)
    over = select(rows, metric="latency_parallel_overtakes", batch=first)["value"]
    caption = f"At batch {first:g} ladder gains most where an all-reduce takes "
    caption += listing(f"{us:.0f} µs ({model})" for model, us in peaks)
    caption += f"; from {over.min():.0f} to {over.max():.0f} µs on, parallel is the faster." if len(over) else "."
    notes = [INTERVALS, LEADS, "The bandwidth is that of NVLink. 1 µs: from the start."]
    return Table(name, title, caption, columns, lines, notes)


US = "simulated: µs of an all-reduce"


def us_text(value_: float) -> str:
    return f"{value_:,.0f}"


def scale_one_shot(frames: Frames) -> Table:
    name, title = "scale_one_shot", "A fast all-reduce instead of another wiring"
    columns = [Column("Model", words=True), Column("TP"), Column("Batch")]
    if (found := study(frames)) is None:
        return empty(name, title, columns)
    done, rows = found
    over = "simulated: tokens/s over standard's with NCCL"
    columns += [Column("standard, one-shot", over), Column("ladder, NCCL", over), Column("ladder, one-shot", over)]
    columns.append(Column("ladder with NCCL over standard with one-shot", "simulated"))
    cases = (("standard", "nvlink-one-shot", "nvlink"), ("ladder", "nvlink", "nvlink"))
    cases += (("ladder", "nvlink-one-shot", "nvlink"), ("ladder", "nvlink", "nvlink-one-shot"))
    lines, settings = [], rows[rows["metric"] == "speedup_over_standard_on_nvlink"]
    for model, tp, batch in settings[["model", "tp", "batch"]].drop_duplicates().itertuples(index=False):
        where = {"model": model, "tp": tp, "batch": batch}
        cells = [
            value(line(rows, f"speedup_over_standard_on_{base}", wiring=wiring, link=link, **where), times, "")
            for wiring, link, base in cases
        ]
        lines.append([words(model), words(f"{tp:g}", tp), words(f"{batch:g}", batch), *cells])
    if not lines:
        return empty(name, title, columns, "the study has no link with a fast all-reduce")
    notes = [
        INTERVALS,
        "One-shot: a kernel in which every rank reads all others' bytes. Its row in the table of links says too "
        "little for messages of 64 KB to 1 MB, and its interference with compute is assumed to be NCCL's.",
    ]
    return Table(name, title, one_shot_caption(done), columns, lines, notes)


def one_shot_caption(done: dict) -> str:
    ends = [(cell["batch"], *cell["ladder_over_one_shot"]) for cell in done["one_shot"]]
    ahead, behind = [b for b, _, low, _ in ends if low > 1], [b for b, _, _, high in ends if high < 1]
    both = [cell["ladder_one_shot"][0] / cell["standard_one_shot"][0] for cell in done["one_shot"]]
    first = min(batch for batch, *_ in ends)
    start = [value_ for batch, value_, *_ in ends if batch == first]
    return (
        f"Of {len(ends)} settings on NVLink, ladder with NCCL is ahead of standard with a one-shot all-reduce by more "
        f"than the interval in {len(ahead)}, behind in {len(behind)}; at batch {first:g} its speed is "
        f"{times(min(start))} to {times(max(start))} that of the other. If both have one-shot, ladder is "
        f"{times(min(both))} to {times(max(both))} as fast as standard."
    )


def scale_cost(frames: Frames) -> Table:
    name, title = "scale_cost", "What a latency costs"
    columns = [Column("Model", words=True), Column("ms per token, at most")]
    if (found := study(frames)) is None:
        return empty(name, title, columns)
    done, rows = found
    wirings = list(dict.fromkeys(cost["wiring"] for cost in done["cost"]))
    columns += [Column(look(wiring).label, "simulated: tokens/s per GPU (TP)") for wiring in wirings]
    columns.append(Column("ladder over standard", "simulated"))
    start, end = "tokens_per_second_per_gpu_within_", "_ms"
    budgets = sorted({float(m.removeprefix(start).removesuffix(end)) for m in rows["metric"] if m.startswith(start)})
    lines, told = [], []
    for model in dict.fromkeys(cost["model"] for cost in done["cost"]):
        for budget in budgets:
            priced = {w: line(rows, f"{start}{budget:g}{end}", model=model, wiring=w) for w in wirings}
            if not any(priced.values()):
                continue
            cells = [per_gpu(priced[wiring]) for wiring in wirings]
            pair = priced.get("ladder"), priced.get("standard")
            more = pair[0]["value"] / pair[1]["value"] if all(pair) else None
            cells.append(missing("standard does not get there") if more is None else words(times(more), more))
            lines.append([words(model), words(f"{budget:g}", budget), *cells])
            told += [(more, model, budget)] if more else []
    if not told:
        return empty(name, title, columns, "the study has no nodes with NVLink and InfiniBand, or all are too slow")
    most, model, budget = max(told)
    least = min(told)
    caption = (
        f"Ladder gives up to {times(most)} the tokens/s per GPU of standard, for {model} within {budget:g} ms per "
        f"token; least, {times(least[0])}, for {least[1]} within {least[2]:g} ms."
    )
    notes = [
        "The TP degree that gives most, on H100 nodes with NVLink inside and InfiniBand between them; batches up to "
        f"{max(done['batches']):g}, interpolated between those of the study; a token's time holds its share of prefill."
    ]
    return Table(name, title, caption, columns, lines, notes)


def per_gpu(row: dict | None) -> Cell:
    if row is None:
        return missing("no TP degree is fast enough")
    return Cell(f"{number(row['value'], 0)} (TP {row['tp']:g})", row["value"], (row,))


TABLES = [scale_winners, scale_crossovers, scale_latencies, scale_one_shot, scale_cost]
