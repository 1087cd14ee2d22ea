"""Ranks over gloo, sharded, replicated and tensor-parallel, give the numbers of one; the line that says which it is."""

import contextlib
from dataclasses import replace
from functools import cache

import pytest
from fleet import together
from toy import Tracking, killed, losses, model, run

from ladder.errors import UserError
from ladder.model import LadderConfig, LadderForCausalLM
from ladder.model.rewire import rewire
from ladder.model.tiny import tiny
from ladder.train import layout

pytestmark = pytest.mark.ranks

TWO = {
    "replicate": {"shard": 1},
    "shard": {"shard": 2, "micro_batch": 1},  # two micro-batches a step
    "recompute": {"shard": 2, "activation_checkpointing": True},
    "bf16": {"shard": 2, "precision": "bf16"},
    # killed as two shards, resumed as two replicas
    "reshard": {"shard": 1, "kill": {"shard": 2}},
    "tensor": {"tp_ranks": 2, "micro_batch": 2},
    "tensor recompute": {"tp_ranks": 2, "activation_checkpointing": True},
    "tensor bf16": {"tp_ranks": 2, "precision": "bf16"},
    "shards to tensor": {"tp_ranks": 2, "kill": {"shard": 2}},
    "tied": {"tp_ranks": 2, "wiring": "spd"},
    "experts shard": {"shard": 2, "wiring": "qwen3_moe ladder@1-2"},
    "norms after tensor": {"tp_ranks": 2, "wiring": "gemma2 ladder"},
    "killed": {"shard": 2, "micro_batch": 1, "kill": {"shard": 2, "micro_batch": 1}},
}
FOUR = {
    "hybrid": {"shard": 2, "steps": 3},
    "standard hybrid": {"shard": 2, "wiring": "standard", "steps": 3},
    "tensor shard": {"tp_ranks": 2, "shard": 2, "micro_batch": 1, "steps": 3},
    "standard tensor shard": {"tp_ranks": 2, "shard": 2, "wiring": "standard", "steps": 3},
    "tensor replicate": {"tp_ranks": 2, "steps": 3},
    "hybrid to tensor": {"tp_ranks": 2, "shard": 2, "kill": {"shard": 2}},
    "tensor to shards": {"shard": 4, "kill": {"tp_ranks": 2, "shard": 2}},
}
WORDS = {
    "replicate": ("DDP on a mesh of 2 replicate x 1 shard x 1 tp;", " 22,688 parameters on a rank"),
    "shard": ("FSDP2 on a mesh of 1 replicate x 2 shard x 1 tp;", " 11,344 of 22,688 parameters on a rank"),
    "recompute": ("; activations recomputed;",),
    "bf16": ("; 5 groups of parameters (each attention, each MLP, the rest); bf16 compute, fp32 weights and sums;",),
    "tensor": ("TP on a mesh of 1 replicate x 1 shard x 2 tp;", " 12,448 of 22,688 parameters on a rank"),
    "hybrid": ("HSDP on a mesh of 2 replicate x 2 shard x 1 tp;", " 11,344 of 22,688 parameters on a rank"),
    "tensor shard": ("TP x FSDP2 on a mesh of 1 replicate x 2 shard x 2 tp;", " 6,224 of 22,688 parameters on a rank"),
    "tensor replicate": (
        "TP x DDP on a mesh of 2 replicate x 1 shard x 2 tp;",
        "12,448 of 22,688 parameters on a rank",
    ),
}


def made(wiring: str = "ladder"):
    family, _, of_family = wiring.partition(" ")
    return rewire(tiny(family), of_family) if of_family else model(wiring=wiring, tp=2 if wiring == "spd" else None)


def work(these, folder, cases) -> dict:
    """What each rank does: every case in turn."""
    found = {}
    for name, changes in cases.items():
        kill, wiring = changes.pop("kill", None), changes.pop("wiring", "ladder")
        if kill is not None:
            with contextlib.suppress(KeyboardInterrupt):
                before = replace(these, tp=kill.get("tp_ranks", 1))
                run(folder / name, Tracking({5: killed}), net=made(wiring), these=before, checkpoint_every=4, **kill)
        net = made(wiring)
        after = replace(these, tp=changes.get("tp_ranks", 1))
        state, weights = run(folder / name, net=net, these=after, checkpoint_every=6, **changes)
        digest = sum(value.double().square().sum().item() for value in weights.values())
        norms = [point["grad_norm"] for point in state.training]
        found[name] = {"training": losses(state), "norms": norms, "validation": state.validation, "digest": digest}
        found[name]["gap"] = [point["straggler_gap"] for point in state.training if "straggler_gap" in point]
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """Of every case; at two and at four ranks the processes start once."""
    results = {}
    for size, cases in ((2, TWO), (4, FOUR)):
        folder = tmp_path_factory.mktemp("ranks")
        each = together(size, folder, work, folder, {name: dict(changes) for name, changes in cases.items()})
        said = (folder / "0.err").read_text()
        assert all(isinstance(one, dict) for one in each), (each, said[-4000:])
        assert all(one == each[0] for one in each)  # ranks agree on every number
        results |= each[0] | {f"folder {size}": folder, f"said {size}": said}
    return results


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    @cache
    def one(wiring="ladder", precision="fp32", steps=6):
        return run(tmp_path_factory.mktemp("one"), net=made(wiring), precision=precision, steps=steps)[0]

    return one


@pytest.mark.parametrize("case", [*TWO, *FOUR])
def test_ranks_equal_one(case, found, one_rank):
    changes = (TWO | FOUR)[case]
    expected = one_rank(**{key: changes[key] for key in ("wiring", "precision", "steps") if key in changes})
    close = 2e-3 if "bf16" in case else 1e-5
    assert found[case]["training"] == pytest.approx(losses(expected), rel=close)
    assert found[case]["norms"] == pytest.approx([p["grad_norm"] for p in expected.training], rel=close * 10)
    for ours, one in zip(found[case]["validation"], expected.validation, strict=True):
        assert ours == pytest.approx(one, rel=close * 10)


@pytest.mark.parametrize("case", WORDS)
def test_the_layout_in_force_is_said(case, found):
    size = 2 if case in TWO else 4
    lines = [line for line in found[f"said {size}"].splitlines() if line.startswith("cpu: ")]
    cases = [name for name, changes in (TWO if size == 2 else FOUR).items() for _ in range(1 + ("kill" in changes))]
    line = lines[cases.index(case)]
    assert all(part in line for part in WORDS[case]), line


def test_one_plain_rank_is_said_too(tmp_path, capfd):
    run(tmp_path, steps=1)
    assert "cpu: fp32; 22,688 parameters on a rank" in capfd.readouterr().err


def test_killed_and_resumed_at_the_same_ranks_is_exact(found):
    assert found["killed"]["training"] == found["shard"]["training"]
    assert found["killed"]["digest"] == found["shard"]["digest"]
    assert "resuming after step 4" in found["said 2"]


def test_killed_at_two_resumed_on_one(found, one_rank, tmp_path):
    """The same rows in the same order, losses to rounding; from the checkpoints that two ranks left, whole weights."""
    for name, changes in (("shard", {"shard": 2}), ("tensor", {"tp_ranks": 2})):
        together(2, tmp_path / name, work_killed, tmp_path / name, changes)
        tracking = Tracking()
        state, _ = run(tmp_path / name / "work", tracking, net=model(seed=5))
        assert min(step for step, values in tracking.logged if "train/loss" in values) == 5
        assert losses(state) == pytest.approx(losses(one_rank()), rel=1e-5)


def work_killed(these, folder, changes) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        these = replace(these, tp=changes.get("tp_ranks", 1))
        run(folder / "work", Tracking({5: killed}), these=these, checkpoint_every=4, **changes)


def test_stragglers_are_looked_for_at_validations(found):
    assert len(found["replicate"]["gap"]) == 2
    assert min(found["replicate"]["gap"]) >= 1


def test_bf16_is_near_fp32(one_rank):
    assert losses(one_rank(precision="bf16")) == pytest.approx(losses(one_rank()), rel=2e-2)


@pytest.mark.parametrize(
    ("wiring", "tp", "changes", "words"),
    [
        ("spd", 4, {}, "belongs to tensor-parallel degree 4"),
        ("dtp-1", 2, {}, "--tp-ranks 2: the ranks' streams end apart under wiring 'dtp-1'"),
        ("ladder", None, {"mlp_bias": True}, "down_proj.bias would be trained by each rank on its own"),
        ("ladder", None, {"num_key_value_heads": 1}, "tensor-parallel degree 2 does not divide .*num_key_value_heads"),
    ],
)
def test_what_tensor_parallel_ranks_cannot_train(wiring, tp, changes, words):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LadderForCausalLM(LadderConfig(vocab_size=64, wiring=wiring, tensor_parallel_size=tp, **shape | changes))
    with pytest.raises(UserError, match=words):
        layout.check(model, 2)
    layout.check(model, 1)
