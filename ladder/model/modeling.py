"""The model: a Hugging Face Llama whose residual stream is run by a wiring table.

Attention, MLP, norms, rotary embedding, caches, masks, loss and generation are transformers' own; weights have the
names and the layout of Llama. Only the loop over the layers is ours, and it does not know that it may be parallel: it
calls ``self.all_reduce``, which :func:`ladder.parallelize` replaces. A wiring that depends on the number of ranks T
runs T virtual ones in this process (ladder.model.virtual) until then.

Shapes: B batch, S new tokens, T virtual ranks, D hidden size, V vocabulary.
"""

from functools import partial, wraps
from typing import ClassVar

import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, LlamaConfig
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ladder.model import virtual
from ladder.model.slicing import check_degree
from ladder.residual import Landed, Module, Table, run
from ladder.wiring import Wiring


@strict
class LadderConfig(LlamaConfig):
    """LlamaConfig with a ``wiring``: ``standard``, ``parallel``, ``ladder``, ``ladder@16-31``, ... (ladder.wiring).

    tensor_parallel_size: the number of ranks T that a wiring with own shares belongs to; None for every other wiring.
    """

    model_type = "ladder"
    wiring: str = "standard"
    tensor_parallel_size: int | None = None

    def rows(self) -> Table:
        """The wiring's rows, attention and MLP of each layer."""
        return Wiring.parse(self.wiring, self.tensor_parallel_size).table(self.num_hidden_layers)

    def validate_wiring(self):
        """Refuse an unknown wiring, a layer outside the model, and a degree that is missing or does not divide it."""
        Wiring.parse(self.wiring, self.tensor_parallel_size).of_model(self.num_hidden_layers)
        check_degree(self, self.tensor_parallel_size or 1, self.rows().ends_apart)


class LadderModel(LlamaModel):
    """Llama's decoder with the residual stream wired as ``config.wiring`` says."""

    config: LadderConfig
    # Layers are not called as a whole, so there is no "hidden_states".
    _can_record_outputs: ClassVar = {"attentions": LlamaAttention}

    def __init__(self, config: LadderConfig):
        super().__init__(config)
        self.rows = config.rows()
        self.run, self.all_reduce = run, Landed
        self.first_attention_norm = None
        if self.rows.signal:
            self.first_attention_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.set_virtual_ranks(config.tensor_parallel_size or 1)

    def set_wiring(self, wiring: str, tp: int | None = None) -> None:
        """Rewire in place; the weights are the same for every wiring. A norm of the first attention that was not there
        starts at 0, so that it changes nothing until it is trained."""
        config = self.config
        changed = type(config)(**config.to_dict() | {"wiring": wiring, "tensor_parallel_size": tp})  # checks both
        config.wiring, config.tensor_parallel_size = wiring, tp
        self.rows = changed.rows()
        if not self.rows.signal:
            self.first_attention_norm = None
        elif self.first_attention_norm is None:
            self.first_attention_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps).to(self.norm.weight)
            torch.nn.init.zeros_(self.first_attention_norm.weight)
        self.set_virtual_ranks(tp or 1)

    def set_virtual_ranks(self, size: int) -> None:
        """Compute ``size`` ranks in this process, on the same parameters; 1: none."""
        self.virtual_ranks = size
        self.all_reduce = virtual.all_reduce if size > 1 else Landed
        virtual.replace(self, size)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """As LlamaModel.forward. ``input_ids`` [B, S] -> ``last_hidden_state`` [B, S, D].

        Positions that restart inside a row (packed sequences) keep the sequences apart: the mask is made from them.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(x.shape[1], device=x.device) + seen).unsqueeze(0)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        # Only now: beside a cache, even an empty one, the mask would not keep packed sequences apart.
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        attend = {
            "attention_mask": mask,
            "position_ids": position_ids,
            "position_embeddings": self.rotary_emb(x, position_ids=position_ids),
            "past_key_values": past_key_values,
            **kwargs,
        }
        if self.virtual_ranks > 1:
            virtual.check_ours(self.layers)
            x = x.unsqueeze(2)
        x = self.run(x, self.modules_in_order(attend), self.rows, self.all_reduce, self.first_attention_norm)
        # Streams that end apart go on to the head beside each other: [B, S, T x D].
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x).flatten(2), past_key_values=past_key_values)

    def modules_in_order(self, attend: dict) -> list[Module]:
        """Attention and MLP of each layer, each with its norm: what the wiring's rows stand for."""
        modules = []
        for layer in self.layers:
            attention = partial(_attention, layer.self_attn, **attend)
            modules += [
                Module(layer.input_layernorm, self._checkpointed(attention)),
                Module(layer.post_attention_layernorm, self._checkpointed(partial(_mlp, layer.mlp))),
            ]
        return modules

    def _checkpointed(self, compute):
        """Recompute in backward if gradient checkpointing is on: module by module, as the wiring calls them."""
        if self.gradient_checkpointing and self.training:
            return partial(self._gradient_checkpointing_func, compute)
        return compute


def _attention(attention: LlamaAttention, normed: torch.Tensor, **attend) -> torch.Tensor:
    return attention(normed.flatten(2), **attend)[0]  # the inputs of virtual ranks beside each other


def _mlp(mlp: LlamaMLP, normed: torch.Tensor) -> torch.Tensor:
    return mlp(normed.flatten(2))


class LadderForCausalLM(LlamaForCausalLM):
    """LlamaForCausalLM over :class:`LadderModel`: save, load, generate with cache, gradient checkpointing."""

    config: LadderConfig

    def __init__(self, config: LadderConfig):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = LadderModel(config)
        self.vocab_size = config.vocab_size
        # Where streams end apart, each rank's feeds its own part of the vocabulary.
        self.lm_head = virtual.Colwise(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @wraps(LlamaForCausalLM.forward)  # generation reads the names of its arguments
    def forward(self, *args, score=None, **kwargs):
        """As LlamaForCausalLM.forward; with ``score``, what ``score(hidden, lm_head)`` gives, and no logits. It runs in
        here, where the head's weights are whole even if they are sharded. hidden: [B, S, D], or [B, S, T x D]."""
        if score is None:
            return super().forward(*args, **kwargs)
        return score(self.model(*args, **kwargs).last_hidden_state, self.lm_head)


AutoConfig.register("ladder", LadderConfig, exist_ok=True)
AutoModel.register(LadderConfig, LadderModel, exist_ok=True)
AutoModelForCausalLM.register(LadderConfig, LadderForCausalLM, exist_ok=True)
