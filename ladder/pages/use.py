"""Home, and the pages about using the code: wirings, what this build is made from."""

import pandas as pd

from ladder.markup import escape
from ladder.pages import claims
from ladder.pages.adaptation import METHODS
from ladder.pages.charts import Tables
from ladder.pages.diagrams import gallery
from ladder.pages.page import Html, Page
from ladder.pages.speed import NVLINK, gain
from ladder.pages.tables import Table
from ladder.pages.words import listing, percent, span, times


def published(tables: Tables) -> str:
    ladder = gain(tables, NVLINK)
    return (
        f"Published: a 70B on eight H100 with NVLink answers {times(ladder.iloc[0])} as fast at batch "
        f"{ladder.index[0]:g} and "
        f"{times(ladder.iloc[-1])} at batch {ladder.index[-1]:g}."
    )


def measured(tables: Tables) -> str:
    """What was found on a real model, where there is one, and on this machine."""
    parts = []
    real = tables["recovery"]
    if len(real) and "regained" in real:
        real = real[(real["real"] == True) & real["regained"].notna()]  # noqa: E712
        for row in real.sort_values("layers_share").to_dict("records")[-1:]:
            parts.append(
                f"with {percent(row['layers_share']) if pd.notna(row['layers_share']) else 'part'} of {row['model']}'s "
                f"layers "
                f"converted, {METHODS[row['variant']]}, {percent(row['regained'])} of the loss came back"
            )
    scanned = tables["sensitivity"]
    if len(scanned) and len(own := scanned[(scanned["real"] == True) & (scanned["wiring"] == "ladder")]):  # noqa: E712
        row = own.iloc[0]
        parts.append(
            f"{row['free_layers']:g} of {row['model']}'s {row['layers_of_model']:g} layers convert to ladder for free"
        )
    rows = tables["over_rho"]
    if len(rows):
        rows = rows.query('wiring == "ladder" and clock == "wall" and rho <= 1').dropna(subset=["hidden"])
    if len(rows):
        words = f"on a CPU with an emulated link, ladder hides {span(rows['hidden'], percent)} of the communication "
        parts.append(words + "while an all-reduce takes no longer than a module")
    return f"Found here: {listing(parts)}." if parts else "Found here: nothing yet; this run has no timing of its own."


def unknown(tables: Tables) -> str:
    rows = tables["speed"]
    gpus = rows[
        (rows["origin"] == "measured") & rows["hardware"].str.contains("H100|H200|A100", na=False) & (rows["tp"] > 1)
    ]
    made = claims.counts(tables)
    start = (
        "Not known: how any of it does on GPUs other than the authors'; " if gpus.empty else "Not known: what follows; "
    )
    return f"{start}{made['not tested at this scale']} of {sum(made.values())} claims are not tested yet."


def home(tables: Tables) -> str:
    said = "\n".join(f"<li>{escape(make(tables))}</li>" for make in (published, measured, unknown))
    return f'<ul class="three answers">\n{said}\n</ul>'


def reduced(tables: Tables) -> str:
    rows = tables["wirings"]
    twice, never = int((rows["per_layer"] == 2).sum()), int((rows["all_reduces"] == 0).sum())
    tied = [row["wiring"] for row in rows.to_dict("records") if row["tied"] and row["all_reduces"]]
    return (
        f"Of {len(rows)} wirings {twice} reduce twice in every layer, {never} never; {listing(tied)} are another "
        f"function at "
        "every tensor-parallel degree T"
    )


HOME = Page(
    "index",
    items=(Html("home", home), Html("home_schedules", lambda tables: gallery(["standard", "ladder"]))),
)
WIRINGS = Page(
    "wirings",
    items=(
        Table("wirings", reduced, "Values of each field over the modules of an 8-layer model on 4 ranks. lag: how "
              "many of the latest outputs an input lacks; joint: reduced with the next output; own: weight of a "
              "rank's un-reduced share until the sum lands; weight: of the sum.", "wirings", ("wiring", "name"),
              ("all_reduces", "tied", ("its rows", "row_lag", "row_joint", "row_own", "row_weight")), tail=("source",)),
        Html("drawings", lambda tables: gallery()),
    ),
)  # fmt: skip
REPRODUCE = Page(
    "reproduce",
    items=(
        Table("provenance", "What this build is made from", "", "provenance", ("name", "note"), ()),
        Table("runs", lambda t: f"The {len(t['runs'])} jobs behind this build", "Kept records were made elsewhere.",
              "runs", ("run", "stage"), ("wall_s",), tail=("hardware", "commit", "kept", "mlflow_run_id"), fold=True),
    ),
)  # fmt: skip
