"""Our quality numbers, checkpoint by checkpoint: which rows belong together, and paired comparisons of them."""

import pandas as pd

from ladder.model.sizes import SIZES
from ladder.report.frames import Frames
from ladder.report.style import order, share

# Perplexity per byte, since words of technical prose are long, and a small model finds most of them very surprising.
LOSS, PERPLEXITY, CLOZE = ("validation_loss", None), ("byte_perplexity", "heldout_perplexity"), ("acc", "cloze")
# variant: what was done to a checkpoint, in words, in the order in which it is done
DONE = {"pretrained": "original", "converted": "converted as is", "adapted": "adapted"}
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
    rows = frames.own(stage=["adapt", "evaluate"], variant=["converted", "adapted"])["model"].dropna()
    return rows.iloc[0] if len(rows) else None


def rewired_share(wiring: str, model: str) -> float | None:
    """Share of the model's layers that are rewired, None for a model whose depth is not in the table of sizes."""
    if wiring in ("standard", "ladder"):
        return share(wiring, 1)
    return share(wiring, layers(model)) if layers(model) else None


def share_words(fraction: float | None, wiring: str) -> str:
    if fraction is None:
        return wiring
    if fraction in (0.0, 1.0):
        return "none (original)" if fraction == 0 else "all layers"
    return f"{100 * fraction:.0f} % of layers ({wiring.partition('@')[2]})"


def paired(frames: Frames, metric: tuple[str, str | None], one: dict, other: dict) -> list[dict]:
    """Differences ``one`` - ``other`` on the same samples, one tidy row a seed; empty where samples are not kept.

    one, other: the columns (model, wiring, variant) that name a checkpoint.
    """
    from ladder.evaluate.compare import compare

    name, task = metric
    found = []
    for seed in sorted(rows_of(frames, metric, **one)["seed"].dropna().unique()):
        first, second = (_record(frames, task, checkpoint | {"seed": seed}) for checkpoint in (one, other))
        if first is None or second is None:
            continue
        result = compare(second, first, task, name)  # the baseline comes first
        rows = rows_of(frames, metric, **one, seed=seed)
        keep = ["stage", "run", "model", "wiring", "variant", "task", "origin", "hardware", "commit", "mlflow_run_id"]
        found.append(
            {key: rows.iloc[-1][key] for key in keep}
            | {"seed": seed, "metric": f"{name}_difference", "value": result["difference"], "low": result["low"]}
            | {"high": result["high"], "stderr": result["stderr"], "n": result["n"], "unit": rows.iloc[-1]["unit"]}
            | {"note": f"paired with {other['wiring']} ({other['variant']}) on the same samples, p = {result['p']:.3g}"}
        )
    return found


def _record(frames: Frames, task: str | None, checkpoint: dict) -> dict | None:
    for record in reversed(frames.with_extra("samples")):
        row = record["rows"][0] if record["rows"] else {}
        if task in record["samples"] and all(row.get(key) == value for key, value in checkpoint.items()):
            return record
    return None
