"""Launch and wait over gloo: sums, in the order of launches, in place; and where they must not run."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from fleet import together

from ladder.residual import Landed
from ladder.vllm import communicator
from ladder.vllm.order import expected
from ladder.wiring import table


def sums(group) -> list:
    communicator.connect(SimpleNamespace(device_group=dist.group.WORLD, world_size=2))
    all_reduce = communicator.AllReduce((True, True, False), lambda partial: 10 * partial)
    partials = [torch.full((2, 3), float(10**n * (group.world_rank + 1))) for n in range(3)]
    handles = [all_reduce(partial) for partial in partials]
    totals = [handle.wait() for handle in handles]
    return [total[0, 0].item() for total in totals], [a is b for a, b in zip(partials, totals, strict=True)]


def out_of_order(group) -> str:
    communicator.connect(SimpleNamespace(device_group=dist.group.WORLD, world_size=2))
    all_reduce = communicator.AllReduce((True, True), None)
    _, second = [all_reduce(torch.ones(1)) for _ in range(2)]
    with pytest.raises(RuntimeError) as refused:
        second.wait()
    return str(refused.value)


@pytest.mark.ranks
def test_sums_over_ranks(tmp_path):
    first, second = together(2, tmp_path / "sums", sums)
    assert first == ([3.0, 30.0, 1000.0], [True, True, False])
    assert second == ([3.0, 30.0, 2000.0], [True, True, False])
    assert all("oldest" in refused for refused in together(2, tmp_path / "order", out_of_order))


def test_inductor_refuses_the_pair():
    """It would move it, and give wrong tokens without a word."""
    communicator.guard()

    @torch.compile
    def compiled(x):
        partial = x @ x
        torch.ops.ladder.launch(partial)
        other = x.relu() @ x
        torch.ops.ladder.wait(partial)
        return partial + other

    with pytest.raises(Exception, match="splitting_ops"):
        compiled(torch.ones(4, 4))


@pytest.mark.parametrize(
    ("wiring", "tp", "order"),
    [
        ("ladder", None, "MAM L MM LW MAM LW MM L W W"),
        ("ladder@1", None, "MAM MM L MAM LW MM L W W"),
        ("parallel", None, "MAM MM MAM MM"),
        ("ladder-2", None, "MAM L MM L MAM LW MM L W W W"),
    ],
)
def test_what_overlaps(wiring, tp, order):
    """Of two layers. Waited for at once is vLLM's own all-reduce."""
    assert expected(table(wiring, 2, tp)) == order.replace(" ", "")


def test_at_once_has_landed():
    assert isinstance(communicator.AllReduce((False,), lambda partial: partial)(torch.ones(1)), Landed)
