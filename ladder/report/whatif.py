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
from ladder.model.shapes import EXPERTS, FAMILIES, MOST, UNCOUNTED, published
from ladder.model.sizes import SIZES, Size
from ladder.outputs import OutputFile
from ladder.reading import read_csv, read_json
from ladder.simulate.calibration import ASSUMED, DEFAULT, Calibration, load
from ladder.simulate.implementation import IMPLEMENTATIONS
from ladder.simulate.model import STEP
from ladder.simulate.published import rows as rows_of
from ladder.simulate.seconds import LARGE, ROUTING, SMALL

# In the page's order; the hybrid's last layers are ladder.
WIRINGS = ("standard", "parallel", "spd", "desync-2x", "fal", "ladder@", "desync-4x", "ladder", "partial", "ladder-2")
WIRINGS += ("upper_bound",)
# Links on which an engine's one-shot all-reduce runs, and how fast it is there. Others lack peer-to-peer access.
ONE_SHOT = dict.fromkeys(("nvlink", "h100-nvlink", "h200-nvlink", "nvlink-one-shot"), "nvlink-one-shot")
PAIR = ("standard", "ladder")
VOCAB = 32000  # smaller vocabularies are those of the shapes that a CPU trains
FREE = ("positions", "rope_theta", "rope_factor", "eps", "family", "origin")  # of a size, without a cost


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calibration", type=Path, default=DEFAULT, metavar="JSON", help="of `ladder calibrate`")
    parser.add_argument("--published", type=Path, default=Path("reports/published"), help="directory of published CSVs")
    parser.add_argument("--measured", type=Path, default=Path("reports/measured"), help="directory of kept records")
    parser.add_argument(
        "--out", action=OutputFile, required=True, metavar="FILE", help=".json, or .html for a page's element"
    )


def main(args: argparse.Namespace) -> None:
    content = tables(load(args.calibration))
    content["table1"] = table1(rows_of(args.published), args.measured)
    content["conversions"] = conversions(args.published)
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
    sizes = {name: row for name, row in (SIZES | published()).items() if row.vocab >= VOCAB}
    devices = [*DEVICES.values(), *([calibration.device] if calibration.device else [])]
    links = [{key: value for key, value in row.items() if key != "source"} for row in rows()]
    return {
        "sizes": {name: shape(row) for name, row in sizes.items()},
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
            "routing": ROUTING,
            "reserved": cost.RESERVED,
            "context": cost.CONTEXT,
            "step": STEP,
        },
        "wirings": WIRINGS,
        "shapes": {"families": FAMILIES, "most": MOST, "experts": EXPERTS, "uncounted": UNCOUNTED},
        "one_shot": ONE_SHOT,
        "looks": looks(),
        "communication": COMMUNICATION,
    }


def shape(row: Size) -> dict:
    """All of a size that costs something."""
    of = {key: value for key, value in asdict(row).items() if key not in FREE}
    return of | {"head": row.head, "parameters": row.parameters}


def table1(points: list[dict], measured: Path) -> list[dict]:
    """The rows of the paper's Table 1: what is published, what the authors' logs have at the same point, what was
    measured here at that model's widths. Where a prediction is not comparable, ``reason`` says why."""
    places = ("model", "tp", "batch", "link")
    logs = {(*(row[key] for key in places), row["wiring"]): row for row in points if "Table" not in row["set"]}
    found = []
    for row in points:
        if row["set"] != "Table 1" or row["wiring"] != "ladder":
            continue
        at = {key: row[key] for key in (*places, "prompt", "new_tokens", "hardware", "implementation")}
        both = [logs.get((*(row[key] for key in places), wiring), {}).get("tokens_per_s") for wiring in PAIR]
        log = both[1] / both[0] if all(both) else None
        found.append({"at": at, "published": row["speedup"], "log": log, "reason": row["reason"]})
    return [row | {"here": here(row["at"]["model"], measured)} for row in found]


def here(model: str, measured: Path) -> dict | None:
    """What real ranks at the widths of ``model`` measured in ``measured``: ladder's speed-up, and where."""
    for path in sorted(measured.rglob("network-*.json")):
        for row in read_json(path)["rows"]:
            key = tuple(row.get(name) for name in ("metric", "wiring", "origin", "phase"))
            if key == ("speedup", "ladder", "measured", "both") and row["model"].startswith(f"{model}-"):
                return {name: row[name] for name in ("value", "low", "high", "model", "tp", "link")}
    return None


def conversions(published: Path) -> list[dict]:
    """What retraining with the last layers as ladder cost a published model: its layers, and points of the average."""
    rows = [row for _, row in read_csv(published / "table4_adaptation.csv", ("model", "architecture", "metric"))]
    rows = [row for row in rows if row["metric"] == "Average" and row["version"].startswith("A:")]
    before = next(row for row in rows if row["architecture"] == "standard")
    found = []
    for row in rows:
        if last := re.search(r"(\d+)L-retrained", row["model"]):
            loss = round(float(before["value"]) - float(row["value"]), 2)
            of = SIZES["llama-3.1-8b"].layers
            found.append({"model": before["model"], "converted": int(last[1]), "layers": of, "loss": loss})
    return found


def looks() -> dict[str, dict]:
    """Label, colour and dashes of each wiring; the hybrid, whose name depends on the model, is called ``ladder@``."""
    known = {name: asdict(look(name)) for name in WIRINGS if name != "ladder@"}
    colour, _, dashes = HYBRIDS[0]
    known["ladder@"] = known["ladder"] | {"label": "ladder, last layers", "colour": colour, "dashes": dashes}
    return known
