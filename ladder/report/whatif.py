"""Write the simulator's tables and parameters as JSON: all that the what-if page needs, which computes in the browser.

    ladder simulate page --out reports/whatif.html

A file that ends in .html holds the JSON as an element that a page can include. The equations are in
site/assets/js/simulate.js; a test holds them against this package's.
"""

import argparse
import re
from dataclasses import asdict
from pathlib import Path

from ladder import cost
from ladder.devices import DEVICES
from ladder.files import atomic_write, write_json
from ladder.links import ALIASES, rows
from ladder.looks import COMMUNICATION, HYBRIDS, look
from ladder.markup import script
from ladder.model.sizes import SIZES
from ladder.outputs import OutputFile
from ladder.schedule import order
from ladder.simulate.calibration import ASSUMED, DEFAULT, Calibration, load
from ladder.simulate.implementation import IMPLEMENTATIONS
from ladder.simulate.model import STEP
from ladder.simulate.seconds import LARGE, SMALL

# In the page's order; the hybrid's last half of the layers is ladder.
WIRINGS = ("standard", "parallel", "spd", "desync-2x", "fal", "ladder@{half}-{last}", "desync-4x")
WIRINGS += ("ladder", "partial", "ladder-2", "upper_bound")
VOCAB = 32000  # smaller vocabularies are those of the shapes that a CPU trains
SHAPE = ("layers", "hidden", "heads", "kv_heads", "intermediate", "vocab", "tied", "parameters")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calibration", type=Path, default=DEFAULT, metavar="JSON", help="of `ladder calibrate`")
    parser.add_argument(
        "--out", action=OutputFile, required=True, metavar="FILE", help=".json, or .html for a page's element"
    )


def main(args: argparse.Namespace) -> None:
    content = tables(load(args.calibration))
    if args.out.suffix == ".html":
        with atomic_write(args.out) as part:
            part.write_text(script("whatif-data", content), encoding="utf-8")
    else:
        write_json(args.out, content)
    print(
        f"{args.out}: {len(content['sizes'])} models, {len(content['devices'])} devices, {len(content['links'])} links"
    )


def tables(calibration: Calibration) -> dict:
    """Plain values in the units of the tables: bytes, bytes/s, FLOP/s, microseconds where a name says so."""
    sizes = {name: row for name, row in SIZES.items() if row.vocab >= VOCAB}
    devices = [*DEVICES.values(), *([calibration.device] if calibration.device else [])]
    links = [{key: value for key, value in row.items() if key != "source"} for row in rows()]
    layers = sorted({row.layers for row in sizes.values()})
    return {
        "sizes": {name: {key: getattr(row, key) for key in SHAPE} for name, row in sizes.items()},
        "devices": {row.name: asdict(row) for row in devices},
        "links": {row["name"]: row for row in links},
        "aliases": ALIASES,
        # other precisions are for CPUs, where no device of the table is
        "implementations": {name: asdict(how) for name, how in IMPLEMENTATIONS.items() if how.dtype_bytes == 2},
        "calibration": {
            "name": calibration.name,
            "hardware": calibration.hardware,
            "parameters": calibration.parameters,
            "fitted": calibration.fitted,
            "covariance": calibration.covariance.tolist(),
            "residual": calibration.residual,
            "quantile": calibration.quantile,
        },
        "assumed": ASSUMED,
        "constants": {
            "gib": cost.GIB,
            "small": SMALL,
            "large": LARGE,
            "reserved": cost.RESERVED,
            "context": cost.CONTEXT,
            "step": STEP,
        },
        "orders": {n: {wiring: packed(order(wiring, n)) for wiring in wirings(n)} for n in layers},
        "looks": looks(),
        "communication": COMMUNICATION,
    }


def wirings(layers: int) -> list[str]:
    """The names of WIRINGS in a model of so many layers."""
    return [name.format(half=layers // 2, last=layers - 1) for name in WIRINGS]


def packed(letters: str) -> str:
    """``clclclcl`` -> ``(cl)4``; the rest stands as it is."""
    return re.sub(r"(.{1,16}?)\1{2,}", lambda found: f"({found[1]}){len(found[0]) // len(found[1])}", letters)


def looks() -> dict[str, dict]:
    """Label, colour and dashes of each wiring; the hybrid, whose name depends on the model, is called ``ladder@``."""
    found = {re.sub("@.*", "@", name): asdict(look(name)) for name in wirings(4)}
    colour, _, dashes = HYBRIDS[0]
    found["ladder@"] |= {"label": "ladder, last half", "colour": colour, "dashes": dashes}
    return found
