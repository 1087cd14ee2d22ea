"""Tokens and log-probabilities are those that transformers gives: on one rank and on two, eager and compiled."""

import pytest
from tests.vllm.served import CLOSE, answers, engine

ALONE = ("ladder", "ladder@1-2", "parallel", "parallel-2norm", "ladder-2", "fal", "fal+", "ladder@0,3")


@pytest.mark.parametrize("wiring", ALONE)
def test_one_rank(wiring, model, expected):
    folder = model(wiring)
    with engine(folder, enforce_eager=True) as llm:
        differences = [a.differs(b) for a, b in zip(answers(llm), expected(folder), strict=True)]
    assert max(differences) <= CLOSE
