"""What is said of differences: their intervals over seeds, the noise floor, quality at equal time, and what is kept."""

import math

import numpy as np
import pandas as pd
import pytest
import toy_records

from ladder.analysis import frames, quality, recovery, speed, training
from ladder.analysis.checkpoints import PERPLEXITY, degree
from ladder.analysis.quality import NO_FLOOR, OVER, UNCLEAR, WITHIN, Floor, difference, same_seeds, verdict
from ladder.evaluate.compare import compare

STANDARD = {"model": "tiny", "wiring": "standard", "variant": "pretrained"}
LADDER = STANDARD | {"wiring": "ladder"}


@pytest.fixture
def read(tmp_path, published):
    return lambda: frames.read([tmp_path], published)


def row_of(table, **where):
    """The one row of a derived table with these values."""
    for column, value in where.items():
        table = table[table[column].isna() if value is None else table[column] == value]
    (row,) = table.to_dict("records")
    return row


def accuracies(values):
    return {"samples": {"task": [{"doc": n, "acc": float(value)} for n, value in enumerate(values)]}}


def test_a_seed_that_repeats_another_adds_nothing():
    rng = np.random.default_rng(0)
    a, b = (accuracies(rng.random(40) < share) for share in (0.4, 0.6))
    one, two = compare([a], [b], "task", "acc"), compare([a, a], [b, b], "task", "acc")
    assert (one["seeds"], two["seeds"]) == (1, 2)
    assert all(one[key] == pytest.approx(two[key]) for key in ("difference", "low", "high"))


def test_seeds_that_disagree_widen_the_interval():
    same, up = accuracies([0] * 30), accuracies([1] * 30)
    found = compare([same, same], [same, up], "task", "acc")
    assert (found["difference"], found["low"], found["high"]) == (0.5, 0, 1)


def test_the_spread_of_seeds_is_that_of_their_mean():
    """No noise in the samples: the standard error is that of a mean of four, without bias."""
    shifts = np.array([0.0, 0.1, 0.3, 0.6])
    found = compare([accuracies([0] * 20)] * 4, [accuracies([s] * 20) for s in shifts], "task", "acc")
    assert found["difference"] == pytest.approx(shifts.mean())
    assert found["stderr"] == pytest.approx(shifts.std(ddof=1) / 2, rel=0.05)


def test_pooled_difference_lies_between_those_of_the_seeds(full):
    pairs = same_seeds(full, PERPLEXITY, LADDER, STANDARD)
    each, together = [difference(full, PERPLEXITY, [pair]) for pair in pairs], difference(full, PERPLEXITY, pairs)
    assert [pair[0]["seed"] for pair in pairs] == [0, 1]
    assert together["value"] == pytest.approx(np.mean([row["value"] for row in each]))
    assert min(row["low"] for row in each) <= together["low"] < together["high"] <= max(row["high"] for row in each)


@pytest.mark.parametrize(
    ("row", "floor", "said"),
    [
        ({"value": -0.2, "low": -0.3, "high": -0.1}, 0.1, OVER),
        ({"value": 0.2, "low": -0.1, "high": 0.4}, 0.1, UNCLEAR),
        ({"value": 0.05, "low": 0.04, "high": 0.06}, 0.1, WITHIN),
        ({"value": 0.2, "low": None, "high": None}, 0.1, OVER),
        ({"value": 0.2, "low": 0.1, "high": 0.3}, None, NO_FLOOR),
    ],
)
def test_verdicts(row, floor, said):
    assert verdict(row, None if floor is None else Floor(floor, ())) == said


def test_the_floor_is_the_largest_of_all_pairs_of_seeds(tmp_path, read):
    for wiring, losses in {"standard": (5.0, 5.1, 5.3), "ladder": (5.2, 5.3, 5.5), "fal": (5.5, 5.5, 5.9)}.items():
        for seed, loss in enumerate(losses):
            toy_records.training(tmp_path, "pretrain", "tiny", wiring, seed, loss)
    made = quality.quality(read())
    ladder, fal = (row_of(made, wiring=w, metric="validation_loss", study="this run") for w in ("ladder", "fal"))
    assert (ladder["floor_pairs"], ladder["floor"], ladder["floor_of_others"]) == pytest.approx((3, 0.3, 0.4))
    assert (ladder["difference"], ladder["verdict"]) == (pytest.approx(0.2), WITHIN)
    assert (fal["difference"], fal["verdict"]) == (pytest.approx(0.5), OVER)
    assert len(quality.noise_pairs(read())) == 3


def test_one_seed_gives_no_floor(tmp_path, read):
    for wiring, loss in (("standard", 5.0), ("ladder", 5.1)):
        toy_records.training(tmp_path, "pretrain", "tiny", wiring, 0, loss)
    assert row_of(quality.quality(read()), wiring="ladder", study="this run")["verdict"] == NO_FLOOR


def test_checkpoints_are_held_against_what_was_treated_alike(tables):
    """What was adapted against standard adapted; what was converted or distilled against the original."""
    rows = tables["quality"].query('study == "this run"').dropna(subset=["difference"])
    perplexities = rows[rows["metric"] == "byte_perplexity"]
    assert dict(zip(perplexities["variant"], perplexities["against"], strict=True)) == {
        "pretrained": "pretrained",
        "converted": "pretrained",
        "adapted": "adapted",
        "distilled": "pretrained",
        "progressive": "pretrained",
    }
    assert set(rows[rows["metric"] == "validation_loss"]["variant"]) == {"pretrained", "adapted"}


def test_runs_of_another_length_are_shown_and_not_compared(tmp_path, read):
    for wiring, steps in (("standard", 120), ("ladder", 60)):
        toy_records.training(tmp_path, "pretrain", "tiny", wiring, 0, 5.0, steps=steps)
    row = row_of(quality.quality(read()), wiring="ladder", study="this run", metric="validation_loss")
    assert row["steps"] == 60
    assert "difference" not in row
    assert pd.isna(training.curves(read()).query('wiring == "ladder"')["loss_difference"]).all()


def trained(folder, model, wiring, speed, offset=0.0, seed=0, hardware="Toy CPU", tokens="a"):
    """A run whose loss is 10 + offset - ln(tokens)."""
    what = {"stage": "pretrain", "run": f"{model}-{wiring}-s{seed}", "model": model, "wiring": wiring, "seed": seed}
    what |= {"variant": "pretrained", "origin": "measured"}
    curve = [
        {"step": n, "tokens": 1000 * n, "loss": 10 + offset - math.log(1000 * n) if n else 11} for n in (0, 1, 2, 8)
    ]
    rows = [what | {"metric": "tokens_per_second", "value": float(speed), "unit": "tokens/s"}]
    rows.append(what | {"metric": "validation_loss", "value": curve[-1]["loss"], "unit": "nats"})
    extra = {"curves": {"validation": curve}, "settings": {"tokens": tokens, "ranks": 1}}
    toy_records.write(folder / f"{hardware}-{tokens}", what["run"], rows, {"hardware": hardware}, **extra)


def test_loss_at_equal_time(tmp_path, read):
    """Standard ends after 8 s; ladder has half of its tokens then; parallel ended after 4 s."""
    trained(tmp_path, "tiny", "standard", 1000)
    trained(tmp_path, "tiny", "ladder", 500)
    trained(tmp_path, "tiny", "parallel", 2000, offset=0.1)
    made = training.training_time(read())
    slow, fast = (row_of(made, wiring=w, seed=None) for w in ("ladder", "parallel"))
    assert slow["training_s"] == 16
    assert slow["loss_when_standard_ends"] == pytest.approx(10 - math.log(4000))
    assert slow["loss_at_equal_tokens"] == pytest.approx(0)
    assert slow["loss_at_equal_time"] == pytest.approx(math.log(2))
    assert pd.isna(fast["loss_when_standard_ends"])
    assert fast["loss_at_equal_time"] == pytest.approx(0.1 - math.log(2))


def test_only_runs_on_the_same_tokens_and_hardware_are_compared(tmp_path, read):
    trained(tmp_path, "tiny", "standard", 1000)
    trained(tmp_path, "tiny", "ladder", 500, hardware="Other")
    trained(tmp_path, "tiny", "parallel", 500, tokens="b")
    trained(tmp_path, "tiny-larger", "ladder", 800)
    bases = {own[0].name: [run.name for run in base] for own, base in training.pairs(training.runs(read()))}
    assert bases == {
        ("tiny", "standard"): [("tiny", "standard")],
        ("tiny", "ladder"): [],
        ("tiny", "parallel"): [],
        ("tiny-larger", "ladder"): [("tiny", "standard")],
    }


def timed(folder, model, speeds, link="emulated, serial, 1 ms", **changes):
    what = toy_records.rank(f"{model}-{link}", model=model, link=link) | changes
    rows = [what | {"wiring": w, "phase": "both", "metric": "tokens_per_second", "value": float(v), "unit": "tokens/s"}
            for w, v in speeds.items()]  # fmt: skip
    toy_records.write(folder / "bench", f"{model}-{link}", rows)


def test_larger_models_of_equal_speed_are_found_in_the_records(tmp_path, read):
    speeds = {"standard": 100, "parallel": 120, "ladder": 130, "upper_bound": 150}
    timed(tmp_path, "tiny", speeds)
    timed(tmp_path, "tiny-larger", {"standard": 80, "parallel": 96, "ladder": 110, "upper_bound": 120})
    timed(tmp_path, "tiny-larger", speeds, link="another")
    toy_records.training(tmp_path, "pretrain", "tiny", "standard", 0, 5.4)
    toy_records.training(tmp_path, "pretrain", "tiny-larger", "ladder", 0, 5.3)
    made = speed.equal_speed(read()).query('origin != "published"')
    assert list(made["larger"]) == [f"tiny-larger {wiring}" for wiring in ("standard", "parallel", "ladder")]
    row = row_of(made, larger="tiny-larger ladder")
    assert (row["speed_ratio"], row["loss_difference"]) == pytest.approx((1.1, -0.1))
    assert pd.isna(row_of(made, larger="tiny-larger parallel")["loss_difference"])  # not both trained
    assert made["fast_enough"].tolist() == [False, True, True]


def test_simulated_speeds_are_paired_too(tmp_path, read):
    for model, speeds in (("llama-3-8b", {"standard": 100}), ("llama-3-70b", {"ladder": 99})):
        timed(tmp_path, model, speeds, stage="simulate", origin="simulated", run="same")
    assert row_of(speed.equal_speed(read()), origin="simulated")["larger"] == "llama-3-70b ladder"
    assert degree(read(), "ladder", "llama-3-70b") is None  # the ranks of a prediction are not those of a checkpoint


def test_a_study_is_no_part_of_the_run(full, records, published):
    alone = frames.read([records], published)
    assert list(full.studies) == ["nvidia-h200/longer"]
    assert len(full.own(stage="pretrain")) == len(alone.own(stage="pretrain"))
    one, other = (quality.quality(data).query('study == "this run"') for data in (full, alone))
    assert one["difference"].dropna().tolist() == other["difference"].dropna().tolist()
    # Its MLflow runs are where it was made.
    assert full.studies["nvidia-h200/longer"].ours["mlflow_run_id"].isna().all()


def test_what_is_kept_is_compared_within_itself(tables):
    parallel = row_of(tables["quality"], study="longer", wiring="parallel", metric="validation_loss")
    assert parallel["difference"] == pytest.approx(0.1)
    assert (parallel["seeds"], parallel["steps"]) == (2, 1200)
    distilled = row_of(tables["recovery"], study="longer", variant="distilled")
    assert distilled["regained"] == pytest.approx(0.75, abs=1e-3)  # 0.15 of 0.2
    assert distilled["decision"].startswith("better")


def test_seeds_of_a_scan_are_averaged(tmp_path, published):
    for seeds, value, ends in (((0,), 0.0009, (-0.0031, 0.0049)), ((0, 1), 0.0019, (0.0009, 0.0029))):
        toy_records.sensitivity(tmp_path / f"{len(seeds)}", seeds)
        made = recovery.sensitivity(frames.read([tmp_path / f"{len(seeds)}"], published))
        row = row_of(made, wiring="ladder", converted=1, choice="the last")
        assert row["loss_change"] == pytest.approx(value, abs=5e-5)
        assert (row["loss_change_low"], row["loss_change_high"]) == pytest.approx(ends, abs=5e-5)
    assert set(made["degree"].dropna()) == {2}


def test_layers_that_were_chosen_stand_beside_the_last(tmp_path, published):
    toy_records.sensitivity(tmp_path)
    made = recovery.sensitivity(frames.read([tmp_path], published)).query('wiring == "ladder" and converted == 2')
    last = 0.001 * (1.9**2 - 1)
    costs = dict(zip(made["choice"], made["loss_change"], strict=True))
    assert costs == pytest.approx({"the last": last, "chosen": last / 2})


def test_layers_converted_each_on_its_own_stay_apart(tmp_path, published):
    what = {"stage": "sensitivity", "run": "tiny-each", "model": "tiny", "seed": 0, "wiring": "ladder", "n": 24}
    what |= {"metric": "loss_change", "unit": "nats", "origin": "measured", "converted": 1, "value": 1.0}
    toy_records.write(tmp_path / "each", "each", [what | {"layers": f"{n}"} for n in range(9)])
    assert recovery.sensitivity(frames.read([tmp_path], published)).empty
    assert len(recovery.single_layers(frames.read([tmp_path], published))) == 9
    toy_records.sensitivity(tmp_path)
    made = recovery.sensitivity(frames.read([tmp_path], published))
    assert row_of(made, wiring="ladder", converted=1, choice="the last")["loss_change"] == pytest.approx(0.0009)


def test_layers_alone_and_chosen_stay_apart_from_the_last(tables):
    alone = tables["single_layers"].query('wiring == "ladder"')
    assert list(alone["layer"]) == list(reversed(range(toy_records.LAYERS)))
    scans = tables["sensitivity"]
    real, last = (row_of(scans, model="smollm2", converted=15, choice=choice) for choice in ("chosen", "the last"))
    assert (real["added"], real["loss_change"], last["loss_change"]) == pytest.approx((15, 0.45, 1.2))
    assert (real["loss_change_low"], real["loss_change_high"]) == pytest.approx((0.43, 0.47))
