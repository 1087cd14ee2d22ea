"""What a user of plain transformers has: Llama with its static cache, compiled as its documentation says."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from ladder.bench.point import BenchCase
from ladder.model.modeling import LadderForCausalLM


class Baseline:
    """prefill() and step() of LlamaForCausalLM on the weights of ``model``, one rank, standard wiring."""

    def __init__(self, model: LadderForCausalLM, point: BenchCase):
        settings = {k: v for k, v in model.config.to_dict().items() if k not in ("wiring", "tensor_parallel_size")}
        config = LlamaConfig(**settings | {"model_type": "llama", "architectures": None})
        with torch.device("meta"):
            self.model = LlamaForCausalLM(config)
        self.model.load_state_dict(model.state_dict(), strict=True, assign=True)
        self.model.model.rotary_emb = model.model.rotary_emb
        self.model.tie_weights()
        self.model.eval()
        self.ids, self.prompt = point.ids(), point.prompt
        self.cache = StaticCache(config=config, max_cache_len=point.length)
        mode = "reduce-overhead" if point.device == "cuda" else "default"
        self.decode = torch.compile(self.model.forward, mode=mode, fullgraph=True, dynamic=False)
        self.position = 0

    @torch.no_grad()
    def prefill(self) -> torch.Tensor:
        """Logits of the prompt's last position [batch, vocabulary]; not compiled, as its generate() does not."""
        self.cache.reset()
        self.position = self.prompt
        return self._forward(self.model, self.ids[:, : self.prompt])

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        ids = self.ids[:, self.position : self.position + 1].clone()
        self.position += 1
        torch.compiler.cudagraph_mark_step_begin()
        return self._forward(self.decode, ids)

    def _forward(self, forward, ids: torch.Tensor) -> torch.Tensor:
        return forward(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits[:, -1]
