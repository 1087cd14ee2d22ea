"""Quality: every checkpoint's numbers over its seeds, its paired difference to standard, and the noise floor: how far
two standard models lie apart that differ in their seed alone."""

from functools import lru_cache
from itertools import combinations, product
from typing import NamedTuple

import pandas as pd

from ladder.analysis.checkpoints import (
    KL,
    LOSS,
    PERPLEXITY,
    VARIANTS,
    Measure,
    all_checkpoints,
    by_seed,
    degree,
    is_real,
    measures,
    name,
    original,
    parameters,
    rewired_share,
    rows_of,
    studies,
    trained_steps,
)
from ladder.analysis.frames import Frames
from ladder.analysis.points import none_if_nan, with_ends
from ladder.looks import hardware_words

OVER, UNCLEAR, WITHIN, NO_FLOOR = "over", "unclear", "within", "no floor"
PUBLISHED = {"Wikitext PPL": "word_perplexity", "tokens/s": "tokens_per_second"}  # other metrics are accuracies
DONE_TO = {  # rows of Table 4 -> (variant, share of the layers)
    "Llama-3.1-8B-Instruct": ("pretrained", 0.0),
    "Hybrid-Ladder-8B-16L-zeroshot": ("converted", 0.5),
    "Hybrid-Ladder-8B-16L-retrained": ("adapted", 0.5),
    "Hybrid-Ladder-8B-20L-retrained": ("adapted", 0.625),
}


class Floor(NamedTuple):
    value: float  # the largest absolute difference between two seeds
    pairs: tuple[dict, ...]


def difference(frames: Frames, measure: Measure, pairs: list[tuple[dict, dict]]) -> dict | None:
    """The mean difference first - second of pairs of single checkpoints on the same samples: value, low, high, stderr,
    n, p; None where no pair's samples were kept. A checkpoint is named by model, wiring, variant and seed."""
    made = _difference(frames, measure, tuple(tuple(tuple(one.items()) for one in pair) for pair in pairs))
    return dict(made) if made else None


@lru_cache(maxsize=4096)
def _difference(frames: Frames, measure: Measure, pairs: tuple) -> dict | None:
    from ladder.evaluate.compare import compare

    kept = [[frames.samples(measure[1], dict(one)) for one in pair] for pair in pairs]
    kept = [records for records in kept if None not in records]
    if not kept:
        return None
    firsts, seconds = zip(*kept, strict=True)
    made = compare(list(seconds), list(firsts), measure[1], measure[0])  # the baselines come first
    return {"value": made["difference"]} | {key: made[key] for key in ("low", "high", "stderr", "n", "p")}


def same_seeds(frames: Frames, measure: Measure, one: dict, other: dict) -> list[tuple[dict, dict]]:
    """Both checkpoints at every seed that both have; one that was trained elsewhere has none, and goes with each."""
    seeds = [[none_if_nan(seed) for seed in by_seed(frames, measure, **each).index] for each in (one, other)]
    common = [(a, b) for a, b in product(*seeds) if a == b or None in (a, b)]
    return [(one | {"seed": a}, other | {"seed": b}) for a, b in common]


def apart(frames: Frames, measure: Measure, one: dict, other: dict) -> dict | None:
    """``one`` - ``other`` at the same seeds, pooled. A loss has no samples, so no interval: its mean over the seeds."""
    if measure != LOSS:
        return difference(frames, measure, same_seeds(frames, measure, one, other))
    gaps = (by_seed(frames, LOSS, **one) - by_seed(frames, LOSS, **other)).dropna()
    return {"value": float(gaps.mean()), "n": len(gaps)} if len(gaps) else None


@lru_cache(maxsize=512)
def _floor(frames: Frames, measure: Measure, model: str, variant: str) -> Floor | None:
    base, pairs = {"model": model, "wiring": "standard", "variant": variant}, []
    values = by_seed(frames, measure, **base)
    for low, high in combinations(sorted(values.index.dropna()), 2):
        if measure == LOSS:
            row = {"value": float(values[high] - values[low])}
        else:
            row = difference(frames, measure, [(base | {"seed": high}, base | {"seed": low})])
        pairs += [row | {"seed": high, "other_seed": low}] if row else []
    return Floor(max(abs(row["value"]) for row in pairs), tuple(pairs)) if pairs else None


def floor_of(frames: Frames, measure: Measure, model: str, variant: str) -> Floor | None:
    return _floor(frames, measure, model, variant)


def verdict(row: dict, floor: Floor | None) -> str:
    """over: larger than the floor, and its own 95 % interval leaves out 0; unclear: larger, but it holds 0; within: not
    larger; no floor: standard has one seed only."""
    if floor is None:
        return NO_FLOOR
    if abs(row["value"]) <= floor.value:
        return WITHIN
    low, high = row.get("low"), row.get("high")
    return UNCLEAR if low is not None and high is not None and low <= 0 <= high else OVER


def baseline(frames: Frames, model: str, variant: str) -> str:
    """The standard checkpoint that a rewired one is held against: the one treated the same way, else the original."""
    treated = len(frames.own(model=model, wiring="standard", variant=variant))
    return variant if treated else original(frames, model)["variant"]


def quality(frames: Frames) -> pd.DataFrame:
    """One row a study, checkpoint and measure: value is the mean over the seeds, its ends the lowest and highest seed;
    difference: to standard of the same variant and length, with floor, seeds_apart (the widest of any wiring of the
    group) and verdict; change: in percent against the original (pretrained: standard's mean)."""
    rows = published(frames)
    for study, part in studies(frames):
        rows += own(study, part)
    made = pd.DataFrame(rows)
    if "seeds_apart" in made:
        group = ["study", "model", "variant", "metric", "task"]
        compared = made[made["difference"].notna()]
        widest = compared.groupby(group, dropna=False)["seeds_apart"].max().rename("floor_of_others").reset_index()
        made = made.merge(widest, how="left", on=group)
        made.loc[made["difference"].isna(), "floor_of_others"] = None
    return made


def own(study: str, frames: Frames) -> list[dict]:
    rows, steps = [], trained_steps(frames)
    wanted = measures(frames)
    for model, variant, wiring in all_checkpoints(frames):
        one = {"model": model, "wiring": wiring, "variant": variant}
        other = baseline(frames, model, variant)
        length, base_length = steps.get((model, variant, wiring)), steps.get((model, other, "standard"))
        comparable = wiring != "standard" and (other != variant or length == base_length)
        hardware = frames.own(**one)["hardware"].dropna()
        what = {"study": study, "origin": "measured", "real": is_real(model), "degree": degree(frames, wiring, model),
                "layers_share": rewired_share(wiring, model), "steps": length,
                "hardware": hardware_words(hardware.iloc[0]) if len(hardware) else None}  # fmt: skip
        for measure in wanted:
            values = by_seed(frames, measure, **one)
            if values.empty:
                continue
            row = one | what | {"metric": name(measure), "task": measure[1], "seeds": len(values)}
            row |= {"value": float(values.mean()), "value_low": values.min(), "value_high": values.max()}
            if len(values) > 1:
                row["seeds_apart"] = float(values.max() - values.min())
            else:  # a single evaluation has its own standard error
                error = rows_of(frames, measure, **one)["stderr"].iloc[-1]
                row |= {"stderr": error if pd.notna(error) else None}
            if measure == PERPLEXITY:
                row |= changed(frames, one)
            if comparable and not (measure == LOSS and other != variant):  # else a loss is of other data
                row |= against(frames, measure, one, other)
            rows.append(row)
    return rows


def against(frames: Frames, measure: Measure, one: dict, other: str) -> dict:
    gap = apart(frames, measure, one, one | {"wiring": "standard", "variant": other})
    if gap is None:
        return {}
    floor = floor_of(frames, measure, one["model"], other)
    row = with_ends("difference", gap) | {"p": gap.get("p"), "against": other, "verdict": verdict(gap, floor)}
    return row | ({"floor": floor.value, "floor_pairs": len(floor.pairs)} if floor else {})


def changes(frames: Frames, one: dict) -> pd.Series:
    """Byte perplexity by seed as a change in percent: of a checkpoint trained from scratch against standard's mean; of
    another against the original of the same seed, treated alike if it was rewired and finetuned, so that what
    finetuning does to any model is not charged to the wiring."""
    values = by_seed(frames, PERPLEXITY, **one)
    other = original(frames, one["model"])
    if one["variant"] == "adapted" and one["wiring"] != "standard":
        other |= {"variant": "adapted"}
    base = by_seed(frames, PERPLEXITY, **other)
    if one["variant"] == "pretrained":
        return 100 * (values / base.mean() - 1)
    if base.index.isna().all():  # trained elsewhere: the same for every seed
        base = base.mean()
    return (100 * (values / base - 1)).dropna()


def changed(frames: Frames, one: dict) -> dict:
    made = changes(frames, one).dropna()
    return with_ends("change", {"value": made.mean(), "low": made.min(), "high": made.max()}) if len(made) else {}


def published(frames: Frames) -> list[dict]:
    """The paper's Tables 3, 4 and 5."""
    rows = []
    for file in ("table3_pretraining", "table4_adaptation", "table5_larger_ladder"):
        for row in frames.published[frames.published["file"] == file].to_dict("records"):
            variant, part = DONE_TO.get(row["model"], ("pretrained", None))
            metric = PUBLISHED.get(row["metric"], "accuracy")
            rows.append({"study": "published", "file": file, "model": row["model"], "wiring": row["wiring"],
                         "variant": variant, "layers_share": part, "metric": metric, "task": row["metric"],
                         "value": row["value"] / (100 if metric == "accuracy" else 1), "origin": "published",
                         "version": row["version"], "source": row["source"]})  # fmt: skip
        base = {r["model"]: r["value"] for r in rows if r["wiring"] == "standard" and r["metric"] == "word_perplexity"}
        for row in rows:
            if row["metric"] == "word_perplexity" and row["model"] in base and "change" not in row:
                row["change"] = 100 * (row["value"] / base[row["model"]] - 1)
    return rows


def seeds(frames: Frames) -> pd.DataFrame:
    """Each seed's own value of every measure, with the record's ends, and its change."""
    rows = []
    for study, part in studies(frames):
        for model, variant, wiring in all_checkpoints(part):
            one = {"model": model, "wiring": wiring, "variant": variant}
            what = {"study": study, **one, "degree": degree(part, wiring, model), "real": is_real(model)}
            change = changes(part, one)
            for measure in (*measures(part), KL):
                for record in rows_of(part, measure, **one).to_dict("records"):
                    row = what | {"metric": name(measure), "task": measure[1], "seed": record["seed"]}
                    row |= with_ends("value", record) | {"n": record["n"], "record": record["record"]}
                    row |= {"change": change.get(record["seed"])} if measure == PERPLEXITY else {}
                    rows.append(row | {"origin": "measured"})
    return pd.DataFrame(rows)


def noise_pairs(frames: Frames) -> pd.DataFrame:
    """Every pair of standard seeds behind a noise floor."""
    rows = []
    for study, part in studies(frames):
        made = {(model, baseline(part, model, variant)) for model, variant, wiring in all_checkpoints(part)}
        for model, variant in sorted(made, key=lambda m: (parameters(m[0]), m[0], VARIANTS.index(m[1]))):
            for measure in measures(part):
                floor = floor_of(part, measure, model, variant)
                for pair in floor.pairs if floor else ():
                    row = {"study": study, "model": model, "variant": variant, "metric": name(measure)}
                    row |= {
                        "task": measure[1],
                        "seed": pair["seed"],
                        "other_seed": pair["other_seed"],
                        "p": pair.get("p"),
                    }
                    rows.append(row | with_ends("difference", pair) | {"origin": "measured"})
    return pd.DataFrame(rows)


def others(frames: Frames) -> pd.DataFrame:
    """What other papers publish about quality."""
    rows = frames.paper("others_quality")
    return rows[["source", "model", "wiring", "value", "metric", "note", "origin"]].rename(
        columns={"wiring": "converted", "metric": "name", "value": "percent"}
    )
