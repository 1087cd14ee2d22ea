"""The paper's claims, each with the rule that judges it. The rules were written before the numbers were seen.

A rule's words stand here, beside the function of :mod:`ladder.report.rules` that does what they say. To change a rule
after the numbers are known, add a claim with its own id and say so in the log of the site.
"""

from pathlib import Path

import pandas as pd

from ladder.files import atomic_write
from ladder.report import rules, speed_claims
from ladder.report.frames import Frames
from ladder.report.markup import escape, write_csv
from ladder.report.rules import ELSE, VERDICTS, Claim
from ladder.report.style import listing

TABLE3, TABLE4, TABLE5 = (
    f"published/{name}.csv" for name in ("table3_pretraining", "table4_adaptation", "table5_larger_ladder")
)
HEADLINES = "published/headline_claims.csv"
CLAIMS = [
    *speed_claims.CLAIMS,
    Claim(
        "quality-small",
        "Trained from scratch, ladder is about as good as standard (1.2B).",
        "Wikitext perplexity 18.42 against 18.54; average accuracy 58.92 against 59.98 %",
        TABLE3,
        "In the small: supported if the mean validation loss of the tiny ladder model is at most 2 % above "
        "standard's, or "
        "within the widest spread of seeds; otherwise not supported. A model of about a million weights can refute "
        "that "
        "ladder trains at all; it cannot confirm the claim at 1.2B.",
        rules.comparable("tiny"),
    ),
    Claim(
        "quality-1b",
        "The same at the paper's own 1.2B shape.",
        "Wikitext perplexity 18.42 against 18.54",
        TABLE3,
        "Supported if the mean validation loss of paper-1b under ladder is at most 2 % above standard's, or within the "
        "widest spread of seeds" + ELSE,
        rules.comparable("paper-1b"),
    ),
    Claim(
        "quality-3b",
        "At 3.5B ladder is slightly worse than standard and about as good as parallel.",
        "Wikitext perplexity: standard 14.48, ladder 14.90, parallel 14.96",
        TABLE3,
        "Supported if the mean validation loss of paper-3b under ladder is at most 2 % above parallel's, or within the "
        "widest spread of seeds" + ELSE,
        rules.comparable("paper-3b", base="parallel"),
    ),
    Claim(
        "as-good-as-parallel",
        "Ladder trains at least as well as parallel attention and MLP.",
        "Wikitext perplexity 18.42 against 18.95 (1.2B), 14.90 against 14.96 (3.5B)",
        TABLE3,
        "In the small: supported if the mean validation loss of the tiny ladder model is at most 2 % above "
        "parallel's, or "
        "within the widest spread of seeds; otherwise not supported.",
        rules.comparable("tiny", base="parallel"),
    ),
    Claim(
        "larger-ladder",
        "A ladder with 30 % more layers is better than standard at equal speed.",
        "1.5B ladder: perplexity 17.47 at 1,277 tokens/s; 1.2B standard: 18.54 at 1,008",
        TABLE5,
        "In the small: not supported if the larger ladder's validation loss is not lower than standard's in every "
        "seed. Supported if it is, and "
        "its tokens/s, timed at these very shapes, is at least standard's; if these shapes were not timed, not tested.",
        rules.larger_is_better,
    ),
    Claim(
        "half-recovers",
        "Converting the upper half of a trained model costs quality, which light finetuning recovers.",
        "Average of nine tasks: 56.11 % original, 41.65 % converted, 56.24 % retrained (another version: 57.61 %)",
        TABLE4,
        "In the small: not tested unless the converted checkpoint's byte perplexity is above the original's in "
        "every seed; "
        "then supported if after adaptation the mean is at most 2 % above that of the original adapted the same "
        "way, and "
        "otherwise not supported.",
        rules.half_recovers,
    ),
    Claim(
        "five-eighths-costs",
        "Converting 20 of 32 layers is not fully recovered by the same finetuning.",
        "Average of nine tasks: 53.86 % against 56.11 % original",
        TABLE4,
        "In the small: not tested unless the conversion raises the mean byte perplexity by more than 2 %; then "
        "supported if "
        "after adaptation it is above that of half converted, and more than 2 % above that of the original adapted "
        "the same "
        "way, and otherwise not supported.",
        rules.more_costs_more,
    ),
    Claim(
        "full-conversion",
        "Conversion of all layers shows the drop at any scale, and finetuning brings most of it back. (Ours; not "
        "in the paper.)",
        "not published",
        "none",
        "Supported if conversion of all layers raises the mean byte perplexity, and after adaptation at most half "
        "of that "
        "rise is left over the original adapted the same way; otherwise not supported.",
        rules.full_conversion,
    ),
    Claim(
        "distillation",
        "When all layers are converted, distilling the original recovers more than finetuning on as many tokens. "
        "(FarSkip-Collective's, of mixture-of-experts models.)",
        "Average accuracy at 30B and 500M tokens: 75.9 % original, 68.2 % by KL self-distillation, 58.1 % by SFT",
        "published/others_quality.csv",
        "In the small: not tested unless conversion of all layers raises byte perplexity in every seed, and both "
        "methods had the same number of tokens; then supported if, in every seed, the whole 95 % interval of "
        "distilled minus finetuned (paired by document) is below 0; otherwise not supported.",
        rules.distillation_recovers_more,
    ),
    Claim(
        "training-5",
        "Training an 8B model is 5 to 7 % faster (64 H100).",
        "5 to 7 %, no data published",
        HEADLINES,
        "Supported if tokens/s of tensor-parallel training of llama-3.1-8b under ladder is at least 3 % above "
        "standard's" + ELSE,
        rules.training_faster,
    ),
]


def judge(frames: Frames) -> pd.DataFrame:
    """Columns id, claim, published, source, rule, numbers, verdict; one row a claim."""
    rows = []
    for claim in CLAIMS:
        found = claim.judge(frames)
        rows.append({"id": claim.id, "claim": claim.claim, "published": claim.published, "source": claim.source,
                     "rule": claim.rule, "numbers": found.numbers, "verdict": found.verdict})  # fmt: skip
    return pd.DataFrame(rows)


def counts(judged: pd.DataFrame) -> dict[str, int]:
    return {name: int((judged["verdict"] == name).sum()) for name in VERDICTS}


def write(judged: pd.DataFrame, folder: Path) -> list[Path]:
    """claims.csv, and claims.html for the page: one article a claim."""
    csv, page = folder / "claims.csv", folder / "claims.html"
    write_csv(judged, csv)
    summary = listing(f"{n} {name}" for name, n in counts(judged).items())
    parts = [f'<p class="caption"><strong>{len(judged)} claims</strong>: {summary}.</p>']
    for row in judged.to_dict("records"):
        text = {key: escape(value) for key, value in row.items()}
        state = text["verdict"].replace(" ", "-")
        parts.append(
            f'<section class="claim {state}" id="claim-{text["id"]}" aria-labelledby="claim-{text["id"]}-name">\n'
            f'<p class="verdict">{text["verdict"]}</p>\n'
            f'<h3 id="claim-{text["id"]}-name">{text["claim"]}</h3>\n'
            f"<dl><dt>Published</dt><dd>{text['published']} <span class=source>({text['source']})</span></dd>\n"
            f"<dt>This run</dt><dd>{text['numbers']}</dd>\n"
            f"<dt>Rule</dt><dd>{text['rule']}</dd></dl>\n</section>"
        )
    parts.append('<p class="downloads"><a href="reports/tables/claims.csv" download>CSV</a></p>')
    with atomic_write(page) as part:
        part.write_text('<div class="claims">\n' + "\n".join(parts) + "\n</div>\n", encoding="utf-8")
    return [csv, page]
