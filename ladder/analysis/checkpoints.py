"""Which rows of quality belong together: a checkpoint is a model, a wiring and what was done to it (its variant)."""

from collections.abc import Iterator

import pandas as pd

from ladder.analysis.frames import Frames
from ladder.looks import order, share
from ladder.model.sizes import SIZES
from ladder.wiring import split_name

# What was done to a checkpoint, in the order in which it is done; an original is one that was trained elsewhere.
VARIANTS = ("original", "pretrained", "converted", "adapted", "distilled", "progressive", "lora", "annealed")
ADAPTED = VARIANTS[3:]
KEY = ["model", "variant", "wiring"]
OWN = "this run"
Measure = tuple[str, str | None]  # (metric, task)
# Perplexity per byte, since words of technical prose are long, and a small model finds most of them very surprising.
LOSS: Measure = ("validation_loss", None)
PERPLEXITY: Measure = ("byte_perplexity", "heldout_perplexity")
CLOZE: Measure = ("acc", "cloze")
KL: Measure = ("validation_kl", None)
# The paper's names of tasks, and lm-eval's.
TASKS: dict[str, Measure] = {
    "ARC-C": ("acc_norm", "arc_challenge"),
    "ARC-E": ("acc", "arc_easy"),
    "HellaSwag": ("acc_norm", "hellaswag"),
    "PIQA": ("acc_norm", "piqa"),
    "SciQ": ("acc", "sciq"),
    "Winogrande": ("acc", "winogrande"),
    "Wikitext PPL": ("word_perplexity", "wikitext"),
    "MMLU": ("acc", "mmlu"),
    "OBQA": ("acc_norm", "openbookqa"),
    "TruthfulQA": ("acc", "truthfulqa_mc1"),
    "GSM8K": ("exact_match", "gsm8k"),
    "HumanEval+": ("pass@1", "humaneval_plus"),
    "IFEval": ("prompt_level_strict_acc", "ifeval"),
    "AlpacaEval": ("length_controlled_winrate", "alpaca_eval"),
}
POINT = ["stage", "model", "wiring", "variant", "seed", "origin", "split", "step", "tokens", "loss"]
POINT += ["kl", "tokens_per_second"]  # of training, where they were taken
NAMES = {LOSS: "validation_loss", PERPLEXITY: "byte_perplexity", CLOZE: "cloze", KL: "validation_kl"}


def rows_of(frames: Frames, measure: Measure, **where) -> pd.DataFrame:
    """Our rows of a measure, one a seed."""
    metric, task = measure
    rows = frames.own(metric=metric, **where)
    return rows[rows["task"] == task] if task else rows


def original(frames: Frames, model: str) -> dict:
    """The standard model that was converted: trained elsewhere, or here."""
    elsewhere = {"model": model, "wiring": "standard", "variant": "original"}
    return elsewhere if len(frames.own(**elsewhere)) else elsewhere | {"variant": "pretrained"}


def by_seed(frames: Frames, measure: Measure, **where) -> pd.Series:
    return rows_of(frames, measure, **where).groupby("seed", dropna=False)["value"].last()


def measures(frames: Frames) -> list[Measure]:
    """What these records evaluate: loss, perplexity, cloze, and every task's main metric."""
    rows = frames.own(stage="evaluate")[["metric", "task"]].drop_duplicates()
    known = set(rows.itertuples(index=False, name=None))
    found = {task: metric for metric, task in TASKS.values() if (metric, task) in known}
    for task, group in rows.groupby("task"):
        if task not in found and task not in (PERPLEXITY[1], CLOZE[1]):
            named = [m for m in ("acc_norm", "acc", "exact_match", "word_perplexity") if m in set(group["metric"])]
            found |= {task: named[0]} if named else {}
    return [LOSS, PERPLEXITY, CLOZE, *((metric, task) for task, metric in sorted(found.items()))]


def name(measure: Measure) -> str:
    """The row of ladder.metrics.METRICS for a measure."""
    return NAMES.get(measure) or ("word_perplexity" if "perplexity" in measure[0] else "accuracy")


def parameters(model: str) -> int:
    return SIZES[model].parameters if model in SIZES else 0


def is_real(model: str) -> bool:
    """Whether a model was trained elsewhere, on billions of tokens, and is no toy of a profile."""
    return model not in SIZES or parameters(model) >= 1e8


def rewired_share(wiring: str, model: str) -> float | None:
    """Share of the model's layers that are rewired, None for a model whose depth is not in the table of sizes."""
    if not split_name(wiring)[1]:
        return share(wiring, 1)
    return share(wiring, SIZES[model].layers) if model in SIZES else None


def degree(frames: Frames, wiring: str, model: str) -> int | None:
    """The number of ranks T that our checkpoints of a wiring are for, None where the wiring does not depend on it."""
    rows = frames.own(wiring=wiring, model=model)
    found = rows[~rows["stage"].isin(["bench", "simulate"])]["tp"].dropna()  # the tp of a timing is another thing
    return int(found.iloc[0]) if len(found) else None


def trained(frames: Frames, stage: str) -> list[tuple[str, str]]:
    """(model, wiring) of every training run of a stage, small models first."""
    rows = frames.own(stage=stage)[["model", "wiring"]].dropna().drop_duplicates()
    return sorted(rows.itertuples(index=False, name=None), key=lambda r: (parameters(r[0]), r[0], order(r[1])))


def all_checkpoints(frames: Frames) -> list[tuple[str, str, str]]:
    """(model, variant, wiring) of everything that was trained, converted or evaluated."""
    own = frames.own(stage=["pretrain", "adapt", "evaluate"], variant=list(VARIANTS))[KEY].dropna().drop_duplicates()
    found = own.itertuples(index=False, name=None)
    return sorted(found, key=lambda c: (parameters(c[0]), c[0], VARIANTS.index(c[1]), order(c[2])))


def studies(frames: Frames) -> Iterator[tuple[str, Frames]]:
    """This run, and the trainings that the repository keeps; each is compared within itself only."""
    yield OWN, frames
    for study, part in frames.studies.items():
        yield study.rpartition("/")[2], part


def points(frames: Frames) -> pd.DataFrame:
    """The curves of every training run: one row a point."""
    found = []
    for record in frames.with_extra("curves"):
        row = record["rows"][0] if record["rows"] else {}
        for split, steps in record["curves"].items():
            what = {key: row.get(key) for key in ("stage", "model", "wiring", "variant", "seed", "origin")}
            found += [what | {"split": split, **step} for step in steps]
    return pd.DataFrame(found, columns=POINT)


def trained_steps(frames: Frames) -> dict[tuple, int]:
    """(model, variant, wiring) -> how many steps it was trained for."""
    return points(frames).groupby(KEY)["step"].max().to_dict()
