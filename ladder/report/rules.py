"""The rules that judge claims: each is a function of the frames that returns a verdict and the numbers behind it."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from ladder.report.frames import Frames
from ladder.report.points import deeper, points
from ladder.report.quality import LOSS, PERPLEXITY, base_model, layers, rewired_share, rows_of, short_name
from ladder.report.quality_tables import larger_pair
from ladder.report.recovery import PLAIN, TAUGHT, WORDS, adapted
from ladder.report.style import look, percent
from ladder.wiring import split_name

SUPPORTED, NOT_SUPPORTED, NOT_TESTED = "supported", "not supported", "not tested at this scale"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, NOT_TESTED)
ELSE = "; not supported if it is not; not tested without such a measurement."  # ends many rules
CLOSE = 0.02  # relative difference that counts as comparable


@dataclass(frozen=True)
class Verdict:
    verdict: str
    numbers: str  # what led to it, in words


@dataclass(frozen=True)
class Claim:
    id: str
    claim: str
    published: str
    source: str
    rule: str
    judge: Callable[[Frames], Verdict]


def untested(reason: str) -> Verdict:
    return Verdict(NOT_TESTED, reason)


def verdict(holds: bool, numbers: str) -> Verdict:
    return Verdict(SUPPORTED if holds else NOT_SUPPORTED, numbers)


def losses(frames: Frames, model: str, wiring: str) -> pd.Series:
    rows = rows_of(frames, LOSS, stage="pretrain", model=model, wiring=wiring)
    return rows.groupby("seed", dropna=False)["value"].last()


def comparable(model: str, wiring: str = "ladder", base: str = "standard"):
    """A rule for quality: mean validation loss within 2 % of the other wiring's, or inside the seeds' spread."""

    def judge(frames: Frames) -> Verdict:
        own, other = losses(frames, model, wiring), losses(frames, model, base)
        if own.empty or other.empty:
            return untested(f"This run trained no {model} with both {wiring} and {base}.")
        relative = own.mean() / other.mean() - 1
        spread = max(own.max() - own.min(), other.max() - other.min())
        numbers = (
            f"{model}: {look(wiring).label} {own.mean():.3f}, {look(base).label} {other.mean():.3f} nats "
            f"({percent(relative, 1, True)}); widest spread of {max(len(own), len(other))} seed(s) {spread:.3f} nats."
        )
        return verdict(relative <= CLOSE or abs(own.mean() - other.mean()) <= spread, numbers)

    return judge


def larger_is_better(frames: Frames) -> Verdict:
    pair = larger_pair(frames)
    if not pair:
        return untested("This run trained no larger ladder beside a standard model.")
    (small, base), (large, wiring) = pair
    own, other = losses(frames, large, wiring), losses(frames, small, base)
    seeds = own.index.intersection(other.index)
    if seeds.empty:
        return untested("The larger ladder and the standard model share no seed.")
    better = bool((own[seeds] < other[seeds]).all())
    ratio = layers(large) / layers(small)
    numbers = (
        f"Validation loss: {large} {own.mean():.3f}, {small} {other.mean():.3f} nats; lower in "
        f"{int((own[seeds] < other[seeds]).sum())} of {len(seeds)} seeds. "
    )
    if not better:
        return Verdict(NOT_SUPPORTED, numbers)
    timed = [found for found in deeper(points(frames)) if [p.key["model"] for p in found] == [small, large]]
    speeds = [None]
    if timed:
        speeds = [p.value("tokens_per_second", w, "both") for p, (_, w) in zip(timed[-1], pair, strict=True)]
    if None in speeds:
        return untested(
            numbers
            + f"Speed: these shapes were not timed; {ratio:.2f} times the layers need a speed-up of {ratio:.2f}×."
        )
    return verdict(speeds[1] >= speeds[0], numbers + f"tokens/s: {speeds[1]:.1f} against {speeds[0]:.1f}.")


def perplexities(frames: Frames, variant: str, wiring: str) -> pd.Series:
    rows = rows_of(frames, PERPLEXITY, model=base_model(frames), variant=variant, wiring=wiring)
    return rows.groupby("seed", dropna=False)["value"].last()


def hybrid(frames: Frames, low: float, high: float) -> str | None:
    """The ladder of ours that rewires this share of the layers."""
    model = base_model(frames)
    wirings = frames.own(variant="adapted", model=model)["wiring"].dropna().unique() if model else []
    shares = {w: rewired_share(w, model) for w in sorted(wirings) if split_name(w)[0] == "ladder"}
    return next((w for w, fraction in shares.items() if fraction is not None and low <= fraction <= high), None)


def half_recovers(frames: Frames) -> Verdict:
    wiring = hybrid(frames, 0.45, 0.55)
    if wiring is None:
        return untested("This run converted no model's upper half.")
    found = four(frames, wiring)
    if found is None:
        return untested(NOT_ALL)
    original, converted, adapted, alike = found
    numbers = told(*found)
    if not (converted > original).all():
        return untested(numbers + " No drop in every seed, so nothing to recover from.")
    return verdict(adapted.mean() / alike.mean() - 1 <= CLOSE, numbers)


NOT_ALL = "The original, the conversion and both adapted checkpoints were not all evaluated at the same seeds."


def four(frames: Frames, wiring: str) -> list[pd.Series] | None:
    """Byte perplexity by seed: original, converted, adapted, and the original adapted the same way."""
    checkpoints = [("pretrained", "standard"), ("converted", wiring), ("adapted", wiring), ("adapted", "standard")]
    table = pd.concat([perplexities(frames, *c) for c in checkpoints], axis=1).dropna()
    return None if table.empty else [table.iloc[:, i] for i in range(4)]


def told(original: pd.Series, converted: pd.Series, adapted: pd.Series, alike: pd.Series) -> str:
    drop, gap = converted.mean() / original.mean() - 1, adapted.mean() / alike.mean() - 1
    return (
        f"Byte perplexity: original {original.mean():.3f}, converted {converted.mean():.3f} ({percent(drop, 1, True)}, "
        f"worse in {int((converted > original).sum())} of {len(original)} seeds); adapted {adapted.mean():.3f}, "
        "original "
        f"adapted the same way {alike.mean():.3f} ({percent(gap, 1, True)})."
    )


def more_costs_more(frames: Frames) -> Verdict:
    half, more = hybrid(frames, 0.45, 0.55), hybrid(frames, 0.58, 0.67)
    if half is None or more is None:
        return untested("This run adapted no pair of conversions of half and of five eighths of the layers.")
    found = four(frames, more)
    less = perplexities(frames, "adapted", half)
    if found is None or less.empty:
        return untested(NOT_ALL)
    original, converted, adapted, alike = found
    numbers = f"{told(*found)} Half converted, adapted: {less.mean():.3f}."
    if converted.mean() / original.mean() - 1 <= CLOSE:
        return untested(numbers + " The conversion costs at most 2 %, so there is hardly anything to recover from.")
    return verdict(adapted.mean() > less.mean() and adapted.mean() / alike.mean() - 1 > CLOSE, numbers)


def full_conversion(frames: Frames) -> Verdict:
    found = four(frames, "ladder") if base_model(frames) else None
    if found is None:
        return untested("This run converted no model in all its layers, or did not evaluate all four checkpoints.")
    original, converted, adapted, alike = (series.mean() for series in found)
    lost, left = converted - original, adapted - alike
    return verdict(lost > 0 and left <= 0.5 * lost, told(*found))


def distillation_recovers_more(frames: Frames) -> Verdict:
    """Of this run; what the same rule says of the trainings that are kept stands among the numbers."""
    own = distilled_or_finetuned(frames)
    kept = {short_name(name): distilled_or_finetuned(study) for name, study in frames.studies.items()}
    told = [f" {name}, kept: {v.verdict}. {v.numbers}" for name, v in kept.items() if v.verdict != NOT_TESTED]
    return Verdict(own.verdict, own.numbers + "".join(told))


def distilled_or_finetuned(frames: Frames) -> Verdict:
    made = {one.variant: one for one in adapted(frames) if one.wiring == "ladder"}
    if not {PLAIN, TAUGHT} <= set(made) or not made[TAUGHT].difference.seeds:
        return untested("This run did not adapt a full conversion both by finetuning and by distillation.")
    plain, taught = made[PLAIN], made[TAUGHT]
    means = {name: 100 * one.shares["value"].mean() for name, one in made.items() if len(one.shares)}
    shares = "; ".join(f"{WORDS[name]} {share:.0f} % of what conversion lost" for name, share in means.items())
    apart = taught.difference
    low, high = (pick(row[end] for row in apart.seeds) for pick, end in ((min, "low"), (max, "high")))
    numbers = f"{shares or 'Nothing was lost'}; byte perplexity, distilled less finetuned: {low:+.3f} to {high:+.3f}."
    if not all(row["value"] > 0 for row in taught.drop.seeds):
        return untested(numbers + " No drop in every seed, so nothing to recover from.")
    if plain.tokens != taught.tokens:
        return untested(numbers + " The two were trained on different numbers of tokens.")
    return verdict(apart.surely == -2, numbers)


def training_faster(frames: Frames) -> Verdict:
    rows = frames.own(stage="pretrain", metric="tokens_per_second", model=["llama-3.1-8b"])
    speed = rows.groupby("wiring")["value"].mean()
    if not {"standard", "ladder"} <= set(speed.index):
        return untested("No tensor-parallel training of an 8B model in this run; on one device no wiring communicates.")
    gain = speed["ladder"] / speed["standard"] - 1
    return verdict(gain >= 0.03, f"Training tokens/s of ladder over standard: {percent(gain, 1, True)}.")
