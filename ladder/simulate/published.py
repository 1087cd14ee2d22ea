"""The published speed numbers as points: which of them calibrate, which validate, and which are never scored, and why.

`ladder calibrate` and `ladder simulate validate` read what `ladder simulate rows` writes.
"""

import argparse
import csv
from pathlib import Path

from ladder.errors import UserError
from ladder.files import atomic_write
from ladder.outputs import OutputFile
from ladder.reading import number, read_csv, whole
from ladder.simulate.points import COLUMNS

VALUES = ("tokens_per_s", "prefill_s", "decode_s", "speedup", "memory_gb")
FIELDS = (*COLUMNS, "implementation", *VALUES, "set", "use", "reason", "source")
USES = ("calibration", "link", "validation", "excluded")
PROTOCOL = {"prompt": 1024, "new_tokens": 512, "hardware": "h100", "implementation": "published"}
MODELS = {
    "1B": "paper-1b",
    "3B": "paper-3b-timed",
    "8B": "llama-3-8b",
    "34B": "codellama-34b",
    "70B": "llama-3-70b",
    "405B": "llama-3.1-405b",
}
LINKS = {"enabled": "nvlink", "disabled": "nvlink-p2p-off"}
ACROSS = {"enabled": "ib-ndr-2node", "disabled": "ib-ndr-2node-p2p-off"}  # 405B, on two nodes
REPEATED = "the same run as in Figure 2"
COMPILING = "the average includes a compiling iteration"
REPEAT = "a repeat of Figure 2: says how far repeats differ"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--published", type=Path, default=Path("reports/published"), help="directory of published CSVs")
    parser.add_argument("--out", action=OutputFile, required=True, metavar="CSV", help="points to write")


def main(args: argparse.Namespace) -> None:
    found = rows(args.published)
    with atomic_write(args.out) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    counts = ", ".join(f"{sum(row['use'] == use for row in found)} {use}" for use in USES)
    print(f"{args.out}: {len(found)} published points: {counts}")


def rows(published: Path) -> list[dict]:
    """All published speed numbers of one point each, as dicts of FIELDS. Raises UserError for a missing file."""
    logs = _logs(published)
    return [
        *_figure2(published, logs),
        *_figure3(published),
        *_table1(published),
        *_blog(published),
        *_repeats(logs),
    ]


NEEDED = ("table", "version", "model", "architecture", "tp", "batch", "p2p", "metric", "value", "source", "note")


def _read(published: Path, name: str) -> list[dict]:
    path = published / f"{name}.csv"
    if not path.exists():
        raise UserError(f"{path}: no such file; the repository keeps it in reports/published")
    rows = []
    for where, row in read_csv(path, NEEDED):
        try:
            number(row["value"]), whole(row["tp"]), row["batch"] and number(row["batch"])
        except ValueError as error:
            raise UserError(f"{where}: value, tp or batch: {error}") from None
        rows.append(row)
    return rows


def _row(row: dict, links: dict = LINKS, batch: int | None = None, **values) -> dict:
    p2p = row["p2p"].split()[0]
    point = {"model": MODELS[row["model"]], "wiring": row["architecture"], "tp": int(row["tp"]), "link": links[p2p]}
    point["batch"] = int(float(row["batch"])) if batch is None else batch
    return {"use": "validation", "reason": "", **PROTOCOL, **point, "source": row["source"], **values}


def _cell(row: dict) -> tuple:
    return (row["model"], row["wiring"], row["tp"], row["batch"], row["link"])


def calibrates(row: dict) -> bool:
    """Whether a 70B point is one of the 28 that the default calibration is fitted to.

    Standard on both links and upper_bound with peer-to-peer, at batch 1, 4 and 64 and every TP degree; ladder at TP 8
    and batch 1 and 64 on both links.
    """
    if row["wiring"] == "ladder":
        return row["tp"] == 8 and row["batch"] in (1, 64)
    both = {"standard": LINKS.values(), "upper_bound": ["nvlink"]}
    return row["batch"] in (1, 4, 64) and row["link"] in both.get(row["wiring"], [])


def _figure2(published: Path, logs: dict) -> list[dict]:
    found = []
    for row in _read(published, "fig2_70b_throughput"):
        new = _row(row, tokens_per_s=float(row["value"]), set="70B, Figure 2")
        log = logs.get(("arxiv", *_cell(new)), {})
        if log and log["use"] != "excluded":  # the same benchmark, though not always the same run
            new |= {key: log[key] for key in ("prefill_s", "memory_gb") if key in log}
            new["source"] += f"; prefill and memory: {log['source']}"
        if calibrates(new):
            new["use"] = "calibration"
        found.append(new)
    return found


def _figure3(published: Path) -> list[dict]:
    found = []
    for row in _read(published, "fig3_405b_speedup"):
        new = _row(row, ACROSS, speedup=float(row["value"]), set="405B, Figure 3")
        if new["wiring"] == "upper_bound":
            new |= {"use": "link", "reason": "the two-node link's cost comes from these rows"}
        found.append(new)
    return found


def _table1(published: Path) -> list[dict]:
    """The paper does not say the batch; the authors' logs agree with these numbers at batch 4."""
    odd = "disagrees with the authors' other data"
    never = {"34B": odd, "176B": odd}
    found = []
    for row in _read(published, "table1_speedup_by_model_size"):
        if row["model"] not in MODELS:
            continue
        new = _row(row, ACROSS if row["model"] == "405B" else LINKS, 4, speedup=float(row["value"]), set="Table 1")
        if row["model"] in never:
            new |= {"use": "excluded", "reason": never[row["model"]]}
        if row["model"] == "70B" and row["p2p"] == "disabled":
            new |= {"use": "excluded", "reason": "not borne out by the authors' other runs (about 1.5)", "batch": 1}
        found.append(new)
    return found


def _blog(published: Path) -> list[dict]:
    found = []
    for row in _read(published, "blog_tables"):
        if row["metric"] != "tokens/s":
            continue
        new = _row(row, tokens_per_s=float(row["value"]))
        if row["table"].endswith("by batch size"):
            new["set"] = "70B, blog"
            if new["batch"] in (1, 4, 16, 64):
                new |= {"use": "excluded", "reason": REPEATED}
        else:
            new["set"] = "by size, blog"
            reasons = {"1B": "another shape: Llama 3.2 1B", "3B": "another shape: Llama 3.2 3B"}
            reasons["34B"] = "a copy of the 70B row at batch 16"
            if row["model"] in reasons:
                new |= {"use": "excluded", "reason": reasons[row["model"]]}
        found.append(new)
    return found


def _logs(published: Path) -> dict[tuple, dict]:
    """The authors' logs by folder and point."""
    keys = {"prefill latency": "prefill_s", "decode latency": "decode_s", "tokens/s": "tokens_per_s"}
    keys["memory reserved"] = "memory_gb"
    found: dict[tuple, dict] = {}
    for row in _read(published, "author_logs"):
        new, folder = _row(row), row["version"].partition("/")[2]
        kept = found.setdefault((folder, *_cell(new)), new | {"set": f"{row['model']}, {row['version']}"})
        kept[keys[row["metric"]]] = float(row["value"])
        if row["note"]:
            kept |= {"use": "excluded", "reason": COMPILING}
    return found


def _repeats(logs: dict) -> list[dict]:
    """The logs as points of their own: 8B validates; 70B is Figure 2 again, and says how far repeats differ."""
    found = []
    for (_folder, model, *_), row in logs.items():
        if model == MODELS["70B"] and row["use"] != "excluded":
            row = row | {"use": "excluded", "reason": REPEAT}
        found.append(row)
    return found
