"""Trainings that the repository keeps stand beside this run and never mix with it."""

import toy_records

from ladder.report import frames, noise, quality, recovery, rules, studies


def cells(table, **where):
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    return [row for row in rows if all(row[name].text == text for name, text in where.items())]


def test_a_study_is_no_part_of_the_run(full, records, published):
    alone = frames.read([records], published)
    assert list(full.studies) == ["nvidia-h200/longer"]
    assert len(full.own(stage="pretrain")) == len(alone.own(stage="pretrain"))
    assert noise.differences(full) != ()
    assert len(noise.differences(full)) == len(noise.differences(alone))
    assert quality.steps(full, "tiny")["standard"] == 120
    assert quality.steps(full.studies["nvidia-h200/longer"], "tiny")["standard"] == 1200
    # Its MLflow runs are where it was made.
    assert full.studies["nvidia-h200/longer"].ours["mlflow_run_id"].isna().all()


def test_each_wiring_is_compared_within_its_study(full):
    table = studies.studies(full)
    (standard,) = cells(table, Wiring="standard")
    assert standard["− standard, nats"].reason == "what the others are compared with"
    (parallel,) = cells(table, Wiring="parallel")
    assert parallel["− standard, nats"].text.startswith("+0.100")
    assert parallel["seeds"].text == "2"
    assert "longer, 1.4M parameters" in table.caption
    assert "parallel +0.100" in table.caption


def test_what_was_trained_for_longer_is_not_compared(tmp_path, published):
    folder = tmp_path / "measured" / "gpu" / "study"
    for wiring, steps in (("standard", 120), ("ladder", 140)):
        toy_records.training(folder, "pretrain", "tiny", wiring, 0, 3.0, steps=steps)
    data = frames.read([], published, tmp_path / "measured")
    (ladder,) = cells(studies.studies(data), Wiring="ladder")
    assert ladder["− standard, nats"].reason == "standard was not trained on as many tokens"
    assert [panel.alt for panel in studies.study_curves(data).panels]


def test_methods_of_adaptation_stand_run_by_run(full):
    table = recovery.recovery(full)
    assert {row["Run"].text for row in cells(table)} == {"this run", "longer, kept"}
    (distilled,) = cells(table, Run="longer, kept", Method="distilled")
    assert distilled["regained, %"].text.startswith("7")  # regained 0.15 of 0.2
    assert "Longer, kept: " in table.caption
    assert "distillation recovers more" in table.caption


def test_a_claim_is_judged_by_the_run_and_tells_of_what_is_kept(full, bare):
    found = rules.distillation_recovers_more(full)
    alone = rules.distilled_or_finetuned(full)
    assert found.verdict == alone.verdict
    assert found.numbers.startswith(alone.numbers)
    assert f"longer, kept: {rules.SUPPORTED}." in found.numbers
    assert rules.distillation_recovers_more(bare).verdict == rules.NOT_TESTED
