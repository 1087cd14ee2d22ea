"""What the decode path computes: attention and MLP on fused weights, with a static cache.

Fusion is a transformation at load: the Q, K and V weights of a layer become slices of one tensor, as do gate and up.
The model keeps its parameters, their names and their values; the decode path reads them in one product.

Shapes: B batch, S new tokens, D hidden size, H heads of this rank, K its KV heads, G = H / K, d head size, C cache
length.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ladder.model.modeling import LadderForCausalLM


class Attention(NamedTuple):
    """Weights of one attention; the cache's K and V are [B, K, C, d]."""

    norm: torch.Tensor
    qkv: torch.Tensor  # [(H + 2K) d, D]
    qkv_bias: torch.Tensor | None
    out: torch.Tensor  # [D, H d]
    out_bias: torch.Tensor | None


class Mlp(NamedTuple):
    norm: torch.Tensor
    gate_up: torch.Tensor  # [2 x intermediate, D]
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor  # [D, intermediate]
    down_bias: torch.Tensor | None


class Now(NamedTuple):
    """Where the new tokens stand."""

    positions: torch.Tensor  # [S], in the cache
    cos: torch.Tensor  # [1, S, d]
    sin: torch.Tensor
    seen: torch.Tensor  # [1, 1, 1, C]: which positions of the cache a single new token reads


class Fused:
    """A model (or one rank's shard) fused in place, as the decode path reads it; several engines share one.

    modules: weights in the order of the wiring's rows.
    """

    def __init__(self, model: LadderForCausalLM):
        self.model, self.config = model, model.config
        self.head_size = model.model.layers[0].self_attn.head_dim
        self.eps = model.config.rms_norm_eps
        self.modules: list[Attention | Mlp] = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            qkv, qkv_bias = _join(attention.q_proj, attention.k_proj, attention.v_proj)
            gate_up, gate_up_bias = _join(mlp.gate_proj, mlp.up_proj)
            out, down = attention.o_proj, mlp.down_proj
            norms = layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach()
            self.modules += [
                Attention(norms[0], qkv, qkv_bias, out.weight.detach(), _detached(out.bias)),
                Mlp(norms[1], gate_up, gate_up_bias, down.weight.detach(), _detached(down.bias)),
            ]
        self.kv_heads = model.model.layers[0].self_attn.k_proj.weight.shape[0] // self.head_size
        self.embedding = model.model.embed_tokens.weight.detach()
        self.norm, self.head = model.model.norm.weight.detach(), model.lm_head.weight.detach()

    def rotary(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos, sin) of all positions [length, d]."""
        positions = torch.arange(length, device=self.norm.device).unsqueeze(0)
        cos, sin = self.model.model.rotary_emb(self.norm, positions)
        return cos[0], sin[0]


def _join(*linears: torch.nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(weight, bias) of all the layers in one tensor, of which theirs become slices."""
    joined = []
    for name in ("weight", "bias"):
        parts = [getattr(linear, name) for linear in linears]
        if parts[0] is None:
            joined.append(None)
            continue
        whole = torch.cat([part.detach() for part in parts])
        for linear, part, piece in zip(linears, parts, whole.split([len(part) for part in parts]), strict=True):
            setattr(linear, name, torch.nn.Parameter(piece, requires_grad=part.requires_grad))
        joined.append(whole)
    return tuple(joined)


def _detached(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.detach()


def attend(weights: Attention, kv: tuple, normed: torch.Tensor, now: Now, head: int, how: str) -> torch.Tensor:
    """[B, S, D] -> this rank's partial output [B, S, D]; writes the new K and V into the cache ``kv``.

    S > 1 is a prefill into an empty cache; S = 1 reads the cache, with queries that share a KV head side by side, so
    that K and V are read once and never expanded. how: a row of ``DECODE``.
    """
    keys, values = kv
    tokens, wide = normed.shape[1], keys.shape[1] * head
    q, k, v = F.linear(normed, weights.qkv, weights.qkv_bias).split([weights.out.shape[1], wide, wide], -1)
    q, k, v = (part.unflatten(-1, (-1, head)).transpose(1, 2) for part in (q, k, v))
    q, k = apply_rotary_pos_emb(q, k, now.cos, now.sin)
    keys.index_copy_(2, now.positions, k)
    values.index_copy_(2, now.positions, v)
    if tokens > 1:
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        mixed = mixed.transpose(1, 2)
    else:
        mixed = DECODE[how](q.squeeze(2).unflatten(1, (keys.shape[1], -1)), keys, values, now.seen)
    return F.linear(mixed.reshape(*normed.shape[:2], -1), weights.out, weights.out_bias)


def _sdpa(q, keys, values, seen):
    return F.scaled_dot_product_attention(q, keys, values, seen)


def _matmul(q, keys, values, seen):
    scores = (q @ keys.transpose(2, 3)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=torch.float32).to(q.dtype) @ values


def _flex(q, keys, values, seen):
    from torch.nn.attention.flex_attention import flex_attention

    def unseen_never(score, batch, head, query, key):
        return torch.where(seen[0, 0, 0, key], score, -torch.inf)

    return flex_attention(q, keys, values, unseen_never)


# q [B, K, G, d], keys and values [B, K, C, d], seen [1, 1, 1, C] -> [B, K, G, d]
DECODE = {"sdpa": _sdpa, "matmul": _matmul, "flex": _flex}


def mlp(weights: Mlp, normed: torch.Tensor) -> torch.Tensor:
    """[B, S, D] -> this rank's partial output [B, S, D]."""
    gate, up = F.linear(normed, weights.gate_up, weights.gate_up_bias).chunk(2, -1)
    return F.linear(F.silu(gate) * up, weights.down, weights.down_bias)
