"""What each method of adaptation brings back of what conversion cost: at equal tokens, paired by seed and document."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import pandas as pd

from ladder.report.cells import Cell, Column, Table, missing, over_seeds, value, words
from ladder.report.drawing import empty_panel, tidy
from ladder.report.frames import Frames
from ladder.report.quality import (
    ADAPTED,
    LOSS,
    NOT_EVALUATED,
    PERPLEXITY,
    base_model,
    curves,
    paired,
    pooled,
    rewired_share,
    rows_of,
    share_words,
    short_name,
)
from ladder.report.style import INK, listing, look, loss_text, number, order, percent, share_text, signed_loss
from ladder.report.svg import Figure, Panel

KL = ("validation_kl", None)
PLAIN, TAUGHT = "adapted", "distilled"
OWN, TITLE = "this run", "What distillation recovers"
PUBLISHED = (
    "Published (FarSkip-Collective), distillation recovers most of what full conversion costs, finetuning less. "
)
WORDS = {PLAIN: "finetuned", TAUGHT: "distilled", "progressive": "rewired layer by layer"}
WORDS |= {"lora": "distilled into a low-rank change", "annealed": "distilled while the lag came in"}


class Gap(NamedTuple):
    """A paired difference of perplexity: one row a seed, and one over seeds and documents; empty if not evaluated."""

    seeds: list[dict]
    together: dict | None

    @property
    def surely(self) -> int:
        """-1 or 1: the sign, where the interval over all seeds leaves out 0; -2 or 2: every seed's own does too."""
        for sign in (-1, 1):
            rows = [row for row in (self.together, *self.seeds) if row]
            beyond = [row["low"] is not None and min(sign * row["low"], sign * row["high"]) > 0 for row in rows]
            if beyond and beyond[0]:
                return sign * (2 if all(beyond) else 1)
        return 0


def gap(frames: Frames, one: dict, other: dict) -> Gap:
    return Gap(paired(frames, PERPLEXITY, one, other), pooled(frames, PERPLEXITY, one, other))


class Adapted:
    """One conversion and what was made of it by one method, as differences of perplexity.

    drop: of the converted model to the original; left: of the adapted one; alike: of the adapted one to the original
    treated alike (finetuned too, on text of another kind; distilled into itself it stays what it is); difference: to
    finetuning.
    """

    def __init__(self, frames: Frames, model: str, wiring: str, variant: str):
        self.model, self.wiring, self.variant = model, wiring, variant
        this = {"model": model, "wiring": wiring}
        original = {"model": model, "wiring": "standard", "variant": "pretrained"}
        converted, adapted, plain = (this | {"variant": v} for v in ("converted", variant, PLAIN))
        self.drop = gap(frames, converted, original)
        self.left = self.alike = gap(frames, adapted, original)
        if variant == PLAIN:
            self.alike = gap(frames, adapted, original | {"variant": PLAIN})
        self.difference = Gap([], None) if variant == PLAIN else gap(frames, adapted, plain)
        self.chat = rows_of(frames, LOSS, stage="adapt", **adapted)
        self.kl = rows_of(frames, KL, stage="adapt", **adapted)
        points = curves(frames, "adapt")
        mine = (points["wiring"] == wiring) & (points["variant"] == variant) if len(points) else []
        self.tokens = points[mine]["tokens"].max() if len(points) else None

    @property
    def shares(self) -> pd.DataFrame:
        """What part of the drop came back, by seed; of seeds that have a drop."""
        return self._shares(self.left, "derived: 1 - byte perplexity left to the original / lost by converting")

    @property
    def shares_alike(self) -> pd.DataFrame:
        """The same against the original treated alike."""
        return self._shares(self.alike, "derived: 1 - byte perplexity left to the original treated alike / lost")

    def _shares(self, left: Gap, note: str) -> pd.DataFrame:
        drops = {row["seed"]: row["value"] for row in self.drop.seeds}
        what = {"metric": "recovered_share", "unit": "fraction", "low": None, "high": None, "stderr": None}
        return pd.DataFrame(
            row | what | {"value": 1 - row["value"] / drops[row["seed"]], "note": note}
            for row in left.seeds
            if drops.get(row["seed"], 0) > 0
        )


@lru_cache(maxsize=8)
def adapted(frames: Frames) -> tuple[Adapted, ...]:
    """Every method of every conversion that was adapted in more ways than one."""
    model = base_model(frames)
    rows = frames.own(stage="evaluate", model=model, variant=ADAPTED) if model else frames.ours[:0]
    found = rows.groupby("wiring")["variant"].unique()
    several = [w for w in found.index if len(found[w]) > 1]
    ordered = sorted(several, key=lambda w: (rewired_share(w, model) or 0, order(w)))
    return tuple(Adapted(frames, model, w, v) for w in ordered for v in ADAPTED if v in found[w])


def runs(frames: Frames) -> dict[str, tuple[Adapted, ...]]:
    """This run's and those that are kept, by what they are called; those without a second method left out."""
    named = {OWN: frames} | {f"{short_name(name)}, kept": study for name, study in frames.studies.items()}
    return {name: made for name, part in named.items() if (made := adapted(part))}


def recovery(frames: Frames) -> Table:
    columns = [Column("Run", words=True), Column("Rewired", words=True), Column("Method", words=True)]
    columns.append(Column("thousand tokens"))
    names = ("lost by converting", "regained, %", "left to the original", "left to it treated alike", "− finetuned")
    columns += [Column(name, "byte perplexity, measured") for name in names]
    columns += [Column(name, "validation, measured") for name in ("chat loss, nats", "KL to the original, nats")]
    made = runs(frames)
    rows = [[words(name), *cells(one)] for name, every in made.items() for one in every]
    if not rows:
        reason = "adapted its conversions by finetuning only"
        rows.append([words(OWN), *(missing(reason) for _ in columns[1:])])
    notes = [
        "Byte perplexity of held-out documents, paired with the other checkpoint of the same seed; in brackets the "
        "95 % interval over documents and seeds; of shares and losses, the lowest and highest seed."
    ]
    return Table("recovery", TITLE, caption(made), columns, rows, notes)


def caption(made: dict[str, tuple[Adapted, ...]]) -> str:
    told = [f"{name[:1].upper()}{name[1:]}: {finding(every)}." for name, every in made.items()]
    return PUBLISHED + (" ".join(told) or "This run did not distil.")


def cells(one: Adapted) -> list[Cell]:
    rewired = share_words(rewired_share(one.wiring, one.model), one.wiring)
    tokens = words(number(one.tokens / 1e3, 0), one.tokens) if one.tokens else missing("no curve in its record")
    of_itself = "it is finetuned itself" if one.variant == PLAIN else NOT_EVALUATED
    return [
        words(rewired, order(one.wiring)[-2]),
        words(WORDS[one.variant]),
        tokens,
        value(one.drop.together, signed_loss, NOT_EVALUATED),
        over_seeds(one.shares, share_text, "conversion cost nothing, or was not evaluated"),
        value(one.left.together, signed_loss, NOT_EVALUATED),
        value(one.alike.together, signed_loss, "the original was not finetuned"),
        value(one.difference.together, signed_loss, of_itself),
        over_seeds(one.chat, loss_text, "not recorded"),
        over_seeds(one.kl, loss_text, "it is not compared with the original while it trains"),
    ]


def by_conversion(made: Sequence[Adapted]) -> dict[str, dict[str, Adapted]]:
    """What is rewired, in words -> variant -> what came of it."""
    found: dict[str, dict[str, Adapted]] = {}
    for one in made:
        rewired = share_words(rewired_share(one.wiring, one.model), one.wiring)
        found.setdefault(rewired, {})[one.variant] = one
    return found


def finding(made: Sequence[Adapted]) -> str:
    told = []
    for rewired, methods in by_conversion(made).items():
        parts = [regained(one) for one in methods.values() if len(one.shares)]
        told.append(f"{rewired}, of what conversion loses comes back {listing(parts) or 'nothing, as nothing is lost'}")
        if {PLAIN, TAUGHT} <= set(methods):
            told[-1] += f", and {decided(methods[PLAIN], methods[TAUGHT])}"
    return "; ".join(told)


def regained(one: Adapted) -> str:
    share = one.shares["value"].mean()
    text = f"{WORDS[one.variant]} {percent(share)}" if share > 0 else f"{WORDS[one.variant]} nothing"
    if one.alike is not one.left and len(one.shares_alike):
        text += f" ({percent(one.shares_alike['value'].mean())} against the original finetuned alike)"
    return text


def decided(plain: Adapted, taught: Adapted) -> str:
    if plain.tokens != taught.tokens:
        return "they did not train on equal tokens, so they are not compared"
    sure = taught.difference.surely
    if not sure:
        return "whether finetuning or distillation recovers more cannot be told"
    who = "distillation" if sure < 0 else "finetuning"
    return f"{who} recovers more, {'in every seed' if abs(sure) == 2 else 'over all seeds if not in each for itself'}"


def short_caption(made: dict[str, tuple[Adapted, ...]]) -> str:
    told = []
    for name, every in made.items():
        for rewired, methods in by_conversion(every).items():
            if {PLAIN, TAUGHT} <= set(methods):
                told.append(f"{name[:1].upper()}{name[1:]}, {rewired}: {decided(methods[PLAIN], methods[TAUGHT])}.")
    return " ".join(told)


def recovery_figure(frames: Frames) -> Figure:
    """Where each conversion lies from its original, as it is and by method."""
    made = runs(frames)
    drawn = []
    for name, every in made.items():
        for rewired, methods in by_conversion(every).items():
            group = [one for one in methods.values() if one.left.together]
            if not group or not group[0].drop.together:
                continue
            lines = [("converted as is", group[0].drop)]
            for one in group:
                lines.append((WORDS[one.variant], one.left))
                if one.alike is not one.left and one.alike.together:
                    lines.append((f"{WORDS[one.variant]}, against\nthe original finetuned", one.alike))
            title, wiring = f"{name}: {rewired}", group[0].wiring
            told = listing(f"{what} {signed_loss(gap.together['value'])}" for what, gap in lines)
            alt = f"{title}, byte perplexity less the original's: {told}."

            def draw(axes, lines=lines, title=title, wiring=wiring):
                axes.set_title(title.replace(": ", "\n"))
                draw_gaps(axes, lines, look(wiring).colour)

            drawn.append(Panel(f"recovery-{len(drawn)}", alt, draw, (3.7, 1.15 + 0.26 * len(lines))))
    if not drawn:
        text = caption(made)
        return Figure("recovery", TITLE, text, [empty_panel("recovery", text)])
    gaps = [apart for every in made.values() for one in every for apart in (one.drop, one.left, one.alike)]
    behind = [row for apart in gaps for row in (*apart.seeds, apart.together) if row]
    text = f"Bars: 95 % interval over documents and seeds; small dots: each seed. {short_caption(made)}"
    return Figure("recovery", TITLE, text, drawn, tidy(behind).drop_duplicates())


def draw_gaps(axes, lines: list[tuple[str, Gap]], colour: str) -> None:
    axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
    for i, (_, gap) in enumerate(lines):
        row = gap.together
        axes.plot([row["low"], row["high"]], [i, i], "-", color=colour, linewidth=1.2)
        axes.plot([one["value"] for one in gap.seeds], [i + 0.22] * len(gap.seeds), ".", color=colour, markersize=4)
        axes.plot(row["value"], i, "o" if i else "D", color=colour)
    axes.set_yticks(range(len(lines)), [what for what, _ in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel("byte perplexity − the original's")


TABLES = [recovery]
FIGURES = [recovery_figure]
