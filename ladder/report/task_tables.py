"""Benchmark tasks one by one: the full published tables, and ours where a profile evaluates the same tasks."""

from ladder.report.cells import Column, Table, missing, over_seeds, value, words
from ladder.report.frames import Frames
from ladder.report.quality import DONE, NOT_EVALUATED, rows_of
from ladder.report.speed_tables import first, paper_rows
from ladder.report.style import listing, look, number, percent_text, share_text

# The paper's names of tasks, and lm-eval's.
PRETRAINING_TASKS = {
    "ARC-C": ("arc_challenge", "acc_norm"),
    "ARC-E": ("arc_easy", "acc"),
    "HellaSwag": ("hellaswag", "acc_norm"),
    "PIQA": ("piqa", "acc_norm"),
    "SciQ": ("sciq", "acc"),
    "Winogrande": ("winogrande", "acc"),
    "Wikitext PPL": ("wikitext", "word_perplexity"),
}
ADAPTATION_TASKS = {
    "MMLU": ("mmlu", "acc"),
    "ARC-C": ("arc_challenge", "acc_norm"),
    "OBQA": ("openbookqa", "acc_norm"),
    "HellaSwag": ("hellaswag", "acc_norm"),
    "TruthfulQA": ("truthfulqa_mc1", "acc"),
    "GSM8K": ("gsm8k", "exact_match"),
    "HumanEval+": ("humaneval_plus", "pass@1"),
    "IFEval": ("ifeval", "prompt_level_strict_acc"),
    "AlpacaEval": ("alpaca_eval", "length_controlled_winrate"),
}


def pretraining_tasks(frames: Frames) -> Table:
    published = frames.paper("table3_pretraining")
    *accuracies, perplexity = PRETRAINING_TASKS
    names = [*accuracies, "Average", perplexity]
    title = "Pretraining, task by task (the paper's Table 3)"
    return tasks_table(frames, "pretraining_tasks", title, published, names, PRETRAINING_TASKS, "pretrain")


def adaptation_tasks(frames: Frames) -> Table:
    published = frames.paper("table4_adaptation")
    title = "Adaptation, task by task (the paper's Table 4)"
    return tasks_table(
        frames, "adaptation_tasks", title, published, [*ADAPTATION_TASKS, "Average"], ADAPTATION_TASKS, "adapt"
    )


def tasks_table(frames: Frames, name, title, published, names, tasks, stage) -> Table:
    columns = [Column("Model", words=True), Column("Wiring", words=True), Column("Origin", words=True)]
    columns += [Column(task if task == "Wikitext PPL" else f"{task}, %") for task in names]
    rows = []
    for (model, wiring), group in published.groupby(["model", "wiring"], sort=False):
        cells = [value(first(group[group["metric"] == task]), percent_text, "not published") for task in names]
        rows.append([words(model), words(wiring), words("published"), *cells])
    variants = {"pretrain": ["pretrained"], "adapt": list(DONE)}[stage]
    own = frames.own(stage="evaluate", variant=variants)
    own = own[own["task"].isin([task for task, _ in tasks.values()])]
    for (model, wiring, variant), _ in own.groupby(["model", "wiring", "variant"], sort=True):
        cells = []
        for task in names:
            rows_ = (
                rows_of(frames, tasks[task][::-1], model=model, wiring=wiring, variant=variant)
                if task in tasks
                else own[:0]
            )
            scale = number if task == "Wikitext PPL" else share_text
            cells.append(over_seeds(rows_, scale, NOT_EVALUATED))
        rows.append([words(model), words(f"{look(wiring).label}, {DONE[variant]}"), words("measured"), *cells])
    if own.empty:
        reason = "this profile's models are too small for these tasks, and their data must be downloaded"
        empty = [
            missing(reason, task=tasks[task][0], metric=tasks[task][1]) if task in tasks else missing(reason)
            for task in names
        ]
        rows.append([words("this run"), words("any"), words("measured"), *empty])
    averages = published[published["metric"] == "Average"]
    best = averages.loc[averages["value"].idxmax()]
    caption = f"Published, the best average is {best['value']:.2f} % ({best['model']}, {best['wiring']}). "
    caption += "This run evaluated none of these tasks." if own.empty else "This run's values stand below."
    return Table(name, title, caption, columns, rows, version_b(frames) if stage == "adapt" else [])


def version_b(frames: Frames) -> list[str]:
    """The footnote on the second published version of a row."""
    rows = frames.published
    rows = rows[(rows["file"] == "table4_adaptation") & rows["version"].str.startswith("B:")]
    if rows.empty:
        return []
    values = listing(f"{r['metric']} {r['value']:.2f}" for r in paper_rows(rows))
    model = rows["model"].iloc[0]
    return [
        f"Another version of the paper gives {model} as {values}; which is the later one is not known. Version A is "
        "shown."
    ]
