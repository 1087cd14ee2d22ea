"""What this build is made from: its jobs, their hardware, commits and versions; the wirings as the code has them."""

import pandas as pd

from ladder.analysis.frames import Frames
from ladder.looks import family, order
from ladder.wiring import PATTERNS, Wiring, table

EXAMPLES = ("ladder-2", "dtp-1", "desync-2x", "desync-4x")  # of numbered families
FIELDS = ("lag", "joint", "own", "weight")
LAYERS, RANKS = 8, 4  # at which a wiring's rows are read
SOURCES = {
    "parallel": "GPT-J; PaLM",
    "ladder": "arXiv 2501.06589",
    "partial": "FarSkip-Collective",
    "dtp-<k>": "DTP (2026)",
    "spd": "arXiv 2502.20727",
    "desync-<k>x": "Ladder Residual's code",
    "desync-nx": "Ladder Residual's code",
    "fal": "First Attentions Last",
    "fal+": "First Attentions Last",
}


def wirings(frames: Frames) -> pd.DataFrame:
    rows = []
    for wiring in sorted([*PATTERNS, *EXAMPLES], key=order):
        parsed, modules = Wiring.parse(wiring), table(wiring, LAYERS, RANKS)
        row = {"wiring": wiring, "name": parsed.summary.partition(" (")[0], "tied": parsed.tied}
        row |= {"all_reduces": len(modules.launches), "per_layer": len(modules.launches) / LAYERS}
        for field in FIELDS:
            values = dict.fromkeys(getattr(module, field) for module in modules)
            row[f"row_{field}"] = ", ".join(("no", "yes")[v] if isinstance(v, bool) else f"{v:g}" for v in values)
        rows.append(row | {"source": SOURCES.get(family(wiring), "no paper of its own")})
    return pd.DataFrame(rows)


def runs(frames: Frames) -> pd.DataFrame:
    """One row a job, this run's and those that the repository keeps (kept)."""
    rows = []
    for record in frames.records:
        made, row = record["provenance"], record["rows"][0] if record["rows"] else {}
        rows.append({"run": row.get("run") or record["path"], "stage": row.get("stage"), "wall_s": made.get("seconds"),
                     "hardware": made.get("hardware"), "commit": made.get("commit"), "dirty": made.get("dirty"),
                     "config_digest": made.get("config_digest"), "mlflow_run_id": made.get("mlflow_run_id"),
                     "kept": record["kept"], "record": record["path"], "origin": "measured"})  # fmt: skip
    return pd.DataFrame(rows)


def provenance(frames: Frames, profile: str | None) -> dict:
    """Profile, configuration digests, commits, hardware, versions and warnings of this build."""
    own = [record for record in frames.records if not record["kept"]]
    kept = [record for record in frames.records if record["kept"]]
    kept += [record for study in frames.studies.values() for record in study.records]

    def all_of(key: str, records: list[dict]) -> list:
        return sorted({value for record in records if (value := record["provenance"].get(key)) is not None})

    versions: dict[str, set] = {}
    for record in own:
        for name, version in record["provenance"].get("versions", {}).items():
            versions.setdefault(name, set()).add(version)
    commits, digests = all_of("commit", own), all_of("config_digest", own)
    warnings = []
    if len(commits) > 1:
        short = ", ".join(commit[:10] for commit in commits)
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
        "profiles": all_of("profile", own) or ([profile] if profile else []),
        "config_digests": digests,
        "commits": commits,
        "warnings": warnings,
        "hardware": all_of("hardware", own),
        "versions": {name: sorted(found) for name, found in sorted(versions.items())},
        "records": len(own),
        "kept": {"records": len(kept), "hardware": all_of("hardware", kept), "commits": all_of("commit", kept)},
    }


def facts(frames: Frames, profile: str | None) -> pd.DataFrame:
    """The same as names and words."""
    made = provenance(frames, profile)
    kept = made["kept"]
    words = {
        "Profile": made["profiles"],
        "Configuration (sha256)": made["config_digests"],
        "Commit": made["commits"],
        "Hardware": made["hardware"],
        "Records": [str(made["records"])],
        "Kept records": [f"{kept['records']}, made on {', '.join(kept['hardware'])}"] if kept["records"] else [],
        "Versions": [f"{name} {' / '.join(version)}" for name, version in made["versions"].items()],
        "Warnings": made["warnings"],
    }
    return pd.DataFrame([{"name": name, "note": ", ".join(values) or "none"} for name, values in words.items()])
