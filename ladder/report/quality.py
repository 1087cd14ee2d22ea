"""Our quality numbers, checkpoint by checkpoint: which rows belong together, and paired comparisons of them."""

import pandas as pd

from ladder.model.sizes import SIZES
from ladder.report.frames import Frames
from ladder.report.style import look, order, share
from ladder.wiring import split_name

# Perplexity per byte, since words of technical prose are long, and a small model finds most of them very surprising.
LOSS, PERPLEXITY, CLOZE = ("validation_loss", None), ("byte_perplexity", "heldout_perplexity"), ("acc", "cloze")
# variant: what was done to a checkpoint, in words, in the order in which it is done
DONE = {"pretrained": "original", "converted": "converted as is", "adapted": "adapted"}
DONE |= {"distilled": "adapted by distillation", "progressive": "adapted layer by layer"}
DONE |= {"lora": "adapted by a low-rank change", "annealed": "adapted while the lag came in"}
ADAPTED = list(DONE)[2:]  # by finetuning, and by other methods
NOT_EVALUATED = "not evaluated in this run"


def rows_of(frames: Frames, metric: tuple[str, str | None], **where) -> pd.DataFrame:
    """Our rows of (metric, task), one a seed."""
    name, task = metric
    rows = frames.own(metric=name, **where)
    return rows[rows["task"] == task] if task else rows


def trained(frames: Frames, stage: str) -> list[tuple[str, str]]:
    """(model, wiring) of every training run of a stage, small models first."""
    rows = frames.own(stage=stage)[["model", "wiring"]].dropna().drop_duplicates()
    return sorted(rows.itertuples(index=False, name=None), key=lambda r: (parameters(r[0]), r[0], order(r[1])))


def parameters(model: str) -> int:
    return SIZES[model].parameters if model in SIZES else 0


def layers(model: str) -> int | None:
    return SIZES[model].layers if model in SIZES else None


def base_model(frames: Frames) -> str | None:
    """The model that was converted and adapted."""
    rows = frames.own(stage=["adapt", "evaluate"], variant=list(DONE)[1:])["model"].dropna()
    return rows.iloc[0] if len(rows) else None


def rewired_share(wiring: str, model: str) -> float | None:
    """Share of the model's layers that are rewired, None for a model whose depth is not in the table of sizes."""
    if not split_name(wiring)[1]:
        return share(wiring, 1)
    return share(wiring, layers(model)) if layers(model) else None


def share_words(fraction: float | None, wiring: str, tp: int | None = None) -> str:
    if fraction == 0:
        return "none (original)"
    name, chosen = split_name(wiring)
    if fraction is None or not chosen:
        return look(wiring, tp).label + ("" if chosen else " in all layers")
    return f"{look(name, tp).label} in {100 * fraction:.0f} % of layers ({chosen})"


def short_name(study: str) -> str:
    """Of a kept training HARDWARE/STUDY."""
    return study.rpartition("/")[2]


def degree(frames: Frames, wiring: str, **where) -> int | None:
    """The number of ranks T that our checkpoints of a wiring are for, None where the wiring does not depend on it."""
    rows = frames.own(wiring=wiring, **where)
    found = rows[~rows["stage"].isin(["bench", "simulate"])]["tp"].dropna()  # the tp of a timing is another thing
    return int(found.iloc[0]) if len(found) else None


def label(frames: Frames, wiring: str, **where) -> str:
    return look(wiring, degree(frames, wiring, **where)).label


def curves(frames: Frames, stage: str) -> pd.DataFrame:
    """Points of every training run: columns model, wiring, variant, tp, seed, split, step, tokens, loss."""
    found = []
    for record in frames.with_extra("curves"):
        row = record["rows"][0] if record["rows"] else {}
        if row.get("stage") != stage:
            continue
        for split, steps in record["curves"].items():
            for step in steps:
                what = {key: row.get(key) for key in ("model", "wiring", "variant", "tp", "seed", "origin")}
                found.append(what | {"split": split, **step, "mlflow_run_id": record["provenance"]["mlflow_run_id"]})
    columns = ["model", "wiring", "variant", "tp", "seed", "split", "step", "tokens", "loss"]
    return pd.DataFrame(found, columns=None if found else columns)


def steps(frames: Frames, model: str | None, stage: str = "pretrain") -> dict[str, int]:
    """Wiring -> the steps that the model was trained for with it."""
    rows = curves(frames, stage)
    return rows[rows["model"] == model].groupby("wiring")["step"].max().to_dict()


def paired(frames: Frames, metric: tuple[str, str | None], one: dict, other: dict) -> list[dict]:
    """Differences ``one`` - ``other`` on the same samples, one tidy row a seed; empty where samples are not kept.

    one, other: the columns (model, wiring, variant) that name a checkpoint.
    """
    rows = [difference(frames, metric, [pair]) for pair in same_seeds(frames, metric, one, other)]
    return [row for row in rows if row]


def pooled(frames: Frames, metric: tuple[str, str | None], one: dict, other: dict) -> dict | None:
    """The same over all seeds at once: one row, with the interval over samples and seeds."""
    return difference(frames, metric, same_seeds(frames, metric, one, other))


def seeds(frames: Frames, metric: tuple[str, str | None], checkpoint: dict) -> list:
    return sorted(rows_of(frames, metric, **checkpoint)["seed"].dropna().unique())


def same_seeds(frames: Frames, metric: tuple[str, str | None], one: dict, other: dict) -> list[tuple[dict, dict]]:
    """Both checkpoints at every seed that both have."""
    common = set(seeds(frames, metric, one)) & set(seeds(frames, metric, other))
    return [(one | {"seed": seed}, other | {"seed": seed}) for seed in sorted(common)]


def difference(frames: Frames, metric: tuple[str, str | None], pairs: list[tuple[dict, dict]]) -> dict | None:
    """The mean difference first - second of pairs of single checkpoints, as a tidy row; None where no pair's samples
    were kept. Each checkpoint is named by the columns model, wiring, variant and seed."""
    from ladder.evaluate.compare import compare

    name, task = metric
    kept = [(pair, [_record(frames, task, checkpoint) for checkpoint in pair]) for pair in pairs]
    kept = [(pair, records) for pair, records in kept if None not in records]
    if not kept:
        return None
    firsts, seconds = zip(*(records for _, records in kept), strict=True)
    result = compare(list(seconds), list(firsts), task, name)  # the baselines come first
    one, other = kept[-1][0]
    row = rows_of(frames, metric, **one).iloc[-1]
    keep = ["stage", "run", "model", "wiring", "variant", "task", "origin", "hardware", "commit", "mlflow_run_id"]
    against = f"{other['wiring']} ({other['variant']})"
    if one["seed"] != other["seed"]:
        against += f" of seed {other['seed']:g}"
    note = f"paired with {against} on the same samples, p = {result['p']:.3g}"
    found = {key: row[key] for key in keep} | {"seed": one["seed"], "metric": f"{name}_difference"}
    found |= {"value": result["difference"], "low": result["low"], "high": result["high"], "stderr": result["stderr"]}
    found |= {"n": result["n"], "unit": row["unit"], "note": note}
    if len(kept) > 1:
        found |= {"seed": None, "run": None, "mlflow_run_id": None, "note": f"{note}; mean of {len(kept)} seeds"}
    return found


def _record(frames: Frames, task: str | None, checkpoint: dict) -> dict | None:
    for record in reversed(frames.with_extra("samples")):
        row = record["rows"][0] if record["rows"] else {}
        if task in record["samples"] and all(row.get(key) == value for key, value in checkpoint.items()):
            return record
    return None
