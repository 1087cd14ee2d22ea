"""The model: a Hugging Face Llama whose residual stream is run by a wiring table.

Attention, MLP, norms, rotary embedding, caches, masks, loss and generation are transformers' own; weights have the
names and the layout of Llama. Only the loop over the layers is ours, and it does not know that it may be parallel: it
calls ``self.all_reduce``, which :func:`ladder.parallelize` replaces.

Shapes: B batch, S new tokens, D hidden size, V vocabulary.
"""

from functools import partial
from typing import ClassVar

import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, LlamaConfig
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaForCausalLM, LlamaModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ladder.parallel.communicators import Solo
from ladder.wiring import Module, run, table


@strict
class LadderConfig(LlamaConfig):
    """LlamaConfig with a ``wiring``: ``standard``, ``parallel``, ``ladder``, ``ladder@16-31``, ... (ladder.wiring)."""

    model_type = "ladder"
    wiring: str = "standard"

    def validate_wiring(self):
        """Refuse an unknown wiring or a layer outside the model."""
        table(self.wiring, self.num_hidden_layers)


class LadderModel(LlamaModel):
    """Llama's decoder with the residual stream wired as ``config.wiring`` says."""

    config: LadderConfig
    # Layers are not called as a whole, so there is no "hidden_states".
    _can_record_outputs: ClassVar = {"attentions": LlamaAttention}

    def __init__(self, config: LadderConfig):
        super().__init__(config)
        self.all_reduce = Solo().all_reduce
        self.set_wiring(config.wiring)

    def set_wiring(self, wiring: str) -> None:
        """Rewire in place; the weights are the same for every wiring."""
        self.rows = table(wiring, self.config.num_hidden_layers)
        self.config.wiring = wiring

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
        x = run(x, self._modules_in_order(attend), self.rows, self.all_reduce)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=past_key_values)

    def _modules_in_order(self, attend: dict) -> list[Module]:
        """Attention and MLP of each layer, each with its norm: what the wiring's rows stand for."""
        modules = []
        for layer in self.layers:
            attention = partial(_attention, layer.self_attn, **attend)
            modules += [
                Module(layer.input_layernorm, self._checkpointed(attention)),
                Module(layer.post_attention_layernorm, self._checkpointed(layer.mlp)),
            ]
        return modules

    def _checkpointed(self, compute):
        """Recompute in backward if gradient checkpointing is on: module by module, as the wiring calls them."""
        if self.gradient_checkpointing and self.training:
            return partial(self._gradient_checkpointing_func, compute)
        return compute


def _attention(attention: LlamaAttention, normed: torch.Tensor, **attend) -> torch.Tensor:
    return attention(normed, **attend)[0]


class LadderForCausalLM(LlamaForCausalLM):
    """LlamaForCausalLM over :class:`LadderModel`: save, load, generate with cache, gradient checkpointing."""

    config: LadderConfig

    def __init__(self, config: LadderConfig):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = LadderModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


AutoConfig.register("ladder", LadderConfig, exist_ok=True)
AutoModel.register(LadderConfig, LadderModel, exist_ok=True)
AutoModelForCausalLM.register(LadderConfig, LadderForCausalLM, exist_ok=True)
