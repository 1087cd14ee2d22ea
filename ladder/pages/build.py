"""Render the site's results from records and the published numbers.

Reads the --records (files, or directories to look through), the records that the repository keeps (--measured) and the
CSVs of --published. Writes below --out: records.csv (all rows, tidy), analysis/ (the derived tables as CSVs, and
schema.json), pages/ (of every chart and table a page fragment, of charts the drawings), summary.json, and last the
manifest `all` with the digest of every report file.

    ladder report --records results --published reports/published --config-json '{"name": "default"}' --out reports
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ladder.errors import UserError
from ladder.files import digest, sha256, write_json
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.outputs import OutputFolder

WRITTEN = ("records.csv", "analysis", "pages", "summary.json", "all")


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
        summary = build(args.records, args.published, run, args.out, args.measured)
        this.finish([], artifacts=(args.out / "all", args.out / "summary.json"))
    for warning in summary["warnings"]:
        print(f"note: {warning}")
    verdicts = ", ".join(f"{n} {name}" for name, n in summary["claims"].items())
    print(f"{args.out}: {summary['tables']} derived tables, {summary['fragments']} fragments; claims: {verdicts}")


def pages() -> list:
    """Every page whose numbers come from here."""
    from ladder.pages import adaptation, claims, guide, quality, scale, speed, trust, use

    found = [use.HOME, speed.PAGE, scale.PAGE, quality.PAGE, adaptation.SENSITIVITY, adaptation.PAGE, claims.PAGE]
    return [*found, trust.PAGE, guide.PAGE, use.WIRINGS, use.REPRODUCE]


def build(records: list[Path], published: Path, run: dict, out: Path, measured: Path | None = None) -> dict:
    """Write all reports below ``out``; return the summary. ``run``: name and digest of the configuration, or empty."""
    import vl_convert

    from ladder.analysis import build as analysis
    from ladder.analysis import frames, runs
    from ladder.markup import write_csv
    from ladder.pages.charts import save
    from ladder.pages.claims import counts
    from ladder.pages.page import Sources

    pool = ThreadPoolExecutor(1)  # beside everything else: the bundle takes a second
    bundle = pool.submit(vl_convert.javascript_bundle, "window.vegaEmbed = vegaEmbed;")
    data = frames.read(records, published, measured)
    provenance = runs.provenance(data, run.get("name"))
    written = [out / "records.csv"]
    write_csv(data.ours, written[0])
    written += analysis.write(data, out / "analysis", run.get("name"))
    tables = Sources(analysis.read(out / "analysis"))
    for page in pages():
        written += page.write(tables, out / "pages")
    written.append(out / "pages" / "vega.js")
    save(written[-1], f"(() => {{{bundle.result()}}})();\n")
    judged = tables["claims"]
    summary = {
        **provenance,
        "config_digest": run.get("digest"),
        "claims": counts(tables),
        "verdicts": dict(zip(judged["id"], judged["verdict"], strict=True)),
        "tables": len(tables),
        "fragments": sum(path.suffix == ".html" for path in written),
    }
    written.append(out / "summary.json")
    write_json(written[-1], summary)
    files = {path.relative_to(out).as_posix(): sha256(path) for path in written}
    files |= {f"published/{path.name}": sha256(path) for path in sorted(published.glob("*.csv"))}
    manifest = {**provenance, "config_digest": summary["config_digest"], "files": dict(sorted(files.items()))}
    write_json(out / "all", manifest)
    return summary
