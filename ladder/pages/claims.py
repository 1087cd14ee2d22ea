"""Claims: each with what was published, the numbers found here, its rule and its verdict."""

import pandas as pd

from ladder.analysis.claims import VERDICTS
from ladder.looks import look
from ladder.markup import escape
from ladder.metrics import METRICS, metric_of, text
from ladder.pages.charts import Tables
from ladder.pages.page import Html, Page
from ladder.pages.words import listing, sentence, span


def counts(tables: Tables) -> dict[str, int]:
    return {verdict: int((tables["claims"]["verdict"] == verdict).sum()) for verdict in VERDICTS}


def tally(tables: Tables) -> str:
    made = counts(tables)
    return f"Of {len(tables['claims'])} claims {listing(f'{n} are {verdict}' for verdict, n in made.items() if n)}"


def numbers(rows: pd.DataFrame) -> str:
    """The evidence of a claim: 'decode speed-up: ladder 1.33× to 1.72×, parallel 1.16× to 1.30×.'"""
    told = []
    for metric, group in rows.groupby("metric", sort=False):
        cells = []
        for name, same in group.groupby("name", sort=False):
            word = look(name).label if name in ("standard", "parallel", "ladder", "upper_bound") else name
            unit = METRICS[metric].unit
            cells.append(
                f"{word} "
                f"{span(same['value'], lambda v, m=metric: text(m, v))}{' ' + unit if unit not in ('', '×') else ''}"
            )
        told.append(f"{METRICS[metric_of(metric)].label}: {', '.join(cells)}")
    judged = rows["holds"].dropna()
    settings = rows.groupby([c for c in ("model", "tp", "batch", "rho", "link") if c in rows], dropna=False).ngroups
    where = listing(dict.fromkeys(rows["model"].dropna())) if "model" in rows else ""
    words = "; ".join(told) + (f" ({where}" + (f", {settings} settings)" if settings > 1 else ")") if where else "")
    return sentence(words) + (
        f" The rule holds for {int(judged.astype(bool).sum())} of {len(judged)} numbers." if len(judged) else ""
    )


def articles(tables: Tables) -> str:
    claims, evidence = tables["claims"], tables["evidence"]
    parts = []
    for row in claims.to_dict("records"):
        found = evidence[evidence["id"] == row["id"]] if len(evidence) else evidence
        here = numbers(found) if len(found) else str(row["reason"])
        name, verdict = f"claim-{escape(row['id'])}", escape(row["verdict"])
        facts = {
            "Published": row["published"] if isinstance(row["published"], str) else "Not published.",
            "This run": here,
        }
        facts |= {"Rule": f"{row['rule']} Written {row['written']}."}
        facts |= {"Changed after numbers could be seen": row["changed"]} if isinstance(row["changed"], str) else {}
        inside = "".join(f"<dt>{name_}</dt><dd>{escape(words)}</dd>" for name_, words in facts.items())
        parts.append(
            f'<section class="claim {verdict.replace(" ", "-")}" id="{name}" aria-labelledby="{name}-name">\n'
            f'<p class="verdict">{verdict}</p>\n<h3 id="{name}-name">{escape(row["claim"])}</h3>\n<dl>{inside}</dl>\n'
            "</section>"
        )
    parts.append('<p class="downloads"><a href="reports/analysis/claims.csv" download>CSV</a> '
                 '<a href="reports/analysis/evidence.csv" download>CSV of the numbers</a></p>')  # fmt: skip
    return '<div class="claims">\n' + "\n".join(parts) + "\n</div>"


def answer(tables: Tables) -> str:
    made = counts(tables)
    return (
        f"{tally(tables)}. What is shown in the small rests on a toy model or an emulated link: it can refute a claim "
        f"about billions of weights and eight GPUs, not confirm it. The other {made['not tested at this scale']} need "
        "GPUs, or trainings that this run did not make; each says which."
    )


PAGE = Page("claims", answer=answer, items=(Html("claims", articles),))
