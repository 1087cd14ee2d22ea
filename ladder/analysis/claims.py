"""The claims of claims.yaml, judged."""

from pathlib import Path

import pandas as pd
import yaml

from ladder.analysis import rules
from ladder.analysis.frames import Frames

SUPPORTED, SMALL, NOT_SUPPORTED = "supported", "shown in the small", "not supported"
NOT_TESTED = "not tested at this scale"
VERDICTS = (SUPPORTED, SMALL, NOT_SUPPORTED, NOT_TESTED)


def known() -> list[dict]:
    return yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text(encoding="utf-8"))[1:]


def judge(frames: Frames, tables: rules.Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(claims with their verdicts, the numbers behind them)."""
    claims, behind = [], []
    for claim in known():
        found = getattr(rules, claim["rule"])(tables, **claim.get("arguments", {}), **claim["thresholds"])
        if isinstance(found, str):
            verdict, reason, found = NOT_TESTED, found, []
        else:
            holds = all(row["holds"] for row in found if row["holds"] is not None)
            verdict, reason = (SMALL if claim.get("small") else SUPPORTED) if holds else NOT_SUPPORTED, None
        row = {key: claim.get(key) for key in ("id", "claim", "written", "changed")} | {
            "verdict": verdict,
            "reason": reason,
        }
        row |= {"rule": claim["words"].format(**claim["thresholds"]), "small": bool(claim.get("small"))}
        claims.append(row | {"published": published(frames, claim["published"])})
        behind += [{"id": claim["id"]} | one for one in found]
    return pd.DataFrame(claims), pd.DataFrame(behind)


def published(frames: Frames, wanted: dict[str, str]) -> str:
    """The published numbers as the CSVs have them: "ladder 1.39 x (1B, TP 8, tokens/s speedup over standard); ..."."""
    told = []
    for file, where in wanted.items():
        if file == "headline_claims":
            rows = frames.claims.query(where).to_dict("records")
            told += [f"{row['value']} {row['unit']} ({row['source'].split(';')[0]})" for row in rows]
            continue
        rows = frames.published[frames.published["file"] == file].query(where)
        for (model, metric), group in rows.groupby(["model", "metric"], sort=False):
            cells = []
            for row in group.to_dict("records"):
                setting = [f"batch {row['batch']:g}"] if pd.notna(row["batch"]) and group["batch"].nunique() > 1 else []
                setting += [f"P2P {row['p2p']}"] if row["p2p"] and group["p2p"].nunique() > 1 else []
                setting += [row["note"]] if file == "others_quality" else []
                cells.append(
                    " ".join([row["wiring"].replace("_", " "), f"{row['value']:.4g}", *(f"({s})" for s in setting)])
                )
            told.append(f"{model}, {metric}: {', '.join(cells)}")
    return "; ".join(told)


def headlines(frames: Frames) -> pd.DataFrame:
    """Numbers in circulation, as they are quoted."""
    rows = frames.claims.rename(columns={"value": "quoted"})
    return rows.assign(contradicts=rows["note"].str.contains("CONTRADICT"), origin="published")
