"""Mixtures of sources by weights, the permutation without a table, and the loader's speed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import Stream

from ladder import cli
from ladder.errors import UserError
from ladder.reading import read_json
from ladder.train import order
from ladder.train.batches import Mixture, PackedTokens, check, loader_speed, packed_tokens, quotas

SEQUENCE = 8


def mixture(lengths, weights):
    """Sources a, b, ... of so many rows; every token of source number n is n."""
    made = {}
    for n, (label, rows) in enumerate(zip("abcd", lengths, strict=False)):
        stream = Stream(rows * SEQUENCE + 1, n)
        stream.stream = np.full_like(stream.stream, n)
        made[label] = PackedTokens(stream, SEQUENCE)
    return Mixture(made, dict(zip(made, weights, strict=True)))


def visits(data, batch, steps, seed=0):
    return np.concatenate([data.of_step(batch, seed, step) for step in range(1, steps + 1)])


@given(
    sources=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=2, max_size=4),
    batch=st.integers(1, 9),
    seed=st.integers(0, 3),
)
def test_shares_are_the_weights_and_each_source_keeps_its_epochs(sources, batch, seed):
    lengths, weights = zip(*sources, strict=True)
    data = mixture(lengths, weights)
    block = sum(weights) // math.gcd(*weights)
    numbers = visits(data, batch, -(-2 * block // batch), seed)
    start = 0
    for rows, weight in sources:
        mine = numbers[(numbers >= start) & (numbers < start + rows)] - start
        whole = numbers[:block]
        assert np.sum((whole >= start) & (whole < start + rows)) == weight * block // sum(weights)
        for epoch in range(len(mine) // rows):
            assert sorted(mine[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
        start += rows


@given(weights=st.lists(st.integers(1, 9), min_size=2, max_size=4), batch=st.integers(1, 12))
def test_every_batch_comes_near_the_shares(weights, batch):
    data = mixture([100] * len(weights), weights)
    for step in range(1, 20):
        mine = np.bincount(data.of_step(batch, 0, step) // 100, minlength=len(weights))
        assert np.all(np.abs(mine - batch * np.array(weights) / sum(weights)) < 2 * len(weights))


def test_rows_of_a_step_need_nothing_but_seed_and_step():
    data = mixture([30, 7], [3, 1])
    assert data.of_step(8, 0, 5).tolist() == mixture([30, 7], [3, 1]).of_step(8, 0, 5).tolist()
    assert data.of_step(8, 0, 5).tolist() != data.of_step(8, 1, 5).tolist()
    # The same global order, whatever the batch: what two ranks or four read together does not depend on their number.
    assert visits(data, 8, 6).tolist() == visits(data, 4, 12).tolist()
    assert data.of_step(8, 0, 1).tolist() == [22, 0, 32, 13, 6, 27, 35, 21]  # golden


def test_a_source_keeps_its_order_when_another_comes():
    two, three = mixture([30, 7], [1, 1]), mixture([30, 7, 5], [1, 1, 2])
    before, after = visits(two, 4, 20), visits(three, 4, 40)
    for low, high in ((0, 30), (30, 37)):
        assert before[(before >= low) & (before < high)].tolist() == after[(after >= low) & (after < high)].tolist()


def test_rows_come_in_the_order_of_their_numbers():
    data = mixture([3, 4], [1, 1])
    assert len(data) == 7
    batch = data.rows([5, 0, 6, 2, 3])
    assert batch.inputs[:, 0].tolist() == [1, 0, 1, 0, 1]
    assert batch.targets.shape == (5, SEQUENCE)
    assert data.supervised([5, 0, 6]) == 3 * SEQUENCE
    assert data.rows([1]).inputs.tolist() == [[0] * SEQUENCE]


def test_quotas_are_exact_where_whole_numbers_allow():
    assert quotas({"a": 0.75, "b": 0.25}) == {"a": 3, "b": 1}
    assert quotas({"a": 0.7, "b": 0.2, "c": 0.1}) == {"a": 7, "b": 2, "c": 1}
    assert quotas({"a": 1 / 3, "b": 2 / 3}) == {"a": 1, "b": 2}
    odd = quotas({"a": math.pi, "b": math.e})
    assert sum(odd.values()) == 10_000
    assert odd["a"] / 10_000 == pytest.approx(math.pi / (math.pi + math.e), abs=1e-4)
    with pytest.raises(UserError, match="the weight of b is less than one row in 10,000"):
        quotas({"a": 1, "b": 1e-6})


def test_validation_per_source_and_together():
    data = mixture([3, 4], [3, 1])
    found = {"a": {"loss": 2.0, "stderr": 0.4, "n": 3}, "b": {"loss": 4.0, "stderr": 0.8, "n": 4}}
    whole = data.together({label: found[label] for label in data.sources})
    assert whole == {"loss": 2.5, "stderr": pytest.approx(math.hypot(0.3, 0.2)), "n": 7}
    one = data.sources["a"]
    assert one.together(dict.fromkeys(one.sources, found["a"])) == found["a"]


def test_a_source_without_a_whole_row_is_refused():
    with pytest.raises(UserError, match="DATA: 'b' has no whole sequence"):
        check(mixture([30, 0], [1, 1]), 4, "DATA")
    check(mixture([30, 1], [1, 1]), 4, "DATA")


@given(rows=st.integers(2, 5000), seed=st.integers(0, 9))
def test_the_permutation_without_a_table_is_one(rows, seed):
    assert sorted(order.scattered(np.arange(rows), rows, (seed, 0))) == list(range(rows))


def test_large_datasets_have_epochs_too(monkeypatch):
    monkeypatch.setattr(order, "SMALL", 10)
    places = np.arange(75)
    found = order.visited(25, places, 3)
    for epoch in range(3):
        assert sorted(found[epoch * 25 : (epoch + 1) * 25]) == list(range(25))
    assert len({tuple(found[epoch * 25 : (epoch + 1) * 25]) for epoch in range(3)}) == 3
    assert found[7:9].tolist() == order.visited(25, places[7:9], 3).tolist()


def test_the_permutation_without_a_table_is_golden_and_looks_random():
    assert order.visited(50_000_000, np.arange(4), 0).tolist() == [34015269, 24227478, 41495532, 17109970]
    rows = 2**16 + 4321
    found = order.scattered(np.arange(rows), rows, (0, 0))
    for pair in ((np.arange(rows), found), (found[:-1], found[1:])):
        counts, _, _ = np.histogram2d(*pair, bins=16)
        expected = len(pair[0]) / 256
        assert ((counts - expected) ** 2 / expected).sum() < 330  # 255 degrees of freedom: 1 in 1000 is above


def test_loader_speed_is_measured():
    assert loader_speed(mixture([30, 7], [3, 1]), 4, 0, seconds=0) > 0


def test_tokens_of_a_mixture_are_read_by_weight(data, tmp_path):
    """From two sources through `ladder tokens --merge` to rows."""
    for label in ("big", "small"):
        words = f"corpus --kind files --path {data}/texts.jsonl --validation 0.2 --test 0.1 --part 1/1 --label {label}"
        assert cli.main([*words.split(), "--out", f"{tmp_path}/{label}", "--record", f"{tmp_path}/r.json"]) == 0
        words = f"tokens --corpus {tmp_path}/{label} --tokenizer {data}/tokenizer --out {tmp_path}/t/{label}"
        assert cli.main([*words.split(), "--record", f"{tmp_path}/r.json"]) == 0
    words = f"tokens --merge {tmp_path}/t/big {tmp_path}/t/small --weight big=4 small=1 --out {tmp_path}/t"
    assert cli.main([*words.split(), "--record", f"{tmp_path}/r.json"]) == 0
    made = packed_tokens(tmp_path / "t", "train", 16)
    tokens = read_json(tmp_path / "t/manifest.json")["sources"]["big"]["splits"]["train"]["tokens"]
    assert len(made.sources["big"]) == (tokens - 1) // 16
    assert np.sum(made.of_step(50, 0, 1) < len(made.sources["big"])) == 40
    alone = packed_tokens(data / "tokens", "train", 16)
    assert isinstance(alone, PackedTokens)
    first, second = made.rows([0, len(made.sources["big"])]).inputs
    assert first.tolist() == second.tolist() == alone.rows([0]).inputs[0].tolist()

    words = "pretrain --size tiny --wiring ladder --sequence 16 --batch 2 --steps 2 --warmup 1 --device cpu "
    words += f"--validation-windows 4 --tokens {tmp_path}/t --tokenizer {data}/tokenizer --work {tmp_path}/work"
    assert cli.main([*words.split(), "--out", f"{tmp_path}/model", "--record", f"{tmp_path}/r.json"]) == 0
    rows = {row["metric"]: row for row in read_json(tmp_path / "r.json")["rows"]}
    both = [rows[f"validation_loss_of_{label}"]["value"] for label in ("big", "small")]
    assert rows["validation_loss"]["value"] == pytest.approx(0.8 * both[0] + 0.2 * both[1])
    assert rows["validation_loss"]["n"] == 8
