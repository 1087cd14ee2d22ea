"""Every model shape that the project names, one row each; other families and files are read by ladder.model.shapes."""

import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from ladder.cost import part
from ladder.errors import UserError, unknown_name


@dataclass(frozen=True)
class Size:
    """A decoder's shape; ``rope_factor`` > 0 asks for llama3 RoPE scaling. What a Llama has not has a default:

    head_width: of a head, 0 for hidden / heads. gated: the MLP has three matrices, else two. qk_norm: norms of queries
    and keys, of each head ("head") or all at once ("full"). layer_norms: of a layer; norm_weights: 2 if each has a bias
    too. windows: positions that each layer attends to, 0 for all of them; () for all in all layers.
    experts: that a layer has, of which a token takes ``active``, each ``expert_intermediate`` wide; those that all
    tokens take are together ``shared_intermediate`` wide. router: outputs of the router, and of the gate of those.
    routed: for each layer, whether it has experts instead of an MLP; () for all, if there are experts.
    origin: the file that says all this, if there is one.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool = False
    positions: int = 2048
    rope_theta: float = 10000.0
    rope_factor: float = 0.0
    eps: float = 1e-5
    family: str = "llama"
    head_width: int = 0
    gated: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    layer_norms: int = 2
    norm_weights: int = 1
    qk_norm: str = ""
    windows: tuple[int, ...] = ()
    experts: int = 0
    active: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    router: int = 0
    routed: tuple[bool, ...] = ()
    origin: str = field(default="", compare=False)

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.head_width or self.hidden // self.heads

    @property
    def widths(self) -> set[int]:
        """Of the MLPs and experts of its layers, each of which a TP degree must divide."""
        dense = not self.experts or False in self.routed
        return {self.intermediate if dense else 0, self.expert_intermediate, self.shared_intermediate} - {0}

    @property
    def parameters(self) -> int:
        """Number of weights, embeddings included, tied ones once."""
        return part(self).weights

    def config(self, **changes) -> dict:
        """Keyword arguments for LlamaConfig / LadderConfig. Raises UserError for what such a model cannot be."""
        if self.family not in LLAMAS or any(self.windows):
            runs = self.family in LLAMAS
            key, value = ("sliding_window", max(self.windows)) if runs else ("model_type", self.family)
            cure = f"{' and '.join(LLAMAS)} without a window do; `ladder simulate` takes it"
            raise UserError(f"{self.origin}: a model of {key} = {value!r} does not run here; {cure}")
        rope = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_factor:
            rope |= {"rope_type": "llama3", "factor": self.rope_factor, "low_freq_factor": 1.0}
            rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.positions,
            "rms_norm_eps": self.eps,
            "rope_parameters": rope,
            **({"head_dim": self.head_width} if self.head_width else {}),
            **({"attention_bias": True} if self.qkv_bias else {}),
            **({"mlp_bias": True} if self.mlp_bias else {}),
        } | changes


LLAMAS = ("llama", "mistral")  # families that our own code computes
MOST_LAYERS = 1000  # of what is simulated and timed: a schedule notes for each module which others it has read
LLAMA3 = {"positions": 131072, "rope_theta": 500000.0}
SIZES = {
    # the default profile: trained from scratch on two CPU cores; its vocabulary is the tokenizer's
    "tiny": Size(10, 96, 4, 4, 256, 2048, tied=True, positions=512),
    "tiny-larger": Size(13, 96, 4, 4, 256, 2048, tied=True, positions=512),
    # the laptop profile
    "small": Size(10, 160, 4, 4, 448, 4096, tied=True, positions=512),
    # one CPU rank's share of the paper's 1.2B widths at TP 8 takes some milliseconds a module; 8 of the 40 layers and
    # a small vocabulary, so that a decode step is not mostly the LM head, which no wiring changes
    "paper-1b-8l": Size(8, 1536, 24, 24, 4096, 512, tied=True),
    # the paper's two pretraining shapes, and the 30 % larger ones (paper section 4.1, and its Table 5)
    "paper-1b": Size(40, 1536, 24, 24, 4096, 49152, tied=True),
    "paper-1b-larger": Size(52, 1536, 24, 24, 4096, 49152, tied=True),
    "paper-3b": Size(40, 2304, 36, 36, 9216, 49152, tied=True),
    "paper-3b-timed": Size(40, 2304, 32, 32, 9216, 49152, tied=True),  # the benchmark had 32 heads, the model 36
    "paper-3b-larger": Size(52, 2304, 36, 36, 9216, 49152, tied=True),
    # published Llama checkpoints
    "llama-3.2-1b": Size(16, 2048, 32, 8, 8192, 128256, tied=True, rope_factor=32.0, **LLAMA3),
    "llama-3.2-3b": Size(28, 3072, 24, 8, 8192, 128256, tied=True, rope_factor=32.0, **LLAMA3),
    "llama-3-8b": Size(32, 4096, 32, 8, 14336, 128256, positions=8192, rope_theta=500000.0),
    "llama-3.1-8b": Size(32, 4096, 32, 8, 14336, 128256, rope_factor=8.0, **LLAMA3),
    "codellama-34b": Size(48, 8192, 64, 8, 22016, 32000, positions=16384, rope_theta=1000000.0),
    "llama-3-70b": Size(80, 8192, 64, 8, 28672, 128256, positions=8192, rope_theta=500000.0),
    "llama-3.1-70b": Size(80, 8192, 64, 8, 28672, 128256, rope_factor=8.0, **LLAMA3),
    "llama-3.1-405b": Size(126, 16384, 128, 8, 53248, 128256, rope_factor=8.0, **LLAMA3),
}


def size(name: str) -> Size:
    """The row called ``name``, or what a config.json (or its directory) says; ``NAME-4l`` is the same with 4 layers.

    Raises UserError with the known names.
    """
    from ladder.model.shapes import of_config, published

    known = SIZES | published()
    if name in known:
        return known[name]
    if name.endswith(".json") or Path(name).is_dir():
        return of_config(name)
    shorter = re.fullmatch(r"(.+)-([1-9][0-9]{0,8})l", name)
    if not shorter or shorter[1] not in known:
        raise unknown_name("size", name, known)
    if (layers := int(shorter[2])) > MOST_LAYERS:
        raise UserError(f"size {name!r}: has more than {MOST_LAYERS} layers; give fewer")
    return replace(known[shorter[1]], layers=layers)


def row(name: str) -> dict:
    """The row as plain values, so that a pipeline can tell when it changed; what a Llama has not only where it is."""
    later = {field.name: field.default for field in fields(Size)[11:]}
    plain = asdict(replace(size(name), origin=""))
    return {key: value for key, value in plain.items() if key not in later or value != later[key]}
