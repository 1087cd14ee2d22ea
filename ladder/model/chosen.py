"""Layers that a scan has chosen: which of its sets fits a budget, and whether the record is of the model at hand."""

from pathlib import Path

from ladder import records
from ladder.errors import UserError
from ladder.files import digest
from ladder.model.opened import Checkpoint
from ladder.reading import take

# metrics: the change of the loss with a layer alone converted, the last so many, or a chosen set
ALONE, LAST, CHOSEN, RECOMMENDED = "loss_change_alone", "loss_change", "loss_change_chosen", "recommended_layers"
FREE = 0.01  # nats: smaller changes of the loss do not matter
VOLATILE = ("transformers_version", "dtype", "torch_dtype", "use_cache", "_name_or_path", "_model_name_or_path")


def architecture(checkpoint: Checkpoint) -> dict:
    """What a model has in common with all that the same layers can be chosen for: their number, the configuration."""
    config = {key: value for key, value in checkpoint.rewired("standard").items() if key not in VOLATILE}
    return {"layers": checkpoint.config["num_hidden_layers"], "config_digest": digest(config)}


def fitting(steps: list[dict], layers: int | None, budget: float | None, name: str) -> dict:
    """Of a choice's rows the one of so many ``layers``, or the last that costs at most ``budget`` nats, or that is
    free. Raises UserError, which begins with ``name``, where no set fits."""
    if layers is not None:
        if not 1 <= layers <= len(steps):
            raise UserError(f"{name}: holds no set of --layers {layers}; give 1 to {len(steps)}")
        return steps[layers - 1]
    fit = [row for row in steps if row["value"] <= (max(FREE, 2 * row["stderr"]) if budget is None else budget)]
    if not fit:
        cheapest = min(steps, key=lambda row: row["value"])
        raise UserError(
            f"{name}: no set of layers is within --budget {budget or 0:g}; the cheapest (layers {cheapest['layers']}) "
            f"costs {cheapest['value']:.4f} nats"
        )
    return fit[-1]


def from_record(
    record: Path, checkpoint: Checkpoint, wiring: str | None, layers: int | None, budget: float | None
) -> tuple[str, int | None]:
    """(wiring with its layers, tensor-parallel degree) that the record of `ladder sensitivity` has for a checkpoint.

    wiring: which of those scanned, needed where there are several; layers, budget: see :func:`fitting`; neither: what
    the record recommends. Raises UserError for a record of another model or without such a choice.
    """
    content = records.read(record)
    scanned = take(content.get("settings") or {}, "model", dict, f"{record}: not a record of `ladder sensitivity`")
    for key, value in architecture(checkpoint).items():
        if scanned.get(key) != value:
            raise UserError(
                f"{record}: is of another model: its {key} is {scanned.get(key)}, and here it is {value}; scan this "
                "model with `ladder sensitivity`"
            )
    rows = [row for row in content["rows"] if row["metric"] in (CHOSEN, RECOMMENDED) and "layers" in row]
    names = sorted({row["wiring"] for row in rows})
    if wiring not in names and (wiring or len(names) != 1):
        raise UserError(f"{record}: it chose layers for --wiring {', '.join(names)}, not {wiring}; name one of those")
    chosen = [row for row in rows if row["wiring"] == (wiring or names[0])]
    if layers is None and budget is None:
        fit = [row for row in chosen if row["metric"] == RECOMMENDED]
        if not fit:
            raise UserError(f"{record}: recommends no layers; say how many (--layers) or at what cost (--budget)")
        row = fit[0]
    else:
        row = fitting([row for row in chosen if row["metric"] == CHOSEN], layers, budget, str(record))
    return f"{row['wiring']}@{row['layers']}", row.get("tp")
