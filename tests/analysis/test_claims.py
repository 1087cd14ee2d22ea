"""The rules of the claims, each verdict on frames made for it."""

import pytest
import toy_records

from ladder.analysis import build, claims, frames, rules
from ladder.analysis.claims import NOT_SUPPORTED, NOT_TESTED, SMALL, SUPPORTED, VERDICTS

SPEED = {"stage": "bench", "run": "r", "tp": 8, "batch": 1, "prompt": 1024, "new_tokens": 512, "origin": "measured"}


def judged(folder, published, measured=None):
    data = frames.read([folder], published, measured)
    return claims.judge(data, {name: build.TABLES[name](data) for name in rules.READ})


def verdicts(folder, published):
    """The verdicts; what is shown in the small counts as supported."""
    found, behind = judged(folder, published)
    assert set(found["verdict"]) <= set(VERDICTS)
    tested = found["verdict"] != NOT_TESTED
    assert found["reason"].notna().equals(~tested)
    assert set(found.loc[tested, "id"]) == (set(behind["id"]) if len(behind) else set())
    return found.set_index("id")["verdict"].replace(SMALL, SUPPORTED).to_dict()


def test_nothing_is_judged_without_records(tmp_path, published):
    assert set(verdicts(tmp_path, published).values()) == {NOT_TESTED}


def test_identities_are_unique_and_every_rule_is_written_out():
    known = claims.known()
    assert len({claim["id"] for claim in known}) == len(known)
    for claim in known:
        assert "upported if" in claim["words"]
        assert "{" not in claim["words"].format(**claim["thresholds"])
        assert "commit" in claim["written"]


def test_what_a_toy_or_an_emulation_supports_is_shown_in_the_small(records, published):
    found, _ = judged(records, published)
    state = found.set_index("id")["verdict"]
    assert state["hides-decode"] == state["quality-small"] == SMALL
    assert SUPPORTED not in set(state[found.set_index("id")["small"]])


def test_toy_records(records, published):
    found = verdicts(records, published)
    for name in ("hides-decode", "beats-parallel", "quality-small", "as-good-as-parallel", "half-recovers"):
        assert found[name] == SUPPORTED, name
    assert found["five-eighths-costs"] == found["distillation"] == SUPPORTED
    assert found["larger-ladder"] == NOT_TESTED  # better, but not timed at that shape
    assert found["70b-29"] == NOT_TESTED


@pytest.mark.parametrize(
    ("slower", "hides", "beats"),
    [({"ladder": 1.25}, NOT_SUPPORTED, NOT_SUPPORTED), ({"parallel": 1.3}, SUPPORTED, SUPPORTED)],
)
def test_speed_rules_can_fail(tmp_path, published, slower, hides, beats):
    toy_records.speed(tmp_path, slower=slower)
    found = verdicts(tmp_path, published)
    assert (found["hides-decode"], found["beats-parallel"]) == (hides, beats)


def test_speed_rules_pass_over_points_of_few_rounds(tmp_path, published, monkeypatch):
    toy_records.speed(tmp_path)
    assert verdicts(tmp_path, published)["beats-parallel"] == SUPPORTED
    known = claims.known()
    for claim in known:
        claim["thresholds"] |= {"rounds": 60} if "rounds" in claim["thresholds"] else {}  # they have 59
    monkeypatch.setattr(claims, "known", lambda: known)
    found = verdicts(tmp_path, published)
    assert found["beats-parallel"] == found["hides-decode"] == NOT_TESTED


@pytest.mark.parametrize(("ladder", "verdict"), [(5.5, SUPPORTED), (5.6, NOT_SUPPORTED), (5.0, SUPPORTED)])
def test_quality_rule(tmp_path, published, ladder, verdict):
    for wiring, loss in (("standard", 5.4), ("parallel", 5.4), ("ladder", ladder)):
        toy_records.training(tmp_path, "pretrain", "tiny", wiring, 0, loss)
    assert verdicts(tmp_path, published)["quality-small"] == verdict


def test_quality_rule_forgives_what_seeds_do(tmp_path, published):
    for wiring, losses in (("standard", (5.0, 5.6)), ("ladder", (5.3, 5.7))):
        for seed, loss in enumerate(losses):
            toy_records.training(tmp_path, "pretrain", "tiny", wiring, seed, loss)
    assert verdicts(tmp_path, published)["quality-small"] == SUPPORTED


@pytest.mark.parametrize(("loss", "verdict"), [(5.3, NOT_TESTED), (5.45, NOT_SUPPORTED)])
def test_larger_ladder_needs_quality_and_speed(tmp_path, published, loss, verdict):
    toy_records.training(tmp_path, "pretrain", "tiny", "standard", 0, 5.4)
    toy_records.training(tmp_path, "pretrain", "tiny-larger", "ladder", 0, loss)
    assert verdicts(tmp_path, published)["larger-ladder"] == verdict


@pytest.mark.parametrize(
    ("converted", "adapted", "verdict"),
    [(110, 96, SUPPORTED), (110, 105, NOT_SUPPORTED), (99, 96, NOT_TESTED)],
)
def test_drop_and_recovery(tmp_path, published, converted, adapted, verdict):
    toy_records.evaluation(tmp_path, "tiny", "standard", "pretrained", 0, 100, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "standard", "adapted", 0, 95, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "ladder@5-9", "converted", 0, converted, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "ladder@5-9", "adapted", 0, adapted, 0.3)
    assert verdicts(tmp_path, published)["half-recovers"] == verdict


@pytest.mark.parametrize(
    ("converted", "adapted", "verdict"),
    [(110, 105, SUPPORTED), (110, 96, NOT_SUPPORTED), (101, 105, NOT_TESTED)],
)
def test_five_eighths(tmp_path, published, converted, adapted, verdict):
    toy_records.evaluation(tmp_path, "tiny", "standard", "pretrained", 0, 100, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "standard", "adapted", 0, 95, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "ladder@5-9", "adapted", 0, 95, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "ladder@4-9", "converted", 0, converted, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "ladder@4-9", "adapted", 0, adapted, 0.3)
    assert verdicts(tmp_path, published)["five-eighths-costs"] == verdict


def test_claims_about_half_of_the_layers_are_about_ladder(tmp_path, published):
    toy_records.evaluation(tmp_path, "tiny", "standard", "pretrained", 0, 100, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "spd@5-9", "adapted", 0, 95, 0.3)
    found, _ = judged(tmp_path, published)
    assert "finetuned" in found.set_index("id")["reason"]["half-recovers"]


@pytest.mark.parametrize(("adapted", "verdict"), [(110, SUPPORTED), (190, NOT_SUPPORTED)])
def test_full_conversion(tmp_path, published, adapted, verdict):
    toy_records.evaluation(tmp_path, "tiny", "standard", "pretrained", 0, 100, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "standard", "adapted", 0, 105, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "ladder", "converted", 0, 200, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "ladder", "adapted", 0, adapted, 0.3)
    assert verdicts(tmp_path, published)["full-conversion"] == verdict


@pytest.mark.parametrize(
    ("claim", "model", "tp", "link", "gain", "verdict"),
    [
        ("70b-29", "llama-3-70b", 8, "NVLink", 1.30, SUPPORTED),
        ("70b-29", "llama-3-70b", 8, "NVLink", 1.10, NOT_SUPPORTED),
        ("70b-29", "llama-3-70b", 4, "NVLink", 1.30, NOT_TESTED),
        ("70b-29", "llama-3-70b", 8, "P2P off", 1.60, NOT_TESTED),
        ("70b-slow-60", "llama-3-70b", 8, "P2P off", 1.55, SUPPORTED),
        ("405b-30", "llama-3.1-405b", 16, "two nodes", 1.2, NOT_SUPPORTED),
    ],
)
def test_claims_about_hardware_need_that_hardware(tmp_path, published, claim, model, tp, link, gain, verdict):
    what = SPEED | {"model": model, "tp": tp, "link": link, "backend": "nccl", "phase": "both", "unit": "tokens/s"}
    speeds = {"standard": 100.0, "ladder": 100.0 * gain}
    rows = [what | {"wiring": w, "metric": "tokens_per_second", "value": v} for w, v in speeds.items()]
    toy_records.write(tmp_path, "gpu", rows)
    assert verdicts(tmp_path, published)[claim] == verdict


def test_emulated_numbers_never_judge_a_claim_about_hardware(tables):
    claim = next(one for one in claims.known() if one["id"] == "70b-29")
    thresholds = claim["thresholds"] | {"model": "paper-1b-8l", "batches": [1], "least": 1.0}
    assert isinstance(rules.every(tables, **claim["arguments"], **thresholds), str)


@pytest.mark.parametrize(("parallel", "verdict"), [(1.0, NOT_SUPPORTED), (0.85, SUPPORTED)])
def test_parallel_catches_up_at_batch_64(tmp_path, published, parallel, verdict):
    toy_records.kept(tmp_path, parallel=parallel)
    assert verdicts(tmp_path, published)["batch-64"] == verdict


@pytest.mark.parametrize(
    ("gain", "link", "hardware", "verdict"),
    [
        (1.31, "h100-nvlink", "1 x NVIDIA H200", SUPPORTED),
        (1.45, "h100-nvlink", "1 x NVIDIA H200", NOT_SUPPORTED),
        (1.31, "pcie5-host-staged", "1 x NVIDIA H200", NOT_TESTED),
        (1.31, "h100-nvlink", "Toy CPU, 2 cores", NOT_TESTED),
    ],
)
def test_emulated_70b_is_judged_on_its_link_and_hardware(tmp_path, published, gain, link, hardware, verdict):
    what = SPEED | {"model": "llama-3-70b", "link": link, "backend": "emulated", "origin": "emulated", "phase": "both"}
    speeds = {"standard": 100.0, "parallel": 122.0, "ladder": 100.0 * gain}
    rows = [
        what | {"wiring": w, "metric": "tokens_per_second", "value": v, "unit": "tokens/s"} for w, v in speeds.items()
    ]
    toy_records.write(tmp_path, "gpu", rows, provenance={"hardware": hardware})
    found = verdicts(tmp_path, published)
    assert found["70b-emulated"] == verdict
    assert found["batch-64"] == found["70b-29"] == NOT_TESTED


@pytest.mark.parametrize(("slower", "verdict"), [({}, SUPPORTED), ({"ladder": 1.2}, NOT_SUPPORTED)])
def test_ladder_is_never_slower(tmp_path, published, slower, verdict):
    toy_records.speed(tmp_path, slower=slower)
    assert verdicts(tmp_path, published)["never-slower"] == verdict


def test_a_link_too_fast_to_tell_decides_nothing_about_hiding(tmp_path, published):
    toy_records.speed(tmp_path, rhos=(0.05,))
    found = verdicts(tmp_path, published)
    assert found["hides-decode"] == found["beats-parallel"] == NOT_TESTED


@pytest.mark.parametrize(("off", "verdict"), [(1.04, SUPPORTED), (0.8, NOT_SUPPORTED)])
def test_the_emulated_link_predicts_the_network(tmp_path, published, off, verdict):
    toy_records.network(tmp_path, off)
    assert verdicts(tmp_path, published)["link-predicts"] == verdict


@pytest.mark.parametrize(("slower", "verdict"), [({}, SUPPORTED), ({"ladder@4-7": 1.3}, NOT_SUPPORTED)])
def test_half_the_layers_bring_half_the_gain(tmp_path, published, slower, verdict):
    what, wirings = toy_records.rank("hybrid"), ("standard", "ladder@4-7", "ladder", "upper_bound")
    rows = toy_records.timed(what, wirings, toy_records.MODULES, 1e-3, slower, "emulated, serial", 0.8)
    toy_records.write(tmp_path, "hybrid", rows)
    assert verdicts(tmp_path, published)["hybrid-half"] == verdict


@pytest.mark.parametrize(
    ("distilled", "tokens", "verdict", "decision"),
    [
        (101, 120, SUPPORTED, "better in every seed"),
        (103.01, 120, NOT_SUPPORTED, "open"),
        (106, 120, NOT_SUPPORTED, "worse in every seed"),
        (101, 60, NOT_TESTED, "better in every seed"),
    ],
)
def test_distillation_against_finetuning(tmp_path, published, distilled, tokens, verdict, decision):
    for variant, value in (("converted", 110), ("adapted", 103), ("distilled", distilled)):
        toy_records.evaluation(tmp_path, "tiny", "ladder", variant, 0, value / 100, 0.3)
    toy_records.evaluation(tmp_path, "tiny", "standard", "pretrained", 0, 1.0, 0.3)
    toy_records.training(tmp_path, "adapt", "tiny", "ladder", 0, 4.1)
    toy_records.training(tmp_path, "adapt", "tiny", "ladder", 0, 4.1, steps=tokens, variant="distilled")
    assert verdicts(tmp_path, published)["distillation"] == verdict
    made = build.TABLES["recovery"](frames.read([tmp_path], published)).set_index("variant")
    assert made["decision"]["distilled"] == decision


def test_a_claim_is_judged_by_the_run_and_shows_what_is_kept(records, published, measured):
    alone, _ = judged(records, published)
    found, behind = judged(records, published, measured)
    assert found.set_index("id")["verdict"]["distillation"] == alone.set_index("id")["verdict"]["distillation"]
    kept = behind[(behind["id"] == "distillation") & (behind["study"] == "longer")]
    assert len(kept) == 2
    assert kept["holds"].isna().all()
