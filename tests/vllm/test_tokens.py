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


TOGETHER = {"ladder": None, "ladder@1-2": None, "parallel": None, "spd": 2, "partial": 2, "desync-2x": 2, "dtp-1": 2}


@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize("wiring", TOGETHER)
def test_two_ranks(wiring, how, model, expected, request, tmp_path):
    folder = model(wiring, TOGETHER[wiring])
    settings = {"enforce_eager": True}
    if how == "compiled":
        request.getfixturevalue("pieces")
        settings = {"compilation_config": {"mode": 3, "compile_sizes": []}}
    with engine(folder, tp=2, **settings) as llm:
        differences = [a.differs(b) for a, b in zip(answers(llm), expected(folder), strict=True)]
    assert max(differences) <= CLOSE
