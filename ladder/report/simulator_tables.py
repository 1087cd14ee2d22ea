"""Tables of the simulator: how far its predictions are from what was published, row by row and in groups."""

from ladder.report import setting
from ladder.report.cells import Cell, Column, Table, missing, words
from ladder.report.frames import PROVENANCE, Frames
from ladder.report.style import listing, look, number, percent, signed_number, times
from ladder.simulate.published import MODELS
from ladder.simulate.scores import FIT, GROUPS, HELD_OUT, LINK, POINT, UNSEEN, WHAT

NOT_HERE = "this run holds no validation of the simulator"
NAMES = {"speedup": "speed-up", "tokens_per_s": "tokens/s", "prefill_s": "prefill time", "memory_gb": "memory"}
FORMS = {
    "speedup": times,
    "tokens_per_s": number,
    "prefill_s": lambda s: f"{s:.3f}",
    "memory_gb": lambda gb: f"{gb:.1f}",
}
UNITS = {"speedup": "over standard", "tokens_per_s": "tokens/s", "prefill_s": "prefill, s", "memory_gb": "memory, GB"}


def validation(frames: Frames) -> dict | None:
    """The latest record of `ladder simulate validate`, this run's before a kept one."""
    found = frames.with_extra("groups")
    found = [record for record in found if "validation" in record]
    return max(found, key=lambda r: (not r["kept"], r["provenance"].get("started") or ""), default=None)


def empty(name: str, title: str, columns: list[Column], reason: str = NOT_HERE) -> Table:
    caption = f"{reason[0].upper()}{reason[1:]}."
    return Table(name, title, caption, columns, [[missing(reason) for _ in columns]])


def simulated(record: dict, **what) -> dict:
    """A tidy row of the record's."""
    shared = {key: record["provenance"].get(key) for key in PROVENANCE}
    return shared | {"stage": "simulate", "run": "validate", "record": record["path"], "origin": "simulated"} | what


def statistic(record: dict, group: str, what: str) -> dict:
    """The errors of a group; empty where it has no numbers of that kind."""
    return next((row for row in record["groups"] if (row["group"], row["what"]) == (group, what)), {})


def digits(fraction: float) -> str:
    return percent(fraction, 1)


def errors(row: dict, prefix: str = "") -> str:
    return f"{digits(row[prefix + 'median'])} (median) and {digits(row[prefix + 'p90'])} (90th percentile)"


def groups(frames: Frames) -> Table:
    name, title = "validation_groups", "How far predictions are from what was published"
    columns = [Column("Published numbers", words=True), Column("Of", words=True), Column("Origin", words=True)]
    columns += [Column("n"), *(Column(key, "error, %") for key in ("median", "p90", "largest"))]
    columns += [Column("bias", "error, %"), Column("in interval, %"), Column("R²")]
    columns += [Column(key, "error without interference, %") for key in ("median", "p90")]
    columns += [Column(key, "ladder's median error, %") for key in ("simulated", "rule of thumb")]
    record = validation(frames)
    if record is None:
        return empty(name, title, columns)

    def cells(row: dict, origin: str) -> list[Cell]:
        def cell(key: str, form=lambda x: f"{100 * x:.1f}", reason="not asked of these numbers") -> Cell:
            if row.get(key) is None:
                return missing(reason)
            what = {"task": row["group"], "metric": f"{WHAT[row['what']][0]}_{key}", "unit": "fraction", "n": row["n"]}
            return Cell(form(row[key]), row[key], (simulated(record, **what, value=row[key], origin=origin),))

        return [
            *(cell(key) for key in ("median", "p90", "max")),
            cell("bias", lambda x: signed_number(100 * x)),
            cell("inside", lambda x: f"{100 * x:.0f}", "no interval is given"),
            cell("r2", lambda x: f"{x:.2f}".replace("-", "−"), "of speed-ups only, and of eight at least"),
            *(cell(key, reason="interference changes speeds only") for key in ("without_median", "without_p90")),
            *(cell(key, reason="of ladder's speed-ups only") for key in ("ladder_median", "rule_median")),
        ]

    rows = []
    for row in record["groups"]:
        start = [words(row["group"], GROUPS.index(row["group"])), words(NAMES[row["what"]]), words("simulated")]
        rows.append([*start, words(row["n"], row["n"]), *cells(row, "simulated")])
    for what, row in record["noise"].items():
        start = [words("the authors' own repeats", len(GROUPS)), words(NAMES[what]), words("published")]
        own = row | {"group": "repeats", "what": what, "n": row["pairs"]}
        rows.append([*start, words(row["pairs"], row["pairs"]), *cells(own, "published")])
    notes = [
        "Error: simulated over published, less 1; p90: its 90th percentile; bias: its median with the sign; in "
        "interval: published numbers within the 90 % interval. A number counts once, however many sources repeat it. "
        "Rows of a fit are no test, and stand here for comparison. Table 1 does not say its batch: it is compared at "
        "batch 4.",
        "Rule of thumb: ladder hides 66 % of the communication, with the simulator's own times of standard and of no "
        "communication. It says nothing of parallel.",
        "The authors' own repeats: pairs of published numbers of the same cell, from different runs.",
    ]
    return Table(name, title, groups_caption(record), columns, rows, notes)


def groups_caption(record: dict) -> str:
    held, speed = statistic(record, HELD_OUT, "speedup"), statistic(record, HELD_OUT, "tokens_per_s")
    unseen, noise = statistic(record, UNSEEN, "speedup"), record["noise"].get("speedup")
    parts = []
    if held:
        part = f"Held-out speed-ups of the 70B are predicted within {errors(held)}"
        part += f"; without interference it would be {errors(held, 'without_')}"
        part += f"; its tokens/s within {errors(speed)}" if speed else ""
        parts.append(f"{part}. {percent(held['inside'])} of those speed-ups lie in their 90 % interval.")
    if unseen:
        part = f"Speed-ups of the 8B, which nothing was fitted to, are predicted within {errors(unseen)}"
        if unseen.get("rule_median") is not None:
            rule = (unseen["ladder_median"], unseen["rule_median"])
            part += f"; for ladder alone the median is {digits(rule[0])}, and the rule of thumb's {digits(rule[1])}"
        parts.append(f"{part}.")
    if noise:
        parts.append(f"The authors' own repeats differ by {errors(noise)} in speed-up.")
    return " ".join(parts) or "No published number was compared."


def lines(record: dict, *, scored: bool) -> list[dict[str, dict]]:
    """The published rows, each as its entries by what they compare, in the order of their groups."""
    found: dict[tuple, dict] = {}
    for entry in record["validation"]:
        if (entry["group"] is not None) == scored:
            key = tuple(entry[name] for name in (*POINT, "set", "use", "reason", "source"))
            found.setdefault(key, {})[entry["what"]] = entry
    return sorted(found.values(), key=lambda by: GROUPS.index(any_of(by)["group"]) if scored else 0)


def any_of(by: dict[str, dict]) -> dict:
    return next(iter(by.values()))


def published(entry: dict) -> dict:
    """The tidy row of what was published."""
    metric, unit, factor = WHAT[entry["what"]]
    row = {key: entry[key] for key in POINT} | {"stage": "published", "origin": "published", "metric": metric}
    row |= {"value": factor * entry["published"], "unit": unit, "table": entry["set"], "source": entry["source"]}
    return row | ({"note": f"{entry['use']}: {entry['reason']}"} if entry["reason"] else {"note": entry["use"]})


def comparison(record: dict, entry: dict | None, what: str) -> list[Cell]:
    """Cells of published, simulated and error."""
    if entry is None:
        return [missing("not published")] * 3
    metric, unit, factor = WHAT[what]
    form = FORMS[what]
    row = simulated(record, **{key: entry[key] for key in POINT}, metric=metric, unit=unit, note=entry["hardware"])
    row |= {key: factor * entry[key] for key in ("low", "high") if entry[key] is not None}
    text = form(entry["predicted"])
    if entry["low"] is not None and entry["low"] < entry["high"]:
        text += f" [{form(entry['low'])}, {form(entry['high'])}]"
    off = entry["predicted"] / entry["published"] - 1
    note = "repeats a number above: counted once" if entry["copy"] else ""
    return [
        Cell(form(entry["published"]), entry["published"], (published(entry),), note=note),
        Cell(text, entry["predicted"], (row | {"value": factor * entry["predicted"]},)),
        words(signed_number(100 * off), abs(off)),
    ]


def scored_rows(frames: Frames) -> Table:
    name, title = "validation_rows", "Every published number, and what is predicted"
    columns = [Column("Wiring", words=True), *setting.heads("Model", "TP", "Batch", "Link")]
    columns += [Column("Source", words=True), Column("Used", words=True)]
    for what in WHAT:
        columns += [Column(key, UNITS[what]) for key in ("published", "simulated", "error, %")]
    record = validation(frames)
    if record is None:
        return empty(name, title, columns)
    rows, words_of_use = [], {"validation": "held out", "calibration": "fitted", "link": "fitted (the link)"}
    for by in lines(record, scored=True):
        entry = any_of(by)
        start = [words(look(entry["wiring"]).label), words(entry["model"])]
        start += [setting.number(entry["tp"]), setting.number(entry["batch"]), words(entry["link"])]
        start += [words(entry["set"]), words(words_of_use[entry["use"]])]
        rows.append([*start, *(cell for what in WHAT for cell in comparison(record, by.get(what), what))])
    held = [e for e in record["validation"] if e["group"] not in (None, FIT, LINK) and e["what"] == "speedup"]
    caption = f"{len(rows)} published points. "
    if held:
        worst = max(held, key=lambda e: abs(e["predicted"] / e["published"] - 1))
        off = percent(worst["predicted"] / worst["published"] - 1, signed=True)
        caption += (
            f"The held-out speed-up that is furthest off ({off}) is {look(worst['wiring']).label}'s of "
            f"{worst['model']}, TP {worst['tp']}, batch {worst['batch']}, {worst['link']}. "
        )
    far, close = record["winners"]["far"], record["winners"]["close"]
    if far["n"] + close["n"]:
        caption += (
            f"Where ladder and parallel are predicted more than {percent(record['winners']['near'])} apart, the "
            f"published winner is the predicted one in {far['right']} of {far['n']} cells; closer, in {close['right']} "
            f"of {close['n']}."
        )
    notes = [
        "Brackets: 90 % interval. H100, 1024 prompt and 512 new tokens, the paper's implementation. The prefill times "
        "and memory beside Figure 2 are those of the authors' logs; memory is what the allocator had reserved.",
        "nvlink-p2p-off is NVLink with peer-to-peer switched off, as published: small messages go through host memory, "
        "large ones stay on NVLink. It is not PCIe.",
    ]
    return Table(name, title, caption.strip(), columns, rows, notes)


def excluded(frames: Frames) -> Table:
    name, title = "validation_excluded", "Published numbers that are not scored"
    columns = [Column("Source", words=True), Column("Model", words=True), Column("Why", words=True), Column("rows")]
    columns += [Column(head, words=True) for head in ("Wiring", "TP", "Batch", "Link")] + setting.heads("Origin")
    record = validation(frames)
    if record is None:
        return empty(name, title, columns)
    found: dict[tuple, list[dict]] = {}
    for by in lines(record, scored=False):
        entry = any_of(by)
        found.setdefault((entry["set"], entry["model"], entry["reason"]), []).append(by)
    rows = []
    for (set_, model, reason), members in found.items():
        mine = [any_of(by) for by in members]
        tidy = tuple(published(entry) for by in members for entry in by.values())
        said = [listing(dict.fromkeys(look(e["wiring"]).label for e in mine))]
        said += [listing(map(str, sorted({e[key] for e in mine}))) for key in ("tp", "batch")]
        said.append(listing(sorted({e["link"] for e in mine})))
        cells = [words(set_), words(model), words(reason), Cell(str(len(mine)), len(mine), tidy)]
        rows.append([*cells, *map(words, said), words("published")])
    paper = frames.paper("table1_speedup_by_model_size")
    for model, group in paper[~paper["model"].isin(MODELS)].groupby("model"):
        tidy = tuple(group.assign(stage="published").to_dict("records"))
        why = "disagrees with the authors' other data, and its shape is not in the table of sizes"
        cells = [words("Table 1"), words(model), words(why), Cell(str(len(group)), len(group), tidy), words("ladder")]
        cells += [words("8"), missing("the paper does not say"), words("nvlink and nvlink-p2p-off")]
        rows.append([*cells, words("published")])
    count = sum(int(row[3].text) for row in rows)
    caption = f"{count} published rows are not scored, for the reasons given; most repeat a scored one."
    return Table(name, title, caption, columns, rows, ["The CSV has every number."])


TABLES = [groups, scored_rows, excluded]
