"""Llama under a wiring, as a class of its own: transformers' model, rewired, with a configuration that has the wiring,
so that transformers loads and saves it.

Shapes: B batch, S new tokens, T virtual ranks, D hidden size, V vocabulary.
"""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from ladder.model import virtual
from ladder.model.rewire import run_by
from ladder.model.slicing import check_degree
from ladder.residual import Table
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

    def __init__(self, config: LadderConfig):
        super().__init__(config)
        run_by(self, config.rows(), config.wiring, config.tensor_parallel_size or 1, prove=False)
        # Streams that end apart go on to the head beside each other: [B, S, T x D].
        self.norm.register_forward_hook(lambda norm, given, normed: normed.flatten(2))

    def forward(self, *args, **kwargs):
        """As LlamaModel.forward. Positions that restart inside a row keep packed sequences apart; beside a cache, even
        an empty one, the mask would not."""
        if kwargs.get("position_ids") is not None and kwargs.get("past_key_values") is None:
            kwargs["use_cache"] = False
        return super().forward(*args, **kwargs)


class LadderForCausalLM(LlamaForCausalLM):
    """LlamaForCausalLM over :class:`LadderModel`: save, load, generate with cache, gradient checkpointing."""

    config: LadderConfig

    def __init__(self, config: LadderConfig):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = LadderModel(config)
        self.rewiring = self.model.rewiring
        self.vocab_size = config.vocab_size
        # Where streams end apart, each rank's feeds its own part of the vocabulary.
        self.lm_head = virtual.Colwise(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


AutoConfig.register("ladder", LadderConfig, exist_ok=True)
AutoModel.register(LadderConfig, LadderModel, exist_ok=True)
AutoModelForCausalLM.register(LadderConfig, LadderForCausalLM, exist_ok=True)
