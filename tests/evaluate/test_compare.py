import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladder.errors import UserError
from ladder.evaluate.compare import compare, sign_flip
from ladder.evaluate.metrics import standard_error, unit, value


def record(metric, values):
    return {"samples": {"task": [{"doc": f"d{n}", metric: v} for n, v in enumerate(values)]}}


def test_values_are_lm_eval_s():
    samples = np.array([[-30.0, 10], [-50.0, 20]])
    assert value("word_perplexity", samples) == pytest.approx(math.exp(80 / 30))
    assert value("bits_per_byte", samples) == pytest.approx(80 / 30 / math.log(2))
    assert value("acc", np.array([0.0, 1, 1, 1])) == 0.75
    stacked = np.stack([samples, 2 * samples])
    assert value("word_perplexity", stacked) == pytest.approx([math.exp(80 / 30)] * 2)


def test_standard_errors_agree_with_the_spread_of_repeated_samples():
    rng = np.random.default_rng(0)

    def draw(n=400):
        words = rng.integers(50, 500, n)
        return np.stack([-words * rng.normal(2.0, 0.3, n), words], -1)

    for metric in ("word_perplexity", "bits_per_byte"):
        spread = np.std([value(metric, draw()) for _ in range(500)])
        assert standard_error(metric, draw()) == pytest.approx(spread, rel=0.15)
    assert standard_error("acc", np.array([0.0, 1, 1, 1])) == pytest.approx(0.25)
    assert standard_error("word_perplexity", draw(1)) is None


def test_units():
    assert unit("acc", np.array([0.0, 1])) == "fraction"
    assert unit("exact_match,strict-match", np.array([0.0, 1])) == "fraction"
    assert unit("bleu", np.array([30.0])) == "score"
    assert unit("bits_per_byte", np.array([[-1.0, 2]])) == "bits/byte"


def test_a_real_difference_is_found_and_equal_models_have_none():
    rng = np.random.default_rng(1)
    a = (rng.random(300) < 0.5).astype(float)
    better = np.maximum(a, rng.random(300) < 0.2)
    found = compare([record("acc", a)], [record("acc", better)], "task", "acc")
    assert found["n"] == 300
    assert found["difference"] == pytest.approx(better.mean() - a.mean())
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["stderr"] == pytest.approx((better - a).std(ddof=1) / math.sqrt(300))
    assert found["p"] < 0.001
    same = compare([record("acc", a)], [record("acc", a)], "task", "acc")
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_pairing_sees_what_independent_intervals_would_not():
    """Documents differ far more than models do."""
    rng = np.random.default_rng(2)
    words = rng.integers(50, 500, 40).astype(float)
    a = -words * rng.normal(3, 1.0, 40)
    b = a * 1.02
    found = compare(
        [record("word_perplexity", np.stack([a, words], -1).tolist())],
        [record("word_perplexity", np.stack([b, words], -1).tolist())],
        "task",
        "word_perplexity",
    )
    assert found["ratio"] == pytest.approx(1.02)
    assert found["a"] < found["b"]
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["stderr"] < standard_error("word_perplexity", np.stack([a, words], -1))
    assert found["p"] < 0.001


@settings(max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30))
def test_swapping_the_two_turns_the_sign(pairs):
    a, b = ([record("acc", [float(pair[n]) for pair in pairs])] for n in (0, 1))
    there, back = compare(a, b, "task", "acc"), compare(b, a, "task", "acc")
    assert there["difference"] == -back["difference"]
    assert there["p"] == back["p"]
    assert there["low"] == pytest.approx(-back["high"])
    assert compare(a, b, "task", "acc") == there


def test_p_is_exact_for_few_samples_and_uniform_under_no_difference():
    rng = np.random.default_rng(3)
    assert sign_flip(np.array([1.0, 2.0, 4.0]), rng) == pytest.approx(0.25, abs=0.02)  # 2 of 8 sign patterns
    ps = [sign_flip(rng.normal(size=30), rng) for _ in range(60)]
    assert 0.35 < np.mean(ps) < 0.65


def test_the_order_of_the_samples_does_not_matter():
    a, b = record("acc", [0.0, 1, 1, 0]), record("acc", [1.0, 1, 0, 0])
    b["samples"]["task"].reverse()
    assert compare([a], [b], "task", "acc")["difference"] == 0


def test_what_cannot_be_compared_is_named():
    a = record("acc", [0.0, 1])
    with pytest.raises(UserError, match=r"share 2 samples of 2 and 3; .* same tasks and --limit"):
        compare([a], [record("acc", [0.0, 1, 1])], "task", "acc")
    with pytest.raises(UserError, match="unknown task 'other'; known: task"):
        compare([a], [a], "other", "acc")
    with pytest.raises(UserError, match="unknown metric of task 'f1'; known: acc"):
        compare([a], [a], "task", "f1")
