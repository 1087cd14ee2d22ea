"""A seeded few of the mutations of ``python -m tests.fuzz``."""

import os

import pytest
from fuzz import judge, make_checkpoint, run
from fuzz_inputs import KINDS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("fuzz"))


def test_mutated_inputs_end_in_success_or_one_sentence(checkpoint):
    outcomes = list(run(1, 3 * len(KINDS), checkpoint))
    bad = [entry for entry in outcomes if entry[2].verdict not in ("accepted", "sentence")]
    assert not bad, bad
    assert sum(outcome.verdict == "sentence" for *_, outcome in outcomes) > len(KINDS)


def test_the_oracle_tells_failures_apart(checkpoint):
    def crash():
        raise KeyError("x")

    assert judge(crash).verdict == "traceback"
    assert judge(lambda: None).verdict == "accepted"
    assert judge(["simulate", "--tp", "3"]).verdict == "sentence"
    assert judge(["convert", checkpoint, os.devnull, "--wiring", "ladder"]).verdict == "sentence"
