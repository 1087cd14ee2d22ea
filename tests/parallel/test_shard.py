"""Tensor parallelism: the same logits at every degree, over virtual ranks and over real ones."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import ladder
from ladder.bench.decoder import Decoder, build, expected_order, logits, order, random_weight
from ladder.errors import UserError
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.sizes import size
from ladder.parallel.communicators import EmulatedLink, ProcessGroup, Solo, VirtualRanks
from ladder.parallel.shard import check_degree

CONFIG = LadderConfig(**size("tiny").config(num_hidden_layers=4, vocab_size=64, attention_bias=True))
WIRINGS = ["standard", "parallel", "parallel-2norm", "ladder", "ladder-2", "ladder@2-3", "parallel@1"]
PROMPT, STEPS = 6, 3
IDS = torch.randint(0, 64, (2, PROMPT + STEPS), generator=torch.Generator().manual_seed(0))
WEIGHT = random_weight(0)


def expected(wiring):
    return logits(Decoder(build(CONFIG, 0, 1, WEIGHT), wiring, IDS, PROMPT, Solo().all_reduce), STEPS)


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("tp", [2, 4])
def test_virtual_ranks_equal_the_unsharded_model(wiring, tp):
    def work(rank, all_reduce):
        return logits(Decoder(build(CONFIG, rank, tp, WEIGHT), wiring, IDS, PROMPT, all_reduce), STEPS)

    ranks = VirtualRanks(tp).run(work)
    assert all(torch.equal(rank, ranks[0]) for rank in ranks)
    assert (ranks[0] - expected(wiring)).abs().max() < 1e-5


def test_a_failing_virtual_rank_stops_the_others():
    def work(rank, all_reduce):
        if rank == 1:
            raise UserError("rank 1 is out")
        return all_reduce(torch.ones(1)).wait()

    with pytest.raises(UserError, match="rank 1 is out"):
        VirtualRanks(2).run(work)


@pytest.mark.parametrize("wiring", [*WIRINGS, "upper_bound"])
def test_number_and_order_of_collectives(wiring):
    decoder = Decoder(build(CONFIG, 0, 2, WEIGHT), wiring, IDS, PROMPT, EmulatedLink(2, 0.0).all_reduce)
    decoder.prefill()
    assert order(decoder) == expected_order(decoder)


@pytest.mark.parametrize(("tp", "key"), [(3, "num_attention_heads"), (8, "num_attention_heads"), (0, "num_attention")])
def test_a_degree_that_does_not_divide_is_refused(tp, key):
    with pytest.raises(UserError, match=f"tensor-parallel degree {tp} does not divide the model's {key}"):
        check_degree(CONFIG, tp)


def test_tensor_parallel_training_is_refused_not_wrong(tmp_path):
    with pytest.raises(RuntimeError, match="no_grad"):
        ProcessGroup.all_reduce(object.__new__(ProcessGroup), torch.ones(1, requires_grad=True))


def rank_main(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    for wiring in WIRINGS:
        torch.manual_seed(0)
        model = LadderForCausalLM(LadderConfig(**CONFIG.to_dict() | {"wiring": wiring})).eval()
        with torch.no_grad():
            whole = model(IDS).logits
            width = model.model.layers[0].mlp.up_proj.weight.shape[0]
            ladder.parallelize(model, mesh)
            assert model.model.layers[0].mlp.up_proj.weight.shape[0] == width // world
            assert (model(IDS).logits - whole).abs().max() < 1e-5, wiring
            generated = model.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0)
            assert generated.shape == (2, PROMPT + STEPS + 4)
    dist.destroy_process_group()


def test_real_ranks_equal_the_unsharded_model(tmp_path):
    """``ladder.parallelize`` over two gloo processes, full logits on each, for every wiring."""
    torch.multiprocessing.spawn(rank_main, (2, str(tmp_path)), nprocs=2)
