"""Trainings that the repository keeps (`reports/measured/HARDWARE/STUDY/`): each is compared within itself only."""

from collections.abc import Iterator

import pandas as pd

from ladder.report.cells import Column, Table, missing, over_seeds, words
from ladder.report.curve_figures import against_standard, draw_differences, draw_losses, lasts
from ladder.report.drawing import empty_panel, tidy
from ladder.report.frames import Frames
from ladder.report.noise import MEANING, against, differences
from ladder.report.quality import (
    CLOZE,
    LOSS,
    NOT_EVALUATED,
    PERPLEXITY,
    curves,
    label,
    parameters,
    rows_of,
    short_name,
    trained,
)
from ladder.report.style import hardware_words, listing, loss_text, number, order, share_text, signed_loss
from ladder.report.svg import Figure, Panel

TITLE = "Longer trainings, kept"
NONE = "The repository keeps no training."
FROM_SCRATCH = {"stage": "pretrain", "variant": "pretrained"}
QUANTITIES = {  # (metric, task) -> its column, that of the difference, how a value is written
    LOSS: ("validation loss, nats", "− standard, nats", loss_text),
    PERPLEXITY: ("byte perplexity", "− standard", loss_text),
    CLOZE: ("cloze, %", "− standard, points", share_text),
}


def models(frames: Frames) -> Iterator[tuple[str, Frames, str, pd.DataFrame]]:
    """(name, study, model, validation points) of each model that a study trained from scratch."""
    for name, study in frames.studies.items():
        points = curves(study, "pretrain")
        points = points[points["split"] == "validation"].sort_values("tokens") if len(points) else points
        for model in dict.fromkeys(model for model, _ in trained(study, "pretrain")):
            yield name, study, model, points[points["model"] == model]


def said(name: str, study: Frames, model: str) -> str:
    """What was trained: "laptop, 3.83M parameters"."""
    rows = rows_of(study, ("parameters", None), model=model, **FROM_SCRATCH)
    size = rows["value"].max() if len(rows) else parameters(model)
    return f"{short_name(name)}, {size / 1e6:.3g}M parameters"


def machine(study: Frames, model: str) -> str | None:
    rows = study.own(model=model, **FROM_SCRATCH)["hardware"].dropna()
    return rows.iloc[0] if len(rows) else None


def studies(frames: Frames) -> Table:
    columns = [Column(name, words=True) for name in ("Study", "Hardware", "Model", "Wiring")]
    columns += [Column("thousand tokens", "measured"), Column("seeds", "measured")]
    for names in QUANTITIES.values():
        columns += [Column(name, "measured") for name in names[:2]]
    rows = []
    for name, study, model, points in models(frames):
        base = {"model": model, "wiring": "standard", "variant": "pretrained"}
        tokens = points.groupby("wiring")["tokens"].max()
        for wiring in sorted((w for m, w in trained(study, "pretrain") if m == model), key=order):
            this = base | {"wiring": wiring}
            done = rows_of(study, LOSS, stage="pretrain", **this)
            cells = [words(short_name(name)), words(hardware_words(machine(study, model))), words(model)]
            cells.append(words(label(study, wiring, model=model), order(wiring)[0]))
            seen = tokens.get(wiring)
            cells.append(words(number(seen / 1e3, 0), seen) if seen else missing("no curve in its record"))
            cells.append(words(done["seed"].nunique()))
            for metric, (_, _, form) in QUANTITIES.items():
                cells.append(over_seeds(rows_of(study, metric, **this), form, NOT_EVALUATED))
                if wiring == "standard":
                    cells.append(missing("what the others are compared with"))
                elif seen != tokens.get("standard"):
                    cells.append(missing("standard was not trained on as many tokens"))
                else:
                    cells.append(against(study, metric, this, base, NOT_EVALUATED))
            rows.append(cells)
    if not rows:
        rows.append([words("none"), *(missing(NONE) for _ in columns[1:])])
    return Table("studies", TITLE, caption(frames), columns, rows, [MEANING])


def caption(frames: Frames) -> str:
    told = []
    for name, study, model, points in models(frames):
        own = [d for d in differences(study) if (d.model, d.variant, d.metric) == (model, "pretrained", LOSS)]
        gaps = listing(f"{label(study, d.wiring)} {signed_loss(d.row['value'])} ({d.verdict})" for d in own)
        seeds = points.groupby("wiring")["seed"].nunique().min()
        text = f"{said(name, study, model)}, {points['tokens'].max() / 1e3:,.0f} thousand tokens, {seeds} seeds, "
        text += f"on {hardware_words(machine(study, model))}: "
        found = f"validation loss less standard's, against the noise floor: {gaps} nats"
        told.append(text + (found if gaps else "no standard beside it"))
    return ". ".join(told) + "." if told else NONE


def study_curves(frames: Frames) -> Figure:
    drawn, rows = [], []
    for name, study, model, points in models(frames):
        later = points[points["tokens"] > 0]
        others = against_standard(later, model)
        others = others[others["wiring"] != "standard"]
        rows += [row | {"record": name} for row in points.to_dict("records")]
        title = said(name, study, model)
        base = lasts(points[points["wiring"] == "standard"])
        spread = base.max() - base.min()
        ends = listing(f"{label(study, w)} {v:.3f}" for w, v in lasts(later).groupby("wiring").mean().items())
        what = f"{title}: validation loss against training tokens"

        def losses(axes, later=later, study=study, title=title):
            axes.set_title(title)
            draw_losses(axes, later, study)

        drawn.append(Panel(f"studies-{len(drawn)}", f"{what}, one line a seed; at the end: {ends} nats.", losses))
        if others.empty:
            continue
        reach = others.loc[others["tokens"] >= others["tokens"].max() / 4, "loss"].abs().max() * 1.15
        final = lasts(others).groupby("wiring").mean().items()
        ends = listing(f"{label(study, w)} {signed_loss(v)}" for w, v in final)

        def differences(axes, others=others, study=study, spread=spread, reach=reach):
            axes.set_title("difference to standard")
            draw_differences(axes, others, spread, (-reach, reach), study)

        drawn.append(Panel(f"studies-{len(drawn)}", f"{what}, less standard's; at the end: {ends} nats.", differences))
    reading = (
        " Left: each seed. Right: thin lines are seeds, bold ones their mean, the band is the spread of standard's."
    )
    drawn = drawn or [empty_panel("studies", NONE)]
    return Figure("studies", TITLE, caption(frames) + (reading if rows else ""), drawn, tidy(rows))


TABLES = [studies]
FIGURES = [study_curves]
