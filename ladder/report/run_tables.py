"""Tables about the run itself, and about what is claimed elsewhere."""

from pathlib import Path

from ladder.files import atomic_write
from ladder.report.cells import Cell, Column, Table, missing, words
from ladder.report.frames import Frames
from ladder.report.markup import escape
from ladder.report.style import listing

KEPT = "not of this run: kept in reports/measured"


def headline(frames: Frames) -> Table:
    columns = [Column("Claim", words=True), Column("Value"), Column("Setting", words=True)]
    columns += [Column("Where", words=True), Column("Remark", words=True)]
    rows, contradictions = [], 0
    units = {"percent": " %", "text": "", "points": " points", "billion tokens": " billion tokens"}
    for row in frames.claims.to_dict("records"):
        contradictions += "CONTRADICT" in row["note"]
        tidy = {"metric": row["claim"], "unit": row["unit"], "origin": "published", "source": row["source"]}
        tidy |= {"value": row["value"], "note": "; ".join(filter(None, (row["setting"], row["note"])))}
        number = Cell(row["value"] + units.get(row["unit"], f" {row['unit']}"), row["value"].lstrip(">"), (tidy,))
        note = row["note"].replace("CONTRADICTION", "contradiction").replace("CONTRADICTS", "contradicts")
        setting = words(row["setting"]) if row["setting"] else missing("the source does not say")
        rows.append([words(row["claim"]), number, setting, words(row["source"]), words(note or "none")])
    caption = (
        f"Of {len(rows)} headline numbers in circulation, {contradictions} are marked as contradicting another source."
    )
    return Table("headline_claims", "Headline claims, and where they contradict each other", caption, columns, rows)


def runs(frames: Frames) -> Table:
    columns = [
        Column("Job", words=True),
        Column("Stage", words=True),
        Column("Seconds"),
        Column("Hardware", words=True),
    ]
    columns += [Column("Commit", words=True), Column("MLflow run", words=True)]
    rows, hardware = [], set()
    for record in frames.records:
        provenance, row = record["provenance"], record["rows"][0] if record["rows"] else {}
        name, seconds = row.get("run") or record["path"], provenance.get("seconds")
        tidy = {"run": name, "stage": row.get("stage"), "metric": "wall_seconds", "value": seconds, "unit": "s"}
        tidy |= {
            "origin": "measured",
            **{k: provenance.get(k) for k in ("commit", "config_digest", "hardware", "mlflow_run_id")},
        }
        if not record["kept"]:
            hardware.add(provenance.get("hardware"))
        commit, run_id = provenance.get("commit"), provenance.get("mlflow_run_id")
        cells = [words(name), words(row.get("stage") or "–", note=KEPT if record["kept"] else "")]
        cells.append(Cell(f"{seconds:.0f}", seconds, (tidy,)) if seconds is not None else missing("not recorded"))
        cells.append(words(provenance.get("hardware") or "–"))
        cells.append(
            words(commit[:10] + ("+" if provenance.get("dirty") else ""))
            if commit
            else missing("not in a git checkout")
        )
        cells.append(words(run_id) if run_id else missing("tracking was off or unreachable"))
        rows.append(cells)
    own = [record for record in frames.records if not record["kept"]]
    total = sum(record["provenance"].get("seconds") or 0 for record in own)
    machines = listing(sorted(filter(None, hardware))) or "no hardware"
    caption = f"{len(own)} jobs, {total:,.0f} s of work in all, on {machines}."
    if len(own) < len(rows):
        caption += f" {len(rows) - len(own)} more records were made elsewhere and are kept in the repository."
    if frames.studies:
        caption += f" Kept trainings, not listed here: {listing(frames.studies)}."
    notes = ["A + after the commit: tracked files differed from it."]
    return Table("runs", "The jobs behind this build", caption, columns, rows, notes)


def provenance(frames: Frames, profile: str | None) -> dict:
    """What this build is made from: profile, configuration digests, commits, hardware, versions, warnings."""

    own = [record for record in frames.records if not record["kept"]]
    kept = [record for record in frames.records if record["kept"]]
    kept += [record for study in frames.studies.values() for record in study.records]

    def all_of(key: str, records: list[dict] = own) -> list:
        found = {record["provenance"].get(key) for record in records}
        return sorted(value for value in found if value is not None)

    versions: dict[str, set] = {}
    for record in own:
        for name, version in record["provenance"].get("versions", {}).items():
            versions.setdefault(name, set()).add(version)
    warnings = []
    commits, digests = all_of("commit"), all_of("config_digest")
    if len(commits) > 1:
        short = listing(commit[:10] for commit in commits)
        warnings.append(
            f"The records come from {len(commits)} commits ({short}); delete results/ to make all of them anew."
        )
    if any(record["provenance"].get("dirty") for record in own):
        warnings.append("Some records were made while tracked files differed from their commit.")
    if len(digests) > 1:
        warnings.append(f"The records come from {len(digests)} configurations.")
    if not own:
        warnings.append("This run has no records: only published numbers and kept records are shown.")
    return {
        "profiles": all_of("profile") or ([profile] if profile else []),
        "config_digests": digests,
        "commits": commits,
        "warnings": warnings,
        "hardware": all_of("hardware"),
        "versions": {name: sorted(found) for name, found in sorted(versions.items())},
        "records": len(own),
        "kept": {"records": len(kept), "hardware": all_of("hardware", kept), "commits": all_of("commit", kept)},
    }


def write_provenance(found: dict, path: Path) -> None:
    """The same as a small table for the page."""
    facts = {
        "Profile": found["profiles"],
        "Configuration (sha256)": found["config_digests"],
        "Commit": found["commits"],
        "Hardware": found["hardware"],
        "Records": [str(found["records"])],
        "Kept records": [f"{found['kept']['records']}, made on {listing(found['kept']['hardware'])}"]
        if found["kept"]["records"]
        else ["none"],
        "Versions": [f"{name} {' / '.join(version)}" for name, version in found["versions"].items()],
        "Warnings": found["warnings"] or ["none"],
    }
    rows = [
        f'<tr><th scope="row">{name}</th><td>{escape(", ".join(values) or "not recorded")}</td></tr>'
        for name, values in facts.items()
    ]
    with atomic_write(path) as part:
        part.write_text(
            '<div class="results">'
            '<div class="scroll" role="region" tabindex="0" aria-label="Provenance of this build">\n'
            f"<table>\n<tbody>\n{chr(10).join(rows)}\n</tbody>\n</table>\n</div></div>\n",
            encoding="utf-8",
        )


TABLES = [headline, runs]
