"""Losses in pieces equal the plain ones; what they count; that the logits of all tokens never exist; sharded heads."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fleet import together
from torch.utils._python_dispatch import TorchDispatchMode
from toy import VOCAB, options
from toy import model as toy_model

from ladder.parallel.group import Group
from ladder.train import layout
from ladder.train.batches import IGNORE, Batch
from ladder.train.layout import full_tensor
from ladder.train.losses import LOGITS, divergence, measure, token_losses, tokens

PIECE = 7 * VOCAB  # logits: 7 tokens at a time
WIRINGS = [("standard", None), ("ladder", None), ("desync-2x", 2), ("dtp-1", 2)]  # the last one's streams end apart
ALL = {"loss": 0.5, "kl": 0.25, "hidden": 2.0}


def batch(rows: int = 3, sequence: int = 16) -> Batch:
    """Rows of two conversations each: the first 9 tokens, of which 5 are scored; then 6 scored of 7."""
    ids = np.random.default_rng(rows).integers(0, VOCAB, (rows, sequence + 1))
    targets = ids[:, 1:].copy()
    targets[:, :4] = targets[:, 9] = IGNORE
    positions = np.tile(np.r_[0:9, 0 : sequence - 9], (rows, 1))
    return Batch(ids[:, :-1], targets, positions)


def gradients(net, loss) -> dict[str, torch.Tensor]:
    net.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def plainly(net, teacher, given: Batch, weights: dict) -> torch.Tensor:
    """The same from full logits, as a textbook has it."""
    inputs, targets, positions = map(torch.from_numpy, given)
    logits = net(input_ids=inputs, position_ids=positions).logits.flatten(0, 1)
    total = weights["loss"] * F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="sum")
    if teacher is None:
        return total
    with torch.no_grad():
        p = teacher(input_ids=inputs, position_ids=positions).logits.flatten(0, 1).softmax(-1)
        known = teacher.model(input_ids=inputs, position_ids=positions).last_hidden_state
    total = total + weights["kl"] * (p * (p.log() - logits.log_softmax(-1))).sum()
    hidden = net.model(input_ids=inputs, position_ids=positions).last_hidden_state
    apart = hidden.unflatten(-1, (-1, known.shape[-1])) - known.unsqueeze(2)
    return total + weights["hidden"] * apart.square().mean((2, 3)).sum()


@pytest.mark.parametrize("most", [LOGITS, PIECE], ids=["whole", "pieces"])
@pytest.mark.parametrize(("wiring", "tp"), WIRINGS)
@pytest.mark.parametrize("taught", [False, True], ids=["sft", "distill"])
def test_equal_to_the_plain_loss_and_its_gradients(wiring, tp, taught, most):
    net, teacher = toy_model(0, wiring, tp), toy_model(1, "standard") if taught else None
    weights = ALL if taught else {"loss": 0.5}
    expected = plainly(net, teacher, batch(), weights)
    wanted = gradients(net, 3 * expected)
    loss, values = measure(net, batch(), "cpu", weights, teacher, most=most)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(net, 3 * loss), wanted, rtol=1e-5, atol=1e-5)
    assert sum(weights[term] * value.sum().item() for term, value in values.items()) == pytest.approx(
        expected.item(), rel=1e-5
    )
    assert not any(value.requires_grad for value in values.values())
    with torch.no_grad():
        torch.testing.assert_close(measure(net, batch(), "cpu", weights, teacher, most=most)[1], values)


class Largest(TorchDispatchMode):
    """Notes the most numbers that any operation gives out."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize("taught", [False, True], ids=["sft", "distill"])
def test_the_logits_of_all_tokens_never_exist(taught):
    """Wide enough a vocabulary for the logits to be the largest of all tensors."""
    nets = [toy_model(seed, vocab=2048) for seed in range(2)]
    given, weights = batch(16, 64), {"loss": 1.0, "kl": 1.0} if taught else {"loss": 1.0}
    everything = 16 * 64 * 2048
    for most, low, high in ((LOGITS, 0.8, 1), (everything // 16, 0, 1 / 16)):
        with Largest() as largest:
            loss, _ = measure(nets[0], given, "cpu", weights, nets[1] if taught else None, most=most)
            loss.backward()
        assert low * everything <= largest.numbers <= high * everything


def test_only_scored_tokens_reach_the_head():
    net, seen = toy_model(), []
    net.lm_head.register_forward_hook(lambda _, __, out: seen.append(out.shape[:-1].numel()))
    losses = token_losses(net, batch(), "cpu")
    assert seen == [int((batch().targets != IGNORE).sum())]
    assert ((losses != 0).numpy() == (batch().targets != IGNORE)).all()
    nothing = batch()._replace(targets=np.full_like(batch().targets, IGNORE))
    loss, values = measure(net, nothing, "cpu", {"loss": 1.0})
    loss.backward()  # ranks sum their gradients together, so one without a token has some too
    assert loss.item() == values["loss"].sum().item() == 0
    assert net.lm_head.weight.grad.abs().max() == 0


def test_padding_is_not_distilled():
    given = batch(2)
    assert tokens(given).all()
    given.targets[1, 9:] = IGNORE  # so no conversation begins there
    assert tokens(given).tolist() == [[True] * 16, [True] * 9 + [False] * 7]
    assert tokens(given._replace(positions=None)).all()
    nets = [toy_model(seed) for seed in range(2)]
    _, values = measure(nets[0], given, "cpu", {"kl": 1.0}, nets[1])
    assert ((values["kl"] > 0).numpy() == tokens(given)).all()


def test_divergence():
    expected, logits = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert divergence(expected, expected, 2.0).abs().max() < 1e-12
    p, q = (expected / 2).softmax(-1), (logits / 2).softmax(-1)
    torch.testing.assert_close(divergence(expected, logits, 2.0), 4 * (p * (p / q).log()).sum(-1))


SHARDED = [("standard", None, "fp32"), ("ladder", None, "fp32"), ("dtp-1", 2, "fp32"), ("ladder", None, "bf16")]


def sharded(rank_and_size, bf16: bool = False) -> list:
    """(loss, norm of the gradients, of the head's alone) of each case: of two rows on each of two ranks, or of four."""
    found = []
    for wiring, tp, precision in SHARDED:
        chosen = options(shard=rank_and_size.size, precision=precision if bf16 else "fp32")
        net, teacher = toy_model(0, wiring, tp), toy_model(1, "standard").requires_grad_(False)
        net, teacher = (layout.distribute(model, rank_and_size, chosen) for model in (net, teacher))
        whole_batch = batch(4)
        mine = slice(rank_and_size.rank, None, rank_and_size.size)
        given = Batch(*(part[mine] for part in whole_batch))
        loss, _ = measure(net, given, "cpu", ALL, teacher, most=PIECE)
        (loss * rank_and_size.size).backward()
        loss = rank_and_size.sum(loss.detach().double())
        norms = {name: full_tensor(p.grad).double().norm().item() for name, p in net.named_parameters()}
        found.append([loss.item(), sum(n**2 for n in norms.values()) ** 0.5, norms["model.embed_tokens.weight"]])
    return found


@pytest.mark.ranks
def test_over_two_ranks_that_share_the_weights(tmp_path):
    first, second = together(2, tmp_path, sharded, True)
    assert first == second
    alone = sharded(Group(0, 1, torch.device("cpu")))
    for case, got, wanted in zip(SHARDED, first, alone, strict=True):
        assert got == pytest.approx(wanted, rel=0.05 if case[2] == "bf16" else 1e-5), case
