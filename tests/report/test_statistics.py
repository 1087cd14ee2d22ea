"""What is said of differences: their intervals over seeds, the noise floor, and quality at equal time."""

import math

import numpy as np
import pytest
import toy_records

from ladder.evaluate.compare import compare
from ladder.report import frames, noise_tables, shape_tables
from ladder.report.equal_time import pairs, runs, training_time, training_time_figure
from ladder.report.noise import OVER, UNCLEAR, UNKNOWN, WITHIN, Floor, differences, verdict
from ladder.report.noise_tables import noise_floor
from ladder.report.quality import LOSS, PERPLEXITY, degree, paired, pooled
from ladder.report.quality_tables import larger_pair

STANDARD = {"model": "tiny", "wiring": "standard", "variant": "pretrained"}
LADDER = STANDARD | {"wiring": "ladder"}


@pytest.fixture
def read(tmp_path, published):
    return lambda: frames.read([tmp_path], published)


def cells(table, **where):
    """The cells of the row whose columns have these texts, by column."""
    names = [
        (column.group or column.name) + ("" if not column.group else f": {column.name}") for column in table.columns
    ]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    (found,) = [row for row in rows if all(row[name].text == text for name, text in where.items())]
    return found


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
    each, together = paired(full, PERPLEXITY, LADDER, STANDARD), pooled(full, PERPLEXITY, LADDER, STANDARD)
    assert [row["seed"] for row in each] == [0, 1]
    assert together["value"] == pytest.approx(np.mean([row["value"] for row in each]))
    assert min(row["low"] for row in each) <= together["low"] < together["high"] <= max(row["high"] for row in each)
    assert "mean of 2 seeds" in together["note"]


@pytest.mark.parametrize(
    ("row", "floor", "said"),
    [
        ({"value": -0.2, "low": -0.3, "high": -0.1}, 0.1, OVER),
        ({"value": 0.2, "low": -0.1, "high": 0.4}, 0.1, UNCLEAR),
        ({"value": 0.05, "low": 0.04, "high": 0.06}, 0.1, WITHIN),
        ({"value": 0.2, "low": None, "high": None}, 0.1, OVER),
        ({"value": 0.2, "low": 0.1, "high": 0.3}, None, UNKNOWN),
    ],
)
def test_verdicts(row, floor, said):
    assert verdict(row, None if floor is None else Floor(floor, ())) == said


def test_the_floor_is_the_largest_of_all_pairs_of_seeds(tmp_path, read):
    for wiring, losses in {"standard": (5.0, 5.1, 5.3), "ladder": (5.2, 5.3, 5.5), "fal": (5.5, 5.5, 5.9)}.items():
        for seed, loss in enumerate(losses):
            toy_records.training(tmp_path, "pretrain", "tiny", wiring, seed, loss)
    data = read()
    found = {d.wiring: d for d in differences(data)}
    assert len(found["ladder"].floor.rows) == 3
    assert found["ladder"].floor.value == pytest.approx(0.3)
    assert found["ladder"].row["value"] == pytest.approx(0.2)
    assert {wiring: d.verdict for wiring, d in found.items()} == {"ladder": WITHIN, "fal": OVER}
    row = cells(noise_floor(data), Quantity="validation loss, nats")
    assert (row["pairs of seeds"].text, row["noise floor"].text, row["other wirings"].text) == ("3", "0.300", "0.400")
    assert row["difference to standard: over the floor"].text == "fal +0.500"
    assert row["difference to standard: within the floor"].text == "ladder +0.200"
    assert "from 3 pairs of standard seeds. " in noise_floor(data).caption
    assert "In 1 of 1 quantities the seeds of another wiring lie further apart" in noise_floor(data).caption


def test_one_seed_gives_no_floor_and_says_so(tmp_path, read):
    for wiring, loss in (("standard", 5.0), ("ladder", 5.1)):
        toy_records.training(tmp_path, "pretrain", "tiny", wiring, 0, loss)
    table = noise_floor(read())
    assert "one seed only" in table.caption
    assert "ladder +0.100" in cells(table, Model="tiny")["difference to standard: over the floor"].reason


def test_two_seeds_are_said_to_be_a_single_draw(full):
    table = noise_floor(full)
    assert "1 pair of standard seeds, so a single draw" in table.caption
    assert "0.45 to 32 times" in table.notes[1]


def test_floors_are_of_the_checkpoint_compared_with(full):
    """What was adapted is held against standard adapted; what was converted or distilled against the original."""
    others = {d.variant: d.floor.rows[0]["variant"] for d in differences(full) if d.metric == PERPLEXITY}
    assert others == {
        "pretrained": "pretrained",
        "converted": "pretrained",
        "adapted": "adapted",
        "distilled": "pretrained",
        "progressive": "pretrained",
    }
    assert {d.variant for d in differences(full) if d.metric == LOSS} == {"pretrained", "adapted"}


def test_runs_of_another_length_are_not_compared(tmp_path, read):
    for wiring, steps in (("standard", 120), ("ladder", 60)):
        toy_records.training(tmp_path, "pretrain", "tiny", wiring, 0, 5.0, steps=steps)
    assert differences(read()) == ()


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
    table = training_time(read())
    slow, fast = cells(table, Wiring="ladder"), cells(table, Wiring="parallel")
    assert slow["training time, seconds"].text == "16.00"
    assert slow["validation loss, nats: when standard ends"].sort == pytest.approx(10 - math.log(4000))
    assert slow["loss − standard, nats: at equal tokens"].text == "+0.000"
    assert slow["loss − standard, nats: at equal time"].sort == pytest.approx(math.log(2))
    assert "ended before" in fast["validation loss, nats: when standard ends"].reason
    assert fast["loss − standard, nats: at equal time"].sort == pytest.approx(0.1 - math.log(2))
    assert "ladder (tiny) +0.693 (+0.000 at equal tokens)" in table.caption
    assert "no wiring communicates there" in table.caption


def test_only_runs_on_the_same_tokens_and_hardware_are_compared(tmp_path, read):
    trained(tmp_path, "tiny", "standard", 1000)
    trained(tmp_path, "tiny", "ladder", 500, hardware="Other")
    trained(tmp_path, "tiny", "parallel", 500, tokens="b")
    trained(tmp_path, "tiny-larger", "ladder", 800)
    bases = {own[0].key[:2]: [run.key[:2] for run in base] for own, base in pairs(runs(read()))}
    assert bases == {
        ("tiny", "standard"): [("tiny", "standard")],
        ("tiny", "ladder"): [],
        ("tiny", "parallel"): [],
        ("tiny-larger", "ladder"): [("tiny", "standard")],
    }
    assert len(training_time_figure(read()).panels) == 3


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
    data = read()
    assert [pair.names for pair in shape_tables.pairs(data)] == [
        (("tiny", "standard"), ("tiny-larger", wiring)) for wiring in ("standard", "parallel", "ladder")
    ]
    table = shape_tables.equal_speed(data)
    found = cells(table, Larger="tiny-larger ladder")
    assert found["tokens/s: larger over smaller"].text == "1.10×"
    assert found["larger − smaller: validation loss, nats"].text == "−0.100 no floor"
    assert cells(table, Larger="tiny-larger parallel")["larger − smaller: perplexity"].reason.startswith("not both")
    assert len(table.rows) == 2 + 2
    assert "of 3 pairs in the same setting, in 2" in table.caption


def test_simulated_speeds_are_paired_too(tmp_path, read):
    for model, speeds in (("llama-3-8b", {"standard": 100}), ("llama-3-70b", {"ladder": 99})):
        timed(tmp_path, model, speeds, stage="simulate", origin="simulated", run="same")
    ((small, large),) = [pair.names for pair in shape_tables.pairs(read())]
    assert (small[0], large[0]) == ("llama-3-8b", "llama-3-70b")
    assert degree(read(), "ladder") is None  # the ranks of a prediction are not those of a checkpoint


def test_the_larger_ladder_is_known_by_its_shape(tmp_path, read):
    for model, wiring in (("small", "ladder"), ("paper-1b", "standard"), ("paper-1b-larger", "ladder")):
        toy_records.training(tmp_path, "pretrain", model, wiring, 0, 5.4)
    assert larger_pair(read()) == [("paper-1b", "standard"), ("paper-1b-larger", "ladder")]


def test_each_difference_drawn_is_in_the_download(full):
    figure = noise_tables.floor_figure(full)
    drawn = [d for d in differences(full) if d.variant != "converted"]
    verdicts = figure.data["note"].str.rpartition("; ")[2]
    assert verdicts.isin([OVER, UNCLEAR, WITHIN]).sum() == len(drawn)
