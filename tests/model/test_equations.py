"""Every wiring against a literal implementation of its published equations, rank by rank, at T = 1, 2, 4.

Nothing of the executor or of the sharding is used here: attention, MLP and norms are written out over slices of the
weights; each function below follows the text of its source.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.rewire import rewire, set_virtual_ranks
from ladder.model.sizes import size
from ladder.wiring import Wiring, table

L, VOCAB = 4, 128
SHAPE = size("tiny").config(num_hidden_layers=L, vocab_size=VOCAB, num_attention_heads=8, num_key_value_heads=4)
IDS = torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))


def make(wiring, tp):
    torch.manual_seed(0)
    config = LadderConfig(**SHAPE, wiring=wiring, tensor_parallel_size=tp if Wiring.parse(wiring).tied else None)
    model = LadderForCausalLM(config).eval()
    for n, (name, parameter) in enumerate(model.named_parameters()):
        if "norm" in name:  # norms that differ, or the choice of norm could not be seen
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=torch.Generator().manual_seed(n))
    if not Wiring.parse(wiring).tied:
        set_virtual_ranks(model, tp)
    return model


class Ranks:
    """The partial outputs of ``size`` ranks, from slices of a model's weights."""

    def __init__(self, model, size):
        self.weights, self.config, self.size = dict(model.named_parameters()), model.config, size
        self.embedded = self.weights["model.embed_tokens.weight"][IDS]
        inverse = 1 / self.config.rope_parameters["rope_theta"] ** (torch.arange(0, self.dim, 2) / self.dim)
        angles = torch.outer(torch.arange(IDS.shape[1]), inverse).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()

    @property
    def dim(self):
        return self.config.hidden_size // self.config.num_attention_heads

    def norm(self, name, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt() * self.weights[f"{name}.weight"]

    def rows(self, name, r):
        return self.weights[f"{name}.weight"].chunk(self.size, 0)[r]

    def columns(self, name, r):
        return self.weights[f"{name}.weight"].chunk(self.size, 1)[r]

    def rotate(self, x):
        half = torch.cat([-x[..., self.dim // 2 :], x[..., : self.dim // 2]], -1)
        return x * self.cos + half * self.sin

    def attention(self, i, r, x, normed=None):
        """Rank r's partial output of layer i's attention."""
        block = f"model.layers.{i}.self_attn"
        h = self.norm(f"model.layers.{i}.input_layernorm", x)
        q, k, v = ((h @ self.rows(f"{block}.{n}_proj", r).T).unflatten(-1, (-1, self.dim)) for n in "qkv")
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        scores = self.rotate(q) @ self.rotate(k).transpose(-1, -2) / math.sqrt(self.dim)
        future = torch.ones(IDS.shape[1], IDS.shape[1], dtype=torch.bool).triu(1)
        out = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        return out.transpose(1, 2).flatten(2) @ self.columns(f"{block}.o_proj", r).T

    def mlp(self, i, r, x, norm="post_attention_layernorm", signal=0):
        """Rank r's partial output of layer i's MLP."""
        block = f"model.layers.{i}.mlp"
        h = self.norm(f"model.layers.{i}.{norm}", x) + signal
        gate, up = (h @ self.rows(f"{block}.{n}_proj", r).T for n in ("gate", "up"))
        return (F.silu(gate) * up) @ self.columns(f"{block}.down_proj", r).T

    def module(self, n, r, x):
        return (self.attention, self.mlp)[n % 2](n // 2, r, x)

    def total(self, partial):
        """An all-reduce."""
        return sum(partial(r) for r in range(self.size))

    def head(self, x):
        return self.norm("model.norm", x) @ self.weights["model.embed_tokens.weight"].T


def standard(m):
    x = m.embedded
    for n in range(2 * L):
        x = x + m.total(lambda r, x=x, n=n: m.module(n, r, x))
    return m.head(x)


def ladder(m):
    """x_{n+1} = x_n + AllReduce(f_{n-1}), f_n = h_n(x_n) (paper, equations 3-4)."""
    x, before = m.embedded, torch.zeros_like(m.embedded)
    for n in range(2 * L):
        output = m.total(lambda r, x=x, n=n: m.module(n, r, x))
        x, before = x + before, output
    return m.head(x + before)


def ladder_2(m):
    outputs = []
    for n in range(2 * L):
        x = m.embedded + sum(outputs[: max(0, n - 2)])
        outputs.append(m.total(lambda r, x=x, n=n: m.module(n, r, x)))
    return m.head(m.embedded + sum(outputs))


def two_streams(m, chosen, own=0):
    """A hybrid as the authors' model has it: a stream, and the stream without the newest output (partial: without the
    other ranks' part of it)."""
    x = stale = m.embedded
    newest = [0] * m.size
    for n in range(2 * L):
        read = [stale + own * newest[r] if n // 2 in chosen else x for r in range(m.size)]
        newest = [m.module(n, r, read[r]) for r in range(m.size)]
        x, stale = x + sum(newest), x
    return m.head(x)


def parallel(m, norm="input_layernorm"):
    x = m.embedded
    for i in range(L):
        x = x + m.total(lambda r, x=x, i=i: m.attention(i, r, x) + m.mlp(i, r, x, norm))
    return m.head(x)


def partial(m):
    """FarSkip: the input lacks the other ranks' part of the newest output."""
    x, before = m.embedded, [0] * m.size
    for n in range(2 * L):
        outputs = [m.module(n, r, x + before[r]) for r in range(m.size)]
        x, before = x + sum(before), outputs
    return m.head(x + sum(before))


def delayed(m, delta):
    """DTP: the last delta outputs are a rank's own shares, times sqrt(T) in the first and the last delta modules; the
    last delta never land, and each rank's stream feeds its part of the vocabulary."""
    end = 2 * L
    outputs = []

    def read(n, r):
        landed = sum(sum(outputs[k]) for k in range(max(0, n - delta)))
        own = [math.sqrt(m.size) if k < delta or k >= end - delta else 1 for k in range(end)]
        return m.embedded + landed + sum(own[k] * outputs[k][r] for k in range(max(0, n - delta), n))

    for n in range(end):
        outputs.append([m.module(n, r, read(n, r)) for r in range(m.size)])
    return torch.cat([m.head(read(end, r)).chunk(m.size, -1)[r] for r in range(m.size)], -1)


def spd(m):
    """Sync-Point Drop: y_r = a_r(x), z_r = m_r(x + y_r), x <- x + AllReduce(y_r + z_r)."""
    x = m.embedded
    for i in range(L):
        attended = [m.attention(i, r, x) for r in range(m.size)]
        x = x + m.total(lambda r, x=x, i=i, a=attended: a[r] + m.mlp(i, r, x + a[r]))
    return m.head(x)


def desync(m, every, chosen=range(L)):
    """As in the authors' code: not reduced X_r <- X_r + p_r; reduced X <- AllReduce(p_r + X_r / T)."""
    streams, run = [m.embedded] * m.size, 0
    for n in range(2 * L):
        partials = [m.module(n, r, streams[r]) for r in range(m.size)]
        if n // 2 not in chosen:
            streams, run = [m.total(lambda r, p=partials: p[r]) + streams[0]] * m.size, 0
            continue
        run += 1
        if run % every == 0 or n == 2 * L - 1 or (n % 2 and n // 2 + 1 not in chosen):
            streams = [m.total(lambda r, p=partials, s=streams: p[r] + s[r] / m.size)] * m.size
        else:
            streams = [s + p for s, p in zip(streams, partials, strict=True)]
    return m.head(streams[0])


def first_attention(m, joint, chosen=range(1, L)):
    """FAL: f = N_f(a_0); x <- x + R(A_i(N1 x) + M_i(N2 x + f)). FAL+: the same signal in a standard layer."""
    x, signal = m.embedded, None
    for i in range(L):
        a = m.total(lambda r, x=x, i=i: m.attention(i, r, x))
        signal = m.norm("model.first_attention_norm", a) if i == 0 else signal
        extra = signal if i in chosen else 0
        read = x if joint and i in chosen else x + a
        x = x + a + m.total(lambda r, x=read, i=i, f=extra: m.mlp(i, r, x, signal=f))
    return m.head(x)


EQUATIONS = {
    "standard": standard,
    "ladder": ladder,
    "ladder-2": ladder_2,
    "ladder@1-2": lambda m: two_streams(m, (1, 2)),
    "ladder@0,3": lambda m: two_streams(m, (0, 3)),
    "parallel": parallel,
    "parallel-2norm": lambda m: parallel(m, "post_attention_layernorm"),
    "partial": partial,
    "partial@1-2": lambda m: two_streams(m, (1, 2), own=1),
    "dtp-1": lambda m: delayed(m, 1),
    "dtp-2": lambda m: delayed(m, 2),
    "spd": spd,
    "desync-2x": lambda m: desync(m, 2),
    "desync-4x": lambda m: desync(m, 4),
    "desync-6x": lambda m: desync(m, 6),
    "desync-nx": lambda m: desync(m, 2 * L),
    "desync-4x@1-3": lambda m: desync(m, 4, (1, 2, 3)),
    "desync-2x@0,2": lambda m: desync(m, 2, (0, 2)),
    "fal": lambda m: first_attention(m, True),
    "fal+": lambda m: first_attention(m, False),
    "fal@2": lambda m: first_attention(m, True, (2,)),
}


@torch.no_grad()
@pytest.mark.parametrize("wiring", EQUATIONS)
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_equals_its_published_equations(wiring, tp):
    model = make(wiring, tp)
    assert torch.allclose(model(IDS).logits, EQUATIONS[wiring](Ranks(model, tp)), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("wiring", [w for w in EQUATIONS if not Wiring.parse(w).tied])
def test_an_untied_wiring_is_the_same_function_at_every_degree(wiring):
    logits = [make(wiring, tp)(IDS).logits for tp in (1, 2, 4)]
    assert all(torch.allclose(logits[0], other, atol=1e-5) for other in logits[1:])


@torch.no_grad()
@pytest.mark.parametrize("wiring", [w for w in EQUATIONS if Wiring.parse(w).tied])
def test_a_tied_wiring_is_standard_at_one_rank_and_another_function_at_two(wiring):
    standard = make("standard", 1)(IDS).logits
    assert torch.allclose(make(wiring, 1)(IDS).logits, standard, atol=1e-5)
    assert not torch.allclose(make(wiring, 2)(IDS).logits, standard, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("wiring", "limit"), [("fal", "parallel-2norm@1-3"), ("fal+", "standard")])
def test_first_attention_with_zero_gain_is_its_limit(wiring, limit):
    model = make(wiring, 1)
    torch.nn.init.zeros_(model.model.first_attention_norm.weight)
    found = model(IDS).logits
    rewire(model, limit)
    assert torch.allclose(found, model(IDS).logits, atol=1e-5)


@torch.no_grad()
def test_delayed_by_nothing_is_standard():
    model = make("dtp-0", 2)
    found = model(IDS).logits
    rewire(model, "standard")
    assert torch.allclose(found, model(IDS).logits, atol=1e-5)
    assert all(row.lag == 0 for row in table("dtp-0", L, 2))


@torch.no_grad()
@pytest.mark.parametrize("wiring", ["ladder", "ladder-2", "ladder@1,3", "parallel-2norm"])
def test_annealed_from_standard_to_the_wiring(wiring):
    """Every module of a converted layer reads a x the late stream + (1 - a) x the one in time."""
    model = make(wiring, 1)
    late, rows = model(IDS).logits, model.rewiring.table
    model.rewiring.table = rows.annealed(1.0)
    assert torch.equal(model(IDS).logits, late)
    model.rewiring.table = rows.annealed(0.0)
    assert torch.equal(model(IDS).logits, make("standard", 1)(IDS).logits)
    model.rewiring.table = rows.annealed(0.3)
    m, outputs = Ranks(model, 1), []
    for n in range(2 * L):
        missing = sum(outputs[max(0, n - rows[n].lag) :])
        x = m.embedded + sum(outputs) - (0.3 * missing if rows[n].lag else 0)
        outputs.append(m.module(n, 0, x))
    assert torch.allclose(model(IDS).logits, m.head(m.embedded + sum(outputs)), atol=1e-5)
    assert not torch.allclose(model(IDS).logits, late, atol=1e-3)


def test_what_can_be_annealed():
    assert table("ladder@1-2", L).only_delays
    assert not any(table(wiring, L, 2).only_delays for wiring in ("parallel", "partial", "spd", "fal", "desync-2x"))
