"""Speed: published and timed here, one row a setting and wiring; the curve over rho beside its schedule; one traced
step; larger models at equal speed."""

from itertools import product

import pandas as pd

from ladder.analysis.checkpoints import LOSS, PERPLEXITY, parameters, rewired_share, rows_of, trained, trained_steps
from ladder.analysis.frames import Frames
from ladder.analysis.points import (
    KEY,
    Measurement,
    by,
    every,
    headline,
    none_if_nan,
    plain,
    points,
    sweeps,
    together,
    with_ends,
)
from ladder.analysis.points import over_rho as curves_over_rho
from ladder.model.sizes import SIZES
from ladder.schedule import length, timeline
from ladder.wiring import Wiring, split_name, table

PUBLISHED = {  # metric of the published CSVs -> (column, factor to it)
    "tokens/s": "tokens_per_second",
    "tokens/s speedup over standard": "speedup",
    "tokens/s improvement": "throughput_gained",
    "decode latency improvement": "decode_saved",
    "prefill latency improvement": "prefill_saved",
}
FILES = ("table1_speedup_by_model_size", "table2_latency_breakdown_70b", "fig2_70b_throughput", "fig3_405b_speedup")
FILES += ("blog_tables",)
LINKS = {"enabled": "NVLink, P2P on", "enabled (NVLink)": "NVLink, P2P on", "disabled": "P2P off"}
# The published 34B and 176B disagree with the authors' other data; parallel's 70B without P2P is not confirmed either.
UNTRUSTED = ("34B", "176B")
SETTING = ["model", "tp", "batch", "link", "rho", "dtype", "compute", "timed_layers", "prompt", "new_tokens"]
TIMED = {  # column -> (metric, phase) of our records
    "tokens_per_second": ("tokens_per_second", "both"),
    "decode_s": ("seconds", "decode"),
    "prefill_s": ("seconds", "prefill"),
    "decode_speedup": ("speedup", "decode"),
    "prefill_speedup": ("speedup", "prefill"),
    "decode_speedup_virtual": ("speedup_virtual", "decode"),
    **{f"{phase}_hidden_{clock}": (f"hidden_{clock}", phase) for phase in ("decode", "prefill")
       for clock in ("wall", "virtual", "schedule")},
}  # fmt: skip
CURVE = [i / 20 for i in range(2, 61)]  # rho from 0.1 to 3
TOLERANCE = 0.05  # by which a larger model may be slower and still count as equally fast
FAST = 0.1  # rho up to which a link counts as fast
DEPTHS = {("1.2B", "1.5B"), ("3.5B", "4.5B")}  # Table 5's smaller and larger model


def speed(frames: Frames) -> pd.DataFrame:
    """view: where a setting of ours is shown: "headline" for each model's longest curve over rho and its widest real or
    named link, "batch" and "tp" for sweeps (several, parted by spaces), "fast" for links up to rho 0.1; "eager" for a
    way of computing that is not the fastest."""
    return pd.DataFrame([*published(frames), *timed(frames)])


def published(frames: Frames) -> list[dict]:
    rows: dict[tuple, dict] = {}
    key = ["file", "table", "model", "wiring", "tp", "batch", "p2p", "source"]
    paper = frames.paper(FILES)
    for row in paper[paper["metric"].isin(PUBLISHED)].to_dict("records"):
        setting = {name: none_if_nan(row[name]) for name in key}
        here = rows.setdefault(tuple(setting.values()), setting | {"link": LINKS[row["p2p"]], "origin": "published"})
        here[PUBLISHED[row["metric"]]] = row["value"]
    for row in rows.values():
        base = rows.get(tuple((row | {"wiring": "standard"})[name] for name in key), {})
        if "speedup" not in row and "tokens_per_second" in row and "tokens_per_second" in base:
            row["speedup"] = row["tokens_per_second"] / base["tokens_per_second"]
            row["derived"] = "speedup"
        row["hardware"] = "H100"
        row["trusted"] = row["model"] not in UNTRUSTED
        if row["tp"] and "tokens_per_second" in row:
            row["tokens_per_second_per_gpu"] = row["tokens_per_second"] / row["tp"]
            row["ms_per_token"] = 1e3 * row["batch"] / row["tokens_per_second"]
    return list(rows.values())


def timed(frames: Frames) -> list[dict]:
    best = points(frames)
    views = {id(p): {"headline"} for p in headline(best)}
    for over in ("batch", "tp"):
        for number, sweep in enumerate(sorted(sweeps(plain(best), over), key=len, reverse=True)):
            for p in sweep:
                views.setdefault(id(p), set()).add(f"{over}{number}")
    near = [p for p in every(frames) if p.rho is not None and p.rho <= FAST and p.row("speedup", "ladder")]
    for p in (p for group in by(near, lambda p: p.how).values() for p in headline(group)):
        views.setdefault(id(p), set()).add("fast")
    kept = {id(p) for p in best}
    basic = {id(p) for p in plain(best)}
    rows = []
    for number, p in enumerate(every(frames)):
        view = views.get(id(p), set()) | ({"plain"} if id(p) in basic else set())
        view |= set() if id(p) in kept else {"slower"}
        rows += [row | {"view": " ".join(sorted(view)), "point": number} for row in of_point(p)]
    return rows


def of_point(p: Measurement) -> list[dict]:
    setting = {name: none_if_nan(p.key[name]) for name in SETTING}
    setting |= {"link": p.link, "link_name": p.link_name, "hardware": p.hardware, "origin": p.origin}
    setting |= {"backend": p.key["backend"], "record": p.key["record"], "preset": none_if_nan(p.key["link"])}
    # Records say it in the name of the link only.
    setting["p2p"] = "disabled" if "p2p off" in str(setting["preset"]).lower() else None
    rows = []
    for wiring in p.wirings:
        row = setting | {"wiring": wiring}
        for column, (metric, phase) in TIMED.items():
            row |= with_ends(column, p.row(metric, wiring, phase))
        gain = None if wiring == "standard" else p.throughput_gain(wiring)
        row |= with_ends("speedup", gain) | with_ends("tokens_per_second_per_gpu", p.per_gpu(wiring))
        if gain:
            ends = {end: 100 * (gain[end] - 1) for end in ("value", "low", "high") if pd.notna(gain.get(end))}
            row |= with_ends("throughput_gained", ends)
        if wiring != "standard":
            for phase in ("prefill", "decode"):
                row |= with_ends(f"{phase}_saved", p.improvement(wiring, phase))
        if p.row("seconds", wiring):
            row["ms_per_token"] = 1e3 * row["decode_s"]
        if timing := p.row("speedup", wiring):
            row["rounds"] = timing["n"]
        name, chosen = split_name(wiring)
        if chosen:
            row["layers_share"] = rewired_share(wiring, p.key["model"])
            full = p.throughput_gain(name)
            if gain and full and full["value"] >= 1.02:
                row["share_of_gain"] = (gain["value"] - 1) / (full["value"] - 1)
        if row.get("decode_speedup_high") is not None:
            row["slower"] = row["decode_speedup_high"] < 1
        rows.append({key: value for key, value in row.items() if value is not None})
    return rows


def against_links(frames: Frames) -> list[Measurement]:
    """Our longest curve over rho; of several, that at batch 1 on the widest TP degree."""
    return max(curves_over_rho(points(frames)), key=lambda c: (len(c), c[0].key["tp"], -c[0].key["batch"]), default=[])


def middle(frames: Frames, curve: list[Measurement], key: str) -> dict | None:
    """What the record of the curve's middle point holds under ``key``."""
    path = curve[len(curve) // 2].key["record"] if curve else None
    return next((record for record in frames.with_extra(key) if record["path"] == path), None)


def over_rho(frames: Frames) -> pd.DataFrame:
    """What each wiring hides and gains in decode against rho, by clock: wall and virtual (emulated), schedule
    (simulated, with the measured module times)."""
    curve, rows = against_links(frames), []
    for p in curve:
        setting = {"model": p.key["model"], "tp": p.key["tp"], "batch": p.key["batch"], "hardware": p.hardware}
        for wiring in p.wirings:
            for clock, gain in (("wall", "speedup"), ("virtual", "speedup_virtual")):
                row = with_ends("hidden", p.row(f"hidden_{clock}", wiring)) | with_ends(
                    "decode_speedup", p.row(gain, wiring)
                )
                if row:
                    rows.append(setting | {"rho": p.rho, "wiring": wiring, "clock": clock, "origin": p.origin} | row)
    record = middle(frames, curve, "module_seconds")
    if record and {"standard", "upper_bound"} <= set(curve[0].wirings):
        seconds, tp = record["module_seconds"], int(curve[0].key["tp"])
        modules, mean = seconds["decode"], seconds["mean"]
        for rho in CURVE:
            took = {
                w: length(timeline(table(w, len(modules) // 2, tp), lambda n: modules[n], rho * mean))
                for w in curve[0].wirings
            }
            standard, silent = took["standard"], took["upper_bound"]
            for wiring, seconds_ in took.items():
                row = {"model": curve[0].key["model"], "tp": tp, "rho": rho, "wiring": wiring, "clock": "schedule"}
                row |= {"hidden": (standard - seconds_) / (standard - silent), "decode_speedup": standard / seconds_}
                rows.append(row | {"origin": "simulated"})
    return pd.DataFrame(rows)


def traced(frames: Frames) -> pd.DataFrame:
    """Spans of one traced decode step, wiring by wiring; exposed: of a wiring's communication time, the share during
    which no module computes."""
    chosen = middle(frames, against_links(frames), "timelines")
    records = [chosen] if chosen else frames.with_extra("timelines")
    if not records:
        return pd.DataFrame()
    record, rows = records[-1], []
    origin = next((row["origin"] for row in record["rows"] if row["metric"] == "seconds"), "emulated")
    for wiring, spans in record["timelines"].items():
        spans = [span for span in spans if not span.get("rank")]
        compute = [(s["start"], s["end"]) for s in spans if s["lane"] == "compute"]
        sent = [s for s in spans if s["lane"] == "communication"]
        total = sum(s["end"] - s["start"] for s in sent)
        covered = sum(max(0.0, min(s["end"], b) - max(s["start"], a)) for s in sent for a, b in compute)
        exposed = 1 - covered / total if total else None
        for s in spans:
            rows.append({"wiring": wiring, "origin": origin, "rho": record.get("timeline_rho"), "lane": s["lane"],
                         "name": s["name"], "start_s": s["start"], "end_s": s["end"], "exposed": exposed})  # fmt: skip
    return pd.DataFrame(rows)


def equal_speed(frames: Frames) -> pd.DataFrame:
    """Pairs of a smaller and a larger model in the same setting, the smaller under standard, or both as they were
    trained; fast_enough: the larger has at least 0.95 times the tokens/s; with the difference in quality."""
    rows = []
    paper = frames.paper("table5_larger_ladder").set_index(["model", "metric"])["value"]
    for small, large in sorted(DEPTHS):
        speeds = paper[small, "tokens/s"], paper[large, "tokens/s"]
        rows.append({"smaller": f"{small} standard", "larger": f"{large} ladder", "origin": "published",
                     "size_ratio": float(large[:-1]) / float(small[:-1]), "small_speed": speeds[0],
                     "large_speed": speeds[1], "speed_ratio": speeds[1] / speeds[0], "hardware": "H100",
                     "fast_enough": True,
                     "perplexity_difference": paper[large, "Wikitext PPL"] - paper[small, "Wikitext PPL"]})  # fmt: skip
    quality: dict[tuple, dict] = {}
    for (small, base, low), (large, wiring, high) in pairs(frames):
        names = (small.key["model"], base), (large.key["model"], wiring)
        if names not in quality:
            quality[names] = quality_apart(frames, *names)
        rows.append({"smaller": " ".join(names[0]), "larger": " ".join(names[1]), "origin": large.origin,
                     "size_ratio": parameters(large.key["model"]) / parameters(small.key["model"]),
                     "tp": large.key["tp"], "batch": large.key["batch"], "link": small.link,
                     "small_speed": low["value"], "large_speed": high["value"], "hardware": large.hardware,
                     "speed_ratio": high["value"] / low["value"],
                     "fast_enough": high["value"] / low["value"] >= 1 - TOLERANCE,
                     "one_record": small.key["record"] == large.key["record"], **quality[names]})  # fmt: skip
    return pd.DataFrame(rows)


def pairs(frames: Frames) -> list[tuple[tuple, tuple]]:
    """((point, wiring, its tokens/s) of the smaller model, the same of the larger one)."""
    ours, found = set(trained(frames, "pretrain")), []
    simulated = frames.own(stage="simulate", metric="tokens_per_second").dropna(subset=["wiring", "model"])
    guessed = [
        Measurement(dict(zip(KEY, key, strict=True)), group, simulated[:0])
        for key, group in simulated.groupby(KEY, dropna=False)
    ]
    timed = [p for p in (*points(frames), *guessed) if none_if_nan(p.key["timed_layers"]) is None]
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
                found.append(((small, wirings[0], speeds[0]), (large, wirings[1], speeds[1])))
    return found


def quality_apart(frames: Frames, small: tuple[str, str], large: tuple[str, str]) -> dict:
    """Loss and perplexity of the larger (model, wiring) less the smaller one's, where both were trained as long."""
    from ladder.analysis.quality import apart

    one, other = ({"model": m, "wiring": w, "variant": "pretrained"} for m, w in (large, small))
    if not (len(rows_of(frames, LOSS, **one)) and len(rows_of(frames, LOSS, **other))):
        return {}
    if len({trained_steps(frames).get((model, "pretrained", wiring)) for model, wiring in (small, large)}) > 1:
        return {}
    same_tokens = len({SIZES[model].vocab for model, _ in (small, large)}) == 1  # else losses are of other tokens
    loss = apart(frames, LOSS, one, other) if same_tokens else None
    return with_ends("loss_difference", loss) | with_ends(
        "perplexity_difference", apart(frames, PERPLEXITY, one, other)
    )
