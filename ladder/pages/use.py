"""Home, and the pages about using the code: wirings, what this build is made from."""

from ladder.markup import escape
from ladder.pages import claims
from ladder.pages.adaptation import METHODS, choosing
from ladder.pages.charts import Tables
from ladder.pages.diagrams import gallery
from ladder.pages.page import Html, Page
from ladder.pages.speed import NVLINK, gain
from ladder.pages.tables import Table
from ladder.pages.words import finding, listing, percent, span, times


def published(tables: Tables) -> str:
    ladder = gain(tables, NVLINK)
    return (
        f"Published: a 70B on eight H100 with NVLink answers {times(ladder.iloc[0])} as fast at batch "
        f"{ladder.index[0]:g} and {times(ladder.iloc[-1])} at batch {ladder.index[-1]:g}."
    )


def healed(tables: Tables) -> str:
    """Of a real model that was converted and trained."""
    rows = tables["recovery"].query("real == True").dropna(subset=["regained"])
    best = rows.loc[rows["regained"].idxmax()]
    share, tokens = percent(best["layers_share"]), f"{best['tokens'] / 1e3:.0f} thousand tokens"
    return (
        f"{best['model']} with {share} of its layers converted got back {percent(best['regained'])} of what that cost "
        f"({METHODS[best['variant']]}, {tokens})"
    )


def hidden(tables: Tables) -> str:
    rows = tables["over_rho"].query('wiring == "ladder" and clock == "wall" and rho <= 1')["hidden"].dropna()
    words = f"on a CPU with an emulated link, ladder hides {span(rows, percent)} of the communication"
    return f"{words} while an all-reduce takes no longer than a module"


def measured(tables: Tables) -> str:
    """What was found on a real model, where there is one, and on this machine."""
    parts = [part for make in (choosing, healed, hidden) if (part := finding(make, tables, ""))]
    return (
        f"Found here: {'; '.join(parts)}." if parts else "Found here: nothing yet; this run has no timing of its own."
    )


def unknown(tables: Tables) -> str:
    rows = tables["speed"]
    gpus = rows[
        (rows["origin"] == "measured") & rows["hardware"].str.contains("H100|H200|A100", na=False) & (rows["tp"] > 1)
    ]
    made = claims.counts(tables)
    start = "how it does on several GPUs, where nothing of ours ran; " if gpus.empty else ""
    return f"Not known: {start}{made['not tested at this scale']} of {sum(made.values())} claims are not tested yet."


def home(tables: Tables) -> str:
    said = "\n".join(f"<li>{escape(make(tables))}</li>" for make in (published, measured, unknown))
    return f'<ul class="answers">\n{said}\n</ul>'


def reduced(tables: Tables) -> str:
    rows = tables["wirings"]
    twice, never = int((rows["per_layer"] == 2).sum()), int((rows["all_reduces"] == 0).sum())
    tied = [row["wiring"] for row in rows.to_dict("records") if row["tied"] and row["all_reduces"]]
    return (
        f"Of {len(rows)} wirings {twice} reduce twice in every layer, {never} never; {listing(tied)} are another "
        "function at every tensor-parallel degree T"
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
