"""Two ranks over gloo, sharded or replicated, give the numbers of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy import losses, run

CASES = {
    "replicate": {"shard": 1},
    "shard": {"shard": 2, "micro_batch": 1},  # two micro-batches a step
    "recompute": {"shard": 2, "activation_checkpointing": True},
    "bf16": {"shard": 2, "precision": "bf16"},
    # killed as two shards, resumed as two replicas
    "reshard": {"shard": 1, "kill": {"at": 5, "options": {"shard": 2}}},
}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("toy.py")
    done = subprocess.run(
        [*torchrun, script, folder, json.dumps(CASES)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second  # ranks agree on every number
    return first | {"stderr": done.stderr}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    return {p: run(tmp_path_factory.mktemp(p), precision=p)[0] for p in ("fp32", "bf16")}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(case, two_ranks, one_rank):
    expected, close = one_rank["bf16" if case == "bf16" else "fp32"], 2e-3 if case == "bf16" else 1e-5
    assert two_ranks[case]["training"] == pytest.approx(losses(expected), rel=close)
    for two, one in zip(two_ranks[case]["validation"], expected.validation, strict=True):
        assert two == pytest.approx(one, rel=close * 10)


def test_a_checkpoint_of_shards_resumes_as_replicas(two_ranks):
    assert "resuming after step 4" in two_ranks["stderr"]


def test_bf16_is_near_fp32(one_rank):
    assert losses(one_rank["bf16"]) == pytest.approx(losses(one_rank["fp32"]), rel=2e-2)
