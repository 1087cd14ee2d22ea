import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import Stream

from ladder.errors import UserError
from ladder.train.batches import IGNORE, PackedChat, PackedTokens, check, evenly, rows_of_step


@given(rows=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 3))
def test_every_epoch_visits_every_row_once(rows, batch, seed):
    steps = -(-3 * rows // batch)
    visited = np.concatenate([rows_of_step(rows, batch, seed, step) for step in range(1, steps + 1)])
    for epoch in range(3):
        assert sorted(visited[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_the_order_is_of_the_seed_and_never_changes():
    assert rows_of_step(100, 5, 0, 1).tolist() == [82, 36, 20, 5, 93]  # golden: paired comparisons rest on it
    assert rows_of_step(100, 5, 0, 1).tolist() != rows_of_step(100, 5, 1, 1).tolist()


@given(accumulate=st.integers(1, 4), ranks=st.sampled_from([1, 2, 4]), micro=st.integers(1, 3))
def test_ranks_and_micro_batches_split_the_batch(accumulate, ranks, micro):
    rows = rows_of_step(50, accumulate * ranks * micro, 0, 3)
    parts = [rows.reshape(accumulate, ranks, micro)[:, rank] for rank in range(ranks)]
    assert sorted(np.concatenate(parts, axis=None)) == sorted(rows)


def test_windows_follow_each_other():
    stream = Stream(100, 0)
    data = PackedTokens(stream, 8)
    assert len(data) == 12  # 99 tokens have one after them
    batch = data.rows([0, 11])
    assert batch.positions is None
    assert batch.inputs[1].tolist() == stream.stream[88:96].tolist()
    assert batch.targets[1].tolist() == stream.stream[89:97].tolist()
    assert data.supervised([0, 11]) == 16


def test_chat_rows_score_the_assistant_only():
    row = {
        "input_ids": np.array([1, 2, 3, 4, 5, 6, 7, 0]),
        "labels": np.array([IGNORE, IGNORE, 3, IGNORE, IGNORE, 6, 7, IGNORE]),
        "position_ids": np.array([0, 1, 2, 0, 1, 2, 3, 0]),
    }
    batch = PackedChat([row]).rows([0])
    assert batch.inputs.tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert batch.targets.tolist() == [[IGNORE, 3, IGNORE, IGNORE, 6, 7, IGNORE]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert PackedChat([row]).supervised([0]) == 3
    row["labels"][3] = 4  # even if the first token of a conversation had a label, nobody predicts it
    assert PackedChat([row]).supervised([0]) == 3


def test_validation_rows_are_spread():
    assert evenly(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert evenly(3, 64).tolist() == [0, 1, 2]


def test_too_little_data():
    with pytest.raises(UserError, match=r"DATA: 12 sequences are fewer than one batch of 13"):
        check(PackedTokens(Stream(100, 0), 8), 13, "DATA")
    row = {key: np.arange(4) for key in ("input_ids", "position_ids")} | {"labels": np.full(4, IGNORE)}
    with pytest.raises(UserError, match="nothing to learn"):
        check(PackedChat([row]), 1, "DATA")
