"""What each method of adaptation brings back of what conversion cost: at equal tokens, paired by seed and document."""

import pandas as pd

from ladder.report.cells import Column, Table, across_seeds, missing, over_seeds, words
from ladder.report.frames import Frames
from ladder.report.quality import (
    ADAPTED,
    LOSS,
    NOT_EVALUATED,
    PERPLEXITY,
    base_model,
    curves,
    paired,
    rewired_share,
    rows_of,
    share_words,
)
from ladder.report.style import listing, loss_text, number, order, share_text, signed_loss

KL = ("validation_kl", None)
PLAIN, TAUGHT = "adapted", "distilled"
WORDS = {PLAIN: "finetuned", TAUGHT: "distilled", "progressive": "rewired layer by layer"}


class Adapted:
    """One conversion and what was made of it by one method; all rows are one a seed."""

    def __init__(self, frames: Frames, model: str, wiring: str, variant: str):
        self.wiring, self.variant = wiring, variant
        this = {"model": model, "wiring": wiring}
        original = {"model": model, "wiring": "standard", "variant": "pretrained"}
        converted, adapted = this | {"variant": "converted"}, this | {"variant": variant}
        self.drop = paired(frames, PERPLEXITY, converted, original)
        self.gain = paired(frames, PERPLEXITY, converted, adapted)
        plain = this | {"variant": PLAIN}
        self.difference = [] if variant == PLAIN else paired(frames, PERPLEXITY, adapted, plain)
        self.chat = rows_of(frames, LOSS, stage="adapt", **adapted)
        self.kl = rows_of(frames, KL, stage="adapt", **adapted)
        points = curves(frames, "adapt")
        mine = (points["wiring"] == wiring) & (points["variant"] == variant) if len(points) else []
        self.tokens = points[mine]["tokens"].max() if len(points) else None

    @property
    def shares(self) -> pd.DataFrame:
        """What part of the drop came back, by seed; of seeds that have a drop."""
        drops = {row["seed"]: row["value"] for row in self.drop}
        what = {"metric": "recovered_share", "unit": "fraction", "low": None, "high": None, "stderr": None}
        what["note"] = "derived: byte perplexity gained by adapting / lost by converting"
        return pd.DataFrame(
            row | what | {"value": row["value"] / drops[row["seed"]]}
            for row in self.gain
            if drops.get(row["seed"], 0) > 0
        )


def adapted(frames: Frames) -> list[Adapted]:
    """Every method of every conversion that was adapted in more ways than one."""
    model = base_model(frames)
    rows = frames.own(stage="evaluate", model=model, variant=ADAPTED) if model else frames.ours[:0]
    found = rows.groupby("wiring")["variant"].unique()
    several = [w for w in found.index if len(found[w]) > 1]
    ordered = sorted(several, key=lambda w: (rewired_share(w, model) or 0, order(w)))
    return [Adapted(frames, model, w, v) for w in ordered for v in ADAPTED if v in found[w]]


def better(rows: list[dict]) -> str:
    """Of the paired differences distilled - finetuned, one a seed: which recovers more, where all intervals agree."""
    if rows and all(row["high"] is not None and row["high"] < 0 for row in rows):
        return TAUGHT
    if rows and all(row["low"] is not None and row["low"] > 0 for row in rows):
        return PLAIN
    return ""


def recovery(frames: Frames) -> Table:
    title = "What distillation recovers"
    columns = [Column("Rewired", words=True), Column("Method", words=True), Column("thousand tokens")]
    columns += [Column("perplexity lost by converting"), Column("regained by adapting"), Column("of the loss, %")]
    columns += [Column("perplexity − finetuned"), Column("chat loss, nats"), Column("KL to the original, nats")]
    rows, made = [], adapted(frames)
    for one in made:
        model = base_model(frames)
        cells = [words(share_words(rewired_share(one.wiring, model), one.wiring), order(one.wiring)[-2])]
        cells.append(words(WORDS[one.variant]))
        cells.append(
            words(number(one.tokens / 1e3, 0), one.tokens) if one.tokens else missing("no curve in its record")
        )
        cells.append(across_seeds(one.drop, signed_loss, NOT_EVALUATED))
        cells.append(across_seeds(one.gain, signed_loss, NOT_EVALUATED))
        cells.append(over_seeds(one.shares, share_text, "conversion cost nothing, or was not evaluated"))
        reason = "it is finetuned itself" if one.variant == PLAIN else NOT_EVALUATED
        cells.append(across_seeds(one.difference, signed_loss, reason))
        cells.append(over_seeds(one.chat, loss_text, "not recorded"))
        cells.append(over_seeds(one.kl, loss_text, "it is not compared with the original while it trains"))
        rows.append(cells)
    if not made:
        reason = "this run adapted its conversions by finetuning only"
        rows.append([words("any"), words("any"), *(missing(reason) for _ in columns[2:])])
    notes = [
        "Byte perplexity of held-out documents, paired with the other checkpoint of the same seed; in brackets the "
        "interval that covers the 95 % intervals of all seeds; of shares and losses, the lowest and highest seed."
    ]
    return Table("recovery", title, caption(made, base_model(frames)), columns, rows, notes)


def caption(made: list[Adapted], model: str | None) -> str:
    published = (
        "Published (FarSkip-Collective), distillation recovers most of what full conversion costs, finetuning less. "
    )
    if not made:
        return published + "This run did not distil."
    told = []
    for wiring in dict.fromkeys(one.wiring for one in made):
        methods = {one.variant: one for one in made if one.wiring == wiring}
        shares = {name: one.shares for name, one in methods.items()}
        parts = [f"{WORDS[n]} {100 * s['value'].mean():.0f} %" for n, s in shares.items() if len(s)]
        told.append(
            f"{share_words(rewired_share(wiring, model), wiring)}: of what conversion loses comes back {listing(parts)}"
        )
        if {PLAIN, TAUGHT} <= set(methods):
            told[-1] += f"; {decided(methods[PLAIN], methods[TAUGHT])}"
    return published + "Here, " + ". ".join(told) + "."


def decided(plain: Adapted, taught: Adapted) -> str:
    if plain.tokens != taught.tokens:
        return "they did not train on equal tokens, so they are not compared"
    what = {TAUGHT: "distillation recovers more", PLAIN: "finetuning recovers more"}
    found = better(taught.difference)
    return f"{what[found]}, in every seed" if found else "which of the two recovers more cannot be told"


TABLES = [recovery]
