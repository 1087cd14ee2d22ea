"""Loss at equal training time, beside loss at equal tokens, for models trained from scratch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ladder.report.cells import Column, Table, missing, over_seeds, words
from ladder.report.drawing import empty_panel, end_labels, tidy
from ladder.report.frames import Frames
from ladder.report.noise import floor_of, verdict
from ladder.report.points import by
from ladder.report.quality import LOSS, label, parameters
from ladder.report.style import INK, hardware_words, listing, look, loss_text, number, order, percent, signed_loss
from ladder.report.svg import Figure, Panel

TITLE = "Loss against training time"
NONE = "This run holds no training curve with its tokens per second; the paper publishes none as numbers."
UNITS = (("hours", 3600.0, 2 * 3600.0), ("minutes", 60.0, 600.0), ("seconds", 1.0, 0.0))  # and from how many seconds on


@dataclass(frozen=True)
class Run:
    """One training run. row: that of its tokens_per_second; tokens, losses: its validation curve, step 0 left out."""

    row: dict
    tokens: np.ndarray
    losses: np.ndarray
    settings: dict

    @property
    def key(self) -> tuple[str, str, str]:
        return self.row["model"], self.row["wiring"], self.row["hardware"]

    @property
    def place(self) -> tuple[str, str | None]:
        """Hardware and digest of the tokens: only where both agree can two runs be compared."""
        return self.row["hardware"], self.settings.get("tokens")

    @property
    def speed(self) -> float:
        return self.row["value"]

    @cached_property
    def seconds(self) -> np.ndarray:
        """When the points of the curve were reached, in seconds of training."""
        return self.tokens / self.speed

    def at(self, seconds: float) -> float | None:
        """The loss then, interpolated over the logarithm of the tokens; None before the first point and after the
        end."""
        tokens = seconds * self.speed
        if not self.tokens[0] <= tokens <= self.tokens[-1] * (1 + 1e-9):
            return None
        return float(np.interp(np.log(tokens), np.log(self.tokens), self.losses))


def runs(frames: Frames) -> list[Run]:
    """Every pretraining run with a curve and a speed, small models first."""
    found = []
    for record in frames.with_extra("curves"):
        row = next((r for r in record["rows"] if r["metric"] == "tokens_per_second"), {})
        points = sorted((p["tokens"], p["loss"]) for p in record["curves"].get("validation", []) if p["tokens"] > 0)
        if row.get("stage") != "pretrain" or not points:
            continue
        made = {key: record["provenance"].get(key) for key in ("hardware", "commit", "mlflow_run_id")}
        tokens, losses = np.array(points, float).T
        found.append(Run(row | made, tokens, losses, record.get("settings", {})))
    return sorted(found, key=lambda run: (parameters(run.key[0]), run.key[0], order(run.key[1]), run.row.get("seed")))


def pairs(found: list[Run]) -> list[tuple[list[Run], list[Run]]]:
    """The runs of each model and wiring on one hardware and corpus, and the standard runs to hold them against: of the
    same model, or of the largest smaller one that was trained with standard there; [] where there is none."""
    groups = by(found, lambda run: (*run.key[:2], *run.place))
    made = []
    for (model, _, *place), own in groups.items():
        bases = [m for m, wiring, *there in groups if wiring == "standard" and there == place]
        smaller = [m for m in bases if parameters(m) < parameters(model)]
        base = model if model in bases else max(smaller, key=parameters, default=None)
        made.append((own, groups.get((base, "standard", *place), [])))
    return made


def gaps(own: list[Run], base: list[Run], read: Callable[[Run, Run], float | None], metric: str) -> pd.DataFrame:
    """``read(run, standard run)`` of each seed that both have, as tidy rows."""
    others, rows = {run.row.get("seed"): run for run in base}, []
    for run in own:
        other = others.get(run.row.get("seed"))
        value = None if other is None else read(run, other)
        if value is not None:
            note = f"derived: of the validation curve, against {other.key[0]} {other.key[1]}"
            what = {"metric": metric, "value": value, "unit": "nats", "low": None, "high": None, "stderr": None}
            rows.append(run.row | what | {"n": None, "note": note})
    return pd.DataFrame(rows)


def equal_tokens(run: Run, other: Run) -> float | None:
    return run.losses[-1] - other.losses[-1] if run.tokens[-1] == other.tokens[-1] else None


def equal_time(run: Run, other: Run) -> float | None:
    """At the end of the one that ends first."""
    end = min(run.seconds[-1], other.seconds[-1])
    losses = run.at(end), other.at(end)
    return None if None in losses else losses[0] - losses[1]


def at_its_end(run: Run, other: Run) -> float | None:
    """The loss at the time at which the standard run ends."""
    return run.at(other.seconds[-1])


def unit(seconds: float) -> tuple[str, float]:
    """(name, seconds in one) of the unit in which to write a training time."""
    return next((name, size) for name, size, least in UNITS if seconds >= least)


def training_time(frames: Frames) -> Table:
    made = pairs(runs(frames))
    longest = max((run.seconds[-1] for own, _ in made for run in own), default=3600 * 24)
    name, size = unit(longest)
    columns = [Column("Model", words=True), Column("Wiring", words=True), Column("Origin", words=True)]
    columns += [Column("thousand tokens"), Column("tokens/s"), Column(f"training time, {name}")]
    columns += [Column("at its end", "validation loss, nats"), Column("when standard ends", "validation loss, nats")]
    columns += [Column("at equal tokens", "loss − standard, nats"), Column("at equal time", "loss − standard, nats")]
    columns += [Column("Hardware", words=True)]
    rows = []
    for own, base in made:
        model, wiring, hardware = own[0].key
        rows_ = pd.DataFrame([run.row for run in own])
        times = rows_.assign(value=[run.seconds[-1] for run in own], metric="training_seconds", unit="s")
        ends = rows_.assign(value=[run.losses[-1] for run in own], metric="validation_loss", unit="nats")
        tokens = own[0].tokens[-1] / 1e3
        cells = [words(model), words(label(frames, wiring, model=model)), words(own[0].row["origin"])]
        cells += [words(number(tokens, 0), tokens), over_seeds(rows_, number, "")]
        cells += [over_seeds(times, lambda s: f"{s / size:.2f}", ""), over_seeds(ends, loss_text, "")]
        if wiring == "standard":
            cells += [missing("standard is what the others are compared with")] * 3
        else:
            reason = "no standard model of this size or smaller was trained on this hardware" if not base else ""
            ended = reason or "it had ended before, or had not begun to be measured"
            cells.append(over_seeds(gaps(own, base, at_its_end, "loss_when_standard_ends"), loss_text, ended))
            other = "trained on another number of tokens than standard"
            apart = gaps(own, base, equal_tokens, "loss_difference_at_equal_tokens")
            cells.append(over_seeds(apart, signed_loss, reason or other))
            apart = gaps(own, base, equal_time, "loss_difference_at_equal_time")
            cells.append(over_seeds(apart, signed_loss, reason or "the one had ended before the other was measured"))
        rows.append([*cells, words(hardware_words(hardware))])
    if not rows:
        rows.append([words("this run"), *(missing(NONE) for _ in columns[1:])])
    notes = [
        "Equal time: when the first of the two has ended. The losses there are interpolated over the logarithm of the "
        "tokens. A learning rate falls towards the end of its own run, so a loss read before the end is higher than "
        "that of a run planned to end there: at equal time the slower wiring looks worse than it need be.",
        "Training time: tokens over the record's median tokens per second; validation and checkpoints left out. "
        "Brackets: lowest and highest seed. A model that was not trained with standard is held against the largest "
        "smaller one that was.",
    ]
    return Table("training_time", TITLE, caption(frames, made), columns, rows, notes)


def caption(frames: Frames, made: list[tuple[list[Run], list[Run]]]) -> str:
    if not made:
        return NONE
    told, spreads = [], []
    for own, base in made:
        model, wiring, _ = own[0].key
        speeds = [run.speed for run in own]
        spreads.append(max(speeds) / min(speeds) - 1)
        apart = gaps(own, base, equal_time, "loss_difference_at_equal_time")
        if wiring == "standard" or apart.empty:
            continue
        tokens = gaps(own, base, equal_tokens, "loss_difference_at_equal_tokens")
        checkpoint = {"model": base[0].key[0], "wiring": "standard", "variant": "pretrained"}
        how = verdict({"value": apart["value"].mean()}, floor_of(frames, LOSS, checkpoint))
        words_ = f"{label(frames, wiring, model=model)} ({model}) {signed_loss(apart['value'].mean())}"
        words_ += f" ({signed_loss(tokens['value'].mean())} at equal tokens)" if len(tokens) else ""
        told.append(f"{words_}, {how}" if how == "no floor" else f"{words_}, {how} the noise floor")
    text = f"Validation loss less standard's at equal training time: {'; '.join(told)}. " if told else ""
    text += f"Tokens per second of one wiring differ by up to {percent(max(spreads), 0)} between its seeds. "
    machines = listing(sorted({hardware_words(own[0].key[2]) for own, _ in made}))
    text += f"Times are measured on {machines}"
    if all(run.settings.get("ranks", 1) == 1 for own, _ in made for run in own):
        text += ", one process a run: no wiring communicates there, so these times say nothing of tensor parallelism"
    return text + "."


def training_time_figure(frames: Frames) -> Figure:
    found = runs(frames)
    if not found:
        return Figure("training_time", TITLE, NONE, [empty_panel("training_time", NONE)])
    panels, data = [], []
    for (base, hardware, _), members in by(pairs(found), lambda p: ((p[1] or p[0])[0].key[0], *p[0][0].place)).items():
        size_of = unit(max(run.seconds[-1] for own, _ in members for run in own))
        name = f"training_time-{len(panels)}"
        ends = []
        for own, _ in members:
            loss, seconds = np.mean([(run.losses[-1], run.seconds[-1]) for run in own], axis=0)
            what = f"{label(frames, own[0].key[1], model=own[0].key[0])} ({own[0].key[0]})"
            ends.append(f"{what} {loss:.3f} after {seconds / size_of[1]:.2f} {size_of[0]}")
        alt = f"Validation loss in nats against training time on {hardware_words(hardware)}: {listing(ends)}."

        def draw(axes, members=members, unit_=size_of, base=base):
            draw_curves(axes, frames, members, base, *unit_)

        panels.append(Panel(name, alt, draw, (3.9, 3.1)))
    for run in found:
        rows = zip(run.tokens, run.seconds, run.losses, strict=True)
        what = {key: run.row.get(key) for key in ("model", "wiring", "tp", "seed", "origin", "hardware", "commit")}
        data += [
            what | {"tokens": t, "seconds": s, "loss": loss, "tokens_per_second": run.speed} for t, s, loss in rows
        ]
    text = "A line is the mean over the seeds, dotted of larger models; upright: standard's end. " + caption(
        frames, pairs(found)
    )
    return Figure("training_time", TITLE, text, panels, tidy(data))


def draw_curves(axes, frames: Frames, members: list, base: str, name: str, size: float) -> None:
    labels = []
    for own, _ in members:
        model, wiring, _ = own[0].key
        alike = [run for run in own if len(run.tokens) == len(own[0].tokens)]
        x, y = (np.mean([getattr(run, what) for run in alike], axis=0) for what in ("seconds", "losses"))
        how = look(wiring)
        dashes = how.dashes if model == base else ":"
        axes.plot(x / size, y, dashes, color=how.colour, marker=how.marker, markersize=3.5, linewidth=1.2)
        text = label(frames, wiring, model=model) + ("" if model == base else f", {model}")
        labels.append((x[-1] / size, y[-1], how.colour, text))
        if (model, wiring) == (base, "standard"):
            axes.axvline(x[-1] / size, color=INK, linewidth=0.8, linestyle="--", alpha=0.6)
    axes.set_xlabel(f"training time, {name} ({listing(sorted({own[0].row['origin'] for own, _ in members}))})")
    axes.set_ylabel("validation loss, nats")
    end_labels(axes, labels)


TABLES = [training_time]
FIGURES = [training_time_figure]
