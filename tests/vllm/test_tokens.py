"""Tokens and log-probabilities are those that transformers gives: on one rank and on two, eager and compiled."""

import pytest
from served import CLOSE, PIECES, answers, engine

from ladder.vllm.order import expected as expected_order
from ladder.vllm.order import order_of
from ladder.wiring import table

pytest.importorskip("vllm.version", reason="needs vLLM: make test-vllm")
pytestmark = pytest.mark.usefixtures("forked")


def picked(wirings, quick):
    """Parameters of which only the ``quick`` ones run in the gate."""
    return [pytest.param(w, marks=() if w in quick else pytest.mark.slow) for w in wirings]


ALONE = ("ladder", "ladder@1-2", "parallel", "parallel-2norm", "ladder-2", "fal", "fal+", "ladder@0,3")
TOGETHER = {"ladder": None, "ladder@1-2": None, "parallel": None, "spd": 2, "partial": 2, "desync-2x": 2, "dtp-1": 2}


@pytest.mark.parametrize("wiring", picked(ALONE, ("ladder@1-2", "fal")))
def test_one_rank(wiring, model, expected):
    folder = model(wiring)
    with engine(folder) as llm:
        differences = [a.differs(b) for a, b in zip(answers(llm), expected(folder), strict=True)]
    assert max(differences) <= CLOSE


@pytest.mark.parametrize("wiring", picked(TOGETHER, ("ladder", "spd")))
def test_two_ranks(wiring, model, expected):
    folder = model(wiring, TOGETHER[wiring])
    with engine(folder, tp=2) as llm:
        differences = [a.differs(b) for a, b in zip(answers(llm), expected(folder), strict=True)]
    assert max(differences) <= CLOSE


@pytest.mark.parametrize("wiring", picked(TOGETHER, ("ladder",)))
def test_two_ranks_compiled(wiring, model, expected, pieces):
    """The same in compiled pieces, and the order in the graph that vLLM runs is that of the wiring's operations: a
    whole module of work between a launch and its wait, wherever the wiring has one there."""
    folder = model(wiring, TOGETHER[wiring])
    with engine(folder, tp=2, compilation_config=PIECES) as llm:
        differences = [a.differs(b) for a, b in zip(answers(llm), expected(folder), strict=True)]
    assert max(differences) <= CLOSE
    assert order_of(pieces) == 2 * [expected_order(table(wiring, 4, TOGETHER[wiring]))]
