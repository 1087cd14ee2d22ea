"""The paper's claims, each with the rule that judges it. The rules were written before the numbers were seen.

A rule's words stand here, beside the function of :mod:`ladder.report.rules` that does what they say. To change a rule
after the numbers are known, add a claim with its own id and say so in the log of the site.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ladder.files import whole
from ladder.report import rules
from ladder.report.frames import Frames
from ladder.report.rules import VERDICTS, Verdict
from ladder.report.style import listing

ELSE = "; not supported if it is not; not tested without such a measurement."


@dataclass(frozen=True)
class Claim:
    id: str
    claim: str
    published: str
    source: str
    rule: str
    judge: Callable[[Frames], Verdict]


TABLE2, TABLE3, TABLE4 = (
    "published/table2_latency_breakdown_70b.csv",
    "published/table3_pretraining.csv",
    "published/table4_adaptation.csv",
)
HEADLINES = "published/headline_claims.csv"
CLAIMS = [
    Claim(
        "hides-decode",
        "Ladder Residual overlaps each all-reduce with the next module, and so hides most of the communication in "
        "decode.",
        "79 % of what the upper bound saves with P2P (23.71 of 30.00 %), 72 % without (37.71 of 52.71 %), 70B, TP 8",
        TABLE2,
        "Supported if at every emulated ρ up to 0.8 the lower end of the 95 % interval of the share hidden in "
        "decode is "
        "above one half, by the wall clock and by the virtual clock; otherwise not supported. This tests the "
        "mechanism on "
        "an emulated serial link, not a GPU interconnect.",
        rules.hides_decode,
    ),
    Claim(
        "beats-parallel",
        "At batch 1, ladder is faster than parallel attention and MLP.",
        "+30.79 % against +21.75 % tokens/s (P2P), +59.87 % against +40.07 % (P2P off), 70B, TP 8, batch 1",
        TABLE2,
        "Supported if at batch 1 and every emulated ρ up to 0.8 ladder's decode speed-up is above parallel's by "
        "the wall "
        "clock, and by the virtual clock so far that their 95 % intervals do not meet; otherwise not supported. A "
        "serial "
        "link favours parallel when an all-reduce is long.",
        rules.beats_parallel,
    ),
    Claim(
        "70b-29",
        "A 70B model at TP 8 runs 29 % faster end to end.",
        "29 % (another version of the abstract: 30 %)",
        HEADLINES,
        "Supported if tokens/s of llama-3-70b measured over 8 GPUs with P2P is at least 1.25 times standard's at "
        "batch 1 "
        "and 4" + ELSE,
        rules.measured_gain("llama-3-70b", 8, 1.25, (1, 4)),
    ),
    Claim(
        "70b-slow-60",
        "On slow communication (no P2P), 70B at TP 8 runs about 60 % faster.",
        "59.87 %; the authors' other runs give about 50 %",
        f"{TABLE2}, {HEADLINES}",
        "Supported if tokens/s of llama-3-70b measured over 8 GPUs with P2P off is at least 1.5 times standard's "
        "at batch 1" + ELSE,
        rules.measured_gain("llama-3-70b", 8, 1.5, (1,), p2p=False),
    ),
    Claim(
        "70b-share",
        "All-reduces take 38 % of the latency of 70B at TP 8, batch 4, with NVLink.",
        "38 %",
        HEADLINES,
        "Supported if 1 − T upper bound / T standard, measured for llama-3-70b over 8 GPUs at batch 4, is between "
        "28 and 48 %" + ELSE,
        rules.communication_share,
    ),
    Claim(
        "405b-30",
        "405B across two nodes (TP 16) gains more than 30 %.",
        "> 30 %; 1.31× to 1.39× in the authors' plot script (P2P)",
        f"{HEADLINES}, published/fig3_405b_speedup.csv",
        "Supported if tokens/s of llama-3.1-405b measured over 16 GPUs is at least 1.3 times standard's at every "
        "batch size" + ELSE,
        rules.measured_gain("llama-3.1-405b", 16, 1.3, (1, 4, 8, 16)),
    ),
    Claim(
        "small-55",
        "The 1B and 3B ladder models are more than 55 % faster at TP 8.",
        "> 55 %; 1.56× (1B) and 1.57× (3B)",
        f"{HEADLINES}, published/table1_speedup_by_model_size.csv",
        "Supported if tokens/s of paper-1b measured over 8 GPUs with P2P is at least 1.5 times standard's at batch 4"
        + ELSE,
        rules.measured_gain("paper-1b", 8, 1.5, (4,)),
    ),
    Claim(
        "hybrid-21",
        "Llama-3.1-8B with its last 16 layers converted runs 21 % faster at TP 8.",
        "21 % (another article: 23 %)",
        HEADLINES,
        "Supported if tokens/s of llama-3.1-8b under ladder@16-31 measured over 8 GPUs with P2P is at least 1.18 times "
        "standard's at batch 1 and 4" + ELSE,
        rules.measured_gain("llama-3.1-8b", 8, 1.18, (1, 4), wiring="ladder@16-31"),
    ),
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
        "published/table5_larger_ladder.csv",
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
    with whole(csv) as part:
        judged.to_csv(part, index=False, lineterminator="\n")
    summary = listing(f"{n} {name}" for name, n in counts(judged).items())
    parts = [f'<p class="caption"><strong>{len(judged)} claims</strong>: {summary}.</p>']
    for row in judged.to_dict("records"):
        text = {key: html.escape(value) for key, value in row.items()}
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
    with whole(page) as part:
        part.write_text('<div class="claims">\n' + "\n".join(parts) + "\n</div>\n", encoding="utf-8")
    return [csv, page]
