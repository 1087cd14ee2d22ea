"""Conversion and adaptation: what conversion costs, and what each method brings back, at equal tokens and paired by
seed and document; which layers are free to convert."""

import pandas as pd

from ladder.analysis.checkpoints import (
    ADAPTED,
    KL,
    LOSS,
    OWN,
    PERPLEXITY,
    by_seed,
    degree,
    is_real,
    original,
    points,
    rewired_share,
    studies,
)
from ladder.analysis.frames import Frames
from ladder.analysis.points import none_if_nan, with_ends
from ladder.analysis.quality import difference, same_seeds
from ladder.analysis.training import over_seeds
from ladder.looks import order
from ladder.model.chosen import FREE

# Differences of byte perplexity: the converted model to the original; the adapted one to the original, to the original
# treated alike, and to the finetuned one.
CHOICES = {"the last": "loss_change", "chosen": "loss_change_chosen"}
GAPS = ("drop", "left", "left_alike", "over_finetuned")


def adapted(frames: Frames) -> list[tuple[str, str, str]]:
    """(model, wiring, variant) of every conversion that was adapted, few layers first."""
    rows = (
        frames.own(stage="evaluate", variant=list(ADAPTED))[["model", "wiring", "variant"]].dropna().drop_duplicates()
    )
    found = [row for row in rows.itertuples(index=False, name=None) if row[1] != "standard"]
    return sorted(found, key=lambda r: (r[0], rewired_share(r[1], r[0]) or 0, order(r[1]), ADAPTED.index(r[2])))


def pairs_of(frames: Frames, model: str, wiring: str, variant: str) -> dict[str, tuple[dict, dict]]:
    """The two checkpoints of each difference. Distilled into itself the original stays what it is, so that "alike" is
    the original then."""
    this = {"model": model, "wiring": wiring}
    base = original(frames, model)
    done = this | {"variant": variant}
    found = {"drop": (this | {"variant": "converted"}, base), "left": (done, base)}
    found["left_alike"] = (done, base | {"variant": "adapted"} if variant == "adapted" else base)
    return found if variant == "adapted" else found | {"over_finetuned": (done, this | {"variant": "adapted"})}


def recovery_gaps(frames: Frames) -> pd.DataFrame:
    """Every paired difference of byte perplexity, over all seeds (seed empty) and of each."""
    rows = []
    for study, part in studies(frames):
        for model, wiring, variant in adapted(part):
            runs = by_seed(part, PERPLEXITY, model=model, wiring=wiring, variant=variant).index.dropna()
            for gap, pair in pairs_of(part, model, wiring, variant).items():
                seeds = same_seeds(part, PERPLEXITY, *pair)
                each = [(s, difference(part, PERPLEXITY, [s])) for s in seeds]
                each = [(n, made) for s, made in each for n in (runs if s[0]["seed"] is None else [s[0]["seed"]])]
                for seed, made in [(None, difference(part, PERPLEXITY, seeds)), *each] if seeds else []:
                    if made:
                        rows.append({"study": study, "model": model, "wiring": wiring, "variant": variant, "gap": gap,
                                     "seed": seed, "p": made["p"], "origin": "measured",
                                     **with_ends("difference", made)})  # fmt: skip
    made = pd.DataFrame(rows)
    if len(made):  # what part of the drop came back, of seeds that have one
        key = ["study", "model", "wiring", "variant", "seed"]
        drops = made[(made["gap"] == "drop") & (made["difference"] > 0)].set_index(key)["difference"].rename("of")
        made = made.join(drops, on=key)
        part = made["seed"].notna() & made["gap"].isin(["left", "left_alike"])
        made["regained"] = (1 - made["difference"] / made["of"]).where(part)
        made = made.drop(columns="of")
    return made


def recovery(frames: Frames) -> pd.DataFrame:
    """One row a conversion and method: the differences, the share of the drop that came back (to the original, and to
    the original treated alike), chat loss, KL to the original, and what can be said of it against finetuning."""
    gaps, rows = recovery_gaps(frames), []
    for study, part in studies(frames):
        curves = points(part)
        for model, wiring, variant in adapted(part):
            one = {"model": model, "wiring": wiring, "variant": variant}
            mine = gaps[(gaps["study"] == study) & (gaps[list(one)] == pd.Series(one)).all(axis=1)]
            row = {"study": study, **one, "degree": degree(part, wiring, model), "real": is_real(model),
                   "layers_share": rewired_share(wiring, model), "origin": "measured"}  # fmt: skip
            own = curves[(curves["stage"] == "adapt") & (curves[list(one)] == pd.Series(one)).all(axis=1)]
            row["tokens"] = own["tokens"].max() if len(own) else None
            each = {gap: rows_.dropna(subset=["seed"]).set_index("seed") for gap, rows_ in mine.groupby("gap")}
            for gap, together in mine[mine["seed"].isna()].groupby("gap"):
                one_row = together.iloc[0].to_dict()
                ends = {"value": one_row["difference"], "low": one_row.get("difference_low")}
                row |= with_ends(gap, ends | {"high": one_row.get("difference_high")})
            for name, gap in (("regained", "left"), ("regained_alike", "left_alike")):
                if gap in each:
                    row |= over_seeds(name, list(each[gap]["regained"].dropna()))
            for name, measure in (("chat_loss", LOSS), ("validation_kl", KL)):
                row |= over_seeds(name, list(by_seed(part, measure, stage="adapt", **one)))
            row["every_seed_drops"] = bool("drop" in each and (each["drop"]["difference"] > 0).all())
            row["decision"] = decision(mine[mine["gap"] == "over_finetuned"])
            rows.append({key: value for key, value in row.items() if value is not None})
    return pd.DataFrame(rows)


def decision(gap: pd.DataFrame) -> str | None:
    """Which of the method and finetuning recovers more: "better" or "worse" where the interval over all seeds leaves
    out 0, "... in every seed" where each seed's own does too; "open" where it does not."""
    if gap.empty:
        return None
    gap = gap.assign(all=gap["seed"].isna()).sort_values("all", ascending=False)
    for word, beyond in (("better", gap["difference_high"] < 0), ("worse", gap["difference_low"] > 0)):
        if beyond.iloc[0]:
            return f"{word} in every seed" if beyond.all() else word
    return "open"


def sensitivity(frames: Frames) -> pd.DataFrame:
    """The scan of a model and wiring: the change of the loss by layers converted, over the seeds. choice: whether they
    are the last ones, or chosen one by one; free: the change stays within 0.01 nats, or two standard errors, up to
    here; free_layers: how many of the last are."""
    scanned, rows = frames.own(stage="sensitivity"), []
    groups = scanned.groupby(["model", "wiring", "tp"], dropna=False)
    for (model, wiring, tp), group in sorted(groups, key=lambda g: (not is_real(g[0][0]), g[0][0], order(g[0][1]))):
        free = group[group["metric"] == "free_layers"]["value"]
        if free.empty:  # layers converted each on its own have no such number, and a table of their own
            continue
        depth = int(group["converted"].max())
        last = f"{depth - 1:g}"  # of points of single layers only the last one belongs here
        ends = group["layers"].isna() | (group["layers"].str.split("-").str[-1] == last)
        text = group[(group["metric"] == "perplexity") & (group["converted"] == 0)]["value"]
        what = {"model": model, "wiring": wiring, "degree": none_if_nan(tp), "real": is_real(model), "study": OWN}
        what |= {"free_layers": free.mean(), "layers_of_model": depth, "origin": group["origin"].iloc[0]}
        what |= {"original_perplexity": text.mean() if len(text) else None}
        for choice, metric in CHOICES.items():
            chosen = group[(group["metric"] == metric) & (ends | (choice == "chosen"))]
            for converted, points_ in chosen.groupby("converted"):
                value, errors = points_["value"].mean(), points_["stderr"]
                error = (errors**2).sum() ** 0.5 / len(errors)
                ranges = points_["value"].min(), points_["value"].max()
                several = points_["seed"].nunique(dropna=False) > 1
                low, high = ranges if several else (value - 2 * error, value + 2 * error)
                row = what | {"choice": choice, "converted": int(converted), "layers_share": converted / depth}
                row |= {"loss_change": value, "loss_change_low": low, "loss_change_high": high, "stderr": error}
                row["added"] = points_["added"].iloc[0] if "added" in points_ else None
                rows.append(row | {"layers": points_["layers"].iloc[0], "free": bool(value <= max(FREE, 2 * error))})
    return pd.DataFrame(rows)


def single_layers(frames: Frames) -> pd.DataFrame:
    """The change of the loss with each layer converted on its own."""
    rows = frames.own(stage="sensitivity", converted=1, metric=["loss_change", "loss_change_alone"])
    alone = rows.groupby(["model", "wiring", "metric"])["layers"].transform("nunique") > 1
    rows = rows[alone] if len(rows) else rows
    made = rows[["model", "wiring", "layers", "seed", "value", "stderr", "origin"]]
    return made.rename(columns={"value": "loss_change", "layers": "layer"})
