"""Render tables, figures, claims and the manifest from records and the published numbers.

Reads the --records (files, or directories to look through), the records that the repository keeps (--measured) and the
CSVs of --published. Writes below --out:
records.csv (all rows, tidy), tables/ (a CSV and a page fragment each), figures/ (SVGs, their numbers as CSV, a page
fragment each), summary.json, and last the manifest `all` with the digest of every report file.

    ladder report --records results --published reports/published --config-json '{"name": "default"}' --out reports
"""

import argparse
import json
from pathlib import Path

from ladder.errors import UserError
from ladder.files import digest, sha256, write_json
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.outputs import OutputFolder

WRITTEN = ("records.csv", "analysis", "pages", "tables", "figures", "summary.json", "all")
UI = "http://127.0.0.1:5000/#/experiments/1"  # the address of `mlflow ui`, and the experiment that `ladder init` makes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--records", type=Path, nargs="+", required=True, metavar="PATH", help="records, or directories of them"
    )
    parser.add_argument("--published", type=Path, default=Path("reports/published"), help="directory of published CSVs")
    parser.add_argument("--measured", type=Path, metavar="DIR", help="directory of records of other hardware, kept")
    parser.add_argument(
        "--config-json", default="{}", metavar="JSON", help="the configuration, where there is no --run"
    )
    parser.add_argument(
        "--out",
        action=OutputFolder,
        writes=WRITTEN,
        holds=("published", "measured"),
        default=Path("reports"),
        help="directory to write",
    )
    parser.add_argument(
        "--mlflow-ui", default=UI, metavar="URL", help="where links to runs lead (default: %(default)s)"
    )
    add_job_arguments(parser, record=False)


def main(args: argparse.Namespace) -> None:
    try:
        config = json.loads(args.config_json)
    except json.JSONDecodeError as error:
        raise UserError(f"--config-json is not valid JSON ({error}); quote it for the shell") from None
    if not isinstance(config, dict):
        raise UserError(f'--config-json must be an object like {{"name": "default"}}, not {args.config_json!r}')
    with job(args, "report", args.out.name) as this:
        run = this.run or {"name": config.get("name"), "digest": digest(config) if config else None}
        summary = build(args.records, args.published, run, args.out, args.mlflow_ui, args.measured)
        this.finish([], artifacts=(args.out / "all", args.out / "summary.json"))
    for warning in summary["warnings"]:
        print(f"note: {warning}")
    verdicts = ", ".join(f"{n} {name}" for name, n in summary["claims"].items())
    print(f"{args.out}: {summary['tables']} tables, {summary['figures']} figures; claims: {verdicts}")


def build(
    records: list[Path], published: Path, run: dict, out: Path, ui: str = UI, measured: Path | None = None
) -> dict:
    """Write all reports below ``out``; return the summary. ``run``: name and digest of the configuration, or empty."""
    from ladder.report import (
        adaptation_tables,
        batch_figures,
        benchmark_tables,
        calibration_tables,
        cells,
        claims,
        curve_figures,
        diagrams,
        equal_time,
        frames,
        markup,
        noise_tables,
        quality_figures,
        quality_tables,
        recovery,
        run_tables,
        scale_figures,
        scale_tables,
        sensitivity,
        shape_tables,
        simulator_figures,
        simulator_tables,
        speed_figures,
        speed_tables,
        studies,
        svg,
        wiring_tables,
    )

    data = frames.read(records, published, measured)
    modules = (
        speed_tables,
        shape_tables,
        benchmark_tables,
        simulator_tables,
        calibration_tables,
        scale_tables,
        quality_tables,
        noise_tables,
        studies,
        equal_time,
        adaptation_tables,
        recovery,
        sensitivity,
        wiring_tables,
        run_tables,
    )
    tables = [make(data) for module in modules for make in module.TABLES]
    drawn = (speed_figures, batch_figures, simulator_figures, scale_figures)
    drawn += (quality_figures, noise_tables, studies, equal_time, curve_figures, recovery, sensitivity)
    figures = [make(data) for module in drawn for make in module.FIGURES]
    judged = claims.judge(data)
    provenance = run_tables.provenance(data, run.get("name"))

    written = [out / "records.csv"]
    markup.write_csv(data.ours, written[0])
    for table in tables:
        written += cells.write(table, out / "tables", ui)
    written += claims.write(judged, out / "tables")
    written.append(out / "tables" / "provenance.html")
    run_tables.write_provenance(provenance, written[-1])
    written += svg.write_all(figures, out / "figures")
    written += diagrams.write(out / "figures")

    from ladder.analysis import build as analysis
    from ladder.pages import build as pages

    written += analysis.write(data, out / "analysis")
    written += pages.write(analysis.read(out / "analysis"), out / "pages")
    summary = {
        **provenance,
        "config_digest": run.get("digest"),
        "claims": claims.counts(judged),
        "verdicts": dict(zip(judged["id"], judged["verdict"], strict=True)),
        "hidden": hidden(data),
        "captions": {item.name: item.caption for item in (*tables, *figures)},
        "tables": len(tables),
        "figures": len(figures),
    }
    written.append(out / "summary.json")
    write_json(written[-1], summary)
    files = {path.relative_to(out).as_posix(): sha256(path) for path in written}
    files |= {f"published/{path.name}": sha256(path) for path in sorted(published.glob("*.csv"))}
    write_json(
        out / "all", {**provenance, "config_digest": summary["config_digest"], "files": dict(sorted(files.items()))}
    )
    return summary


def hidden(data) -> list[dict]:
    """What the pipeline's own checks look at: the share hidden in decode, per wiring, rho and clock."""
    from ladder.report.frames import select

    rows = select(data.ours, metric=["hidden_wall", "hidden_virtual", "hidden_schedule"], phase="decode")
    keep = ["model", "tp", "batch", "wiring", "rho", "compute", "metric", "value", "low", "high"]
    return json.loads(rows[keep].to_json(orient="records"))
