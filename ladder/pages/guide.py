"""The guide: what each of its steps gave on a real model, in this run or a kept one."""

import pandas as pd

from ladder.metrics import text
from ladder.pages.adaptation import METHODS
from ladder.pages.charts import Tables
from ladder.pages.page import Page
from ladder.pages.tables import Table

NEED = "This run has no real model; `make setup` installs one, and the pipeline takes it then."


def scanned(tables: Tables) -> pd.DataFrame:
    """Every fifth step of the choice of layers, and the first: ladder on the real model."""
    rows = tables["sensitivity"]
    if rows.empty:
        return rows
    rows = rows.query(
        'real == True and wiring == "ladder" and (converted == 1 or (converted > 0 and converted % 5 == 0))'
    )
    last = rows[rows["choice"] == "the last"].rename(columns={"loss_change": "last_loss_change"})
    key = ["model", "converted"]
    return rows[rows["choice"] == "chosen"].merge(last[[*key, "last_loss_change"]], on=key)


def cost(tables: Tables) -> str:
    row = scanned(tables).query("converted == 15").iloc[0]
    return (
        f"The 15 layers of {row['model']} that were chosen cost {row['loss_change']:.2f} nats, the last 15 "
        f"{row['last_loss_change']:.2f}"
    )


def healed(tables: Tables) -> pd.DataFrame:
    """The validation before and after distillation, where a part of the layers is ladder's."""
    rows = tables["curves"].query('real == True and variant == "distilled" and split == "validation"')
    if rows.empty or "kl" not in rows:
        return rows[:0]
    rows = rows[rows["wiring"].str.startswith("ladder@")]
    runs = rows.groupby(["study", "model", "wiring", "seed"], sort=False)["tokens"]
    return rows[(rows["tokens"] == 0) | (rows["tokens"] == runs.transform("max"))]


def closer(tables: Tables) -> str:
    before, after = healed(tables).iloc[:2].to_dict("records")
    return (
        f"{text('tokens', after['tokens'])} thousand tokens bring the KL divergence to the original from "
        f"{text('kl', before['kl'])} to {text('kl', after['kl'])} nats"
    )


def scores(tables: Tables) -> pd.DataFrame:
    """Accuracies of the real model: the original, and ladder in a part of its layers as converted and as distilled."""
    rows = tables["quality"].query('real == True and study != "published" and metric == "accuracy"')
    if rows.empty:
        return rows
    rows = rows[(rows["wiring"] == "standard") | rows["wiring"].str.startswith("ladder@")]
    names = METHODS | {"original": "original"}
    rows = rows[rows["variant"].isin(names)]
    return rows.assign(variant=rows["variant"].map(names))


PAGE = Page(
    "guide",
    items=(
        Table("guide_layers", cost, "Nats above the original's loss, on text that the choice has not seen.", scanned,
              ("converted", "added", "model"), ("loss_change", "last_loss_change"), need=NEED,
              csv="analysis/sensitivity.csv"),
        Table("guide_healed", closer, "Of text that is not trained on, before and after.", healed,
              ("wiring", "tokens", "model", "study"), ("kl", "loss"), tail=("seed",), need=NEED,
              csv="analysis/curves.csv"),
        Table("guide_scores", "Accuracy of the original, the converted and the distilled model",
              "A few questions of each task: the standard error of 100 is 4 to 5 points.", scores,
              ("wiring", "variant", "model", "study"), ("value",), across="task", key=4, need=NEED,
              csv="analysis/quality.csv"),
    ),
)  # fmt: skip
