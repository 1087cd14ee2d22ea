"""Sharding: which part a rank holds, and the same logits at every degree, rank by rank in threads."""

import pytest
import torch

from ladder.bench.plain import Decoder, logits, random_weight
from ladder.bench.point import BenchCase, check_logits, difference
from ladder.errors import UserError
from ladder.model.modeling import LadderConfig
from ladder.model.rewire import set_virtual_ranks
from ladder.model.sizes import size
from ladder.model.slicing import check_degree, part
from ladder.parallel.communicators import ThreadedRanks
from ladder.parallel.shard import build, check_tied
from ladder.wiring import Wiring, table

SHAPE = size("tiny").config(num_hidden_layers=4, vocab_size=64, attention_bias=True)
CONFIG = LadderConfig(**SHAPE, wiring="fal")  # with the norm that fal reads
WIRINGS = ["standard", "parallel", "parallel-2norm", "ladder", "ladder-2", "ladder@2-3", "parallel@1", "fal", "fal+"]
TIED = ["partial", "dtp-1", "spd", "spd@2-3", "desync-2x", "desync-4x"]
PROMPT, STEPS = 6, 3
IDS = torch.randint(0, 64, (2, PROMPT + STEPS), generator=torch.Generator().manual_seed(0))
WEIGHT = random_weight(0)


@pytest.mark.parametrize("wiring", [*WIRINGS, *TIED])
@pytest.mark.parametrize("tp", [2, 4])
def test_ranks_equal_the_unsharded_model(wiring, tp):
    whole, rows = build(CONFIG, 0, 1, WEIGHT), table(wiring, CONFIG.num_hidden_layers, tp)
    set_virtual_ranks(whole, tp if Wiring.parse(wiring).tied else 1)
    expected = logits(Decoder(whole, rows, IDS, PROMPT, whole.rewiring.all_reduce), STEPS)

    def work(rank, all_reduce):
        decoder = Decoder(build(CONFIG, rank, tp, WEIGHT), rows, IDS, PROMPT, all_reduce)
        return difference(logits(decoder, STEPS), expected, rows, rank, tp)

    assert max(ThreadedRanks(tp).run(work)) < 1e-5


def test_ranks_that_share_key_value_heads():
    """Four ranks, two KV heads, static caches."""
    config = LadderConfig(**SHAPE | {"num_key_value_heads": 2})
    point = BenchCase(config, 4, 2, PROMPT, STEPS, ("standard", "ladder"), replicate_kv=True)
    assert max(check_logits(point).values()) < 1e-5


def test_a_failing_rank_stops_the_others():
    def work(rank, all_reduce):
        if rank == 1:
            raise UserError("rank 1 is out")
        return all_reduce(torch.ones(1)).wait()

    with pytest.raises(UserError, match="rank 1 is out"):
        ThreadedRanks(2).run(work)


@pytest.mark.parametrize(("tp", "key"), [(3, "num_attention_heads"), (8, "num_attention_heads"), (0, "num_attention")])
def test_a_degree_that_does_not_divide_is_refused(tp, key):
    with pytest.raises(UserError, match=f"tensor-parallel degree {tp} does not divide the model's {key}"):
        check_degree(CONFIG, tp)


def test_key_value_heads_are_replicated_by_choice_only():
    config = LadderConfig(**SHAPE | {"num_key_value_heads": 2})
    with pytest.raises(UserError, match=r"num_key_value_heads \(2\); replicate_kv=True gives several ranks the same"):
        check_degree(config, 4)
    check_degree(config, 4, replicate_kv=True)
    rows = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    name = "model.layers.0.self_attn.k_proj.weight"
    held = [part(torch.arange(rows)[:, None], name, rank, 4, config).flatten().tolist() for rank in range(4)]
    assert held == [[*range(rows // 2)]] * 2 + [[*range(rows // 2, rows)]] * 2


def test_a_vocabulary_that_does_not_divide_is_refused():
    check_degree(CONFIG, 4, split_vocabulary=True)
    with pytest.raises(UserError, match=r"does not divide the model's vocab_size \(63\)"):
        check_degree(LadderConfig(**SHAPE | {"vocab_size": 63}), 4, split_vocabulary=True)


def test_a_tied_wiring_is_refused_at_another_degree():
    config = LadderConfig(**SHAPE, wiring="spd", tensor_parallel_size=2)
    check_tied(config, 2)
    with pytest.raises(UserError, match=r"belongs to tensor-parallel degree 2: .*convert the original with --tp 4"):
        check_tied(config, 4)


@pytest.mark.parametrize("split", [False, True])
def test_the_parts_of_all_ranks_are_the_whole(split):
    config = LadderConfig(**SHAPE, wiring="fal")
    shapes = {name: tuple(p.shape) for name, p in build(config, 0, 1, WEIGHT).named_parameters()}
    for name, shape in shapes.items():
        seen = torch.zeros(shape, dtype=torch.int)
        for rank in range(4):
            part(seen, name, rank, 4, config, split).add_(1)
        replicated = "norm" in name or "o_proj.bias" in name or ("embed" in name and not split)
        assert (seen == (4 if replicated else 1)).all(), name
