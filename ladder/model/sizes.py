"""Every model shape that the project names, one row each."""

import contextlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ladder.cost import part
from ladder.errors import UserError, unknown_name
from ladder.reading import read_json, take

# What no Llama comes near, so that a slip of the pen ends in a sentence and not in a table of that length.
MOST = {"num_hidden_layers": 10_000, "hidden_size": 10**6, "num_attention_heads": 10**5}
MOST |= {"intermediate_size": 10**7, "vocab_size": 10**8}


@dataclass(frozen=True)
class Size:
    """A Llama shape. ``intermediate`` is the SwiGLU width; ``rope_factor`` > 0 asks for llama3 RoPE scaling."""

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

    @property
    def parameters(self) -> int:
        """Number of weights, embeddings included, tied ones once."""
        return part(self).weights

    def config(self, **changes) -> dict:
        """Keyword arguments for LlamaConfig / LadderConfig."""
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
        } | changes


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
    "smollm2": Size(30, 576, 9, 3, 1536, 49152, tied=True, positions=8192, rope_theta=100000.0),  # 135M
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
    """The row called ``name``; ``NAME-4l`` is the same with 4 layers. Raises UserError with the known names."""
    shorter = re.fullmatch(r"(.+)-([1-9][0-9]{0,8})l", name)
    if name not in SIZES and shorter and shorter[1] in SIZES:
        if (layers := int(shorter[2])) > MOST_LAYERS:
            raise UserError(f"size {name!r}: has more than {MOST_LAYERS} layers; give fewer")
        return replace(SIZES[shorter[1]], layers=layers)
    if name not in SIZES:
        raise unknown_name("size", name, SIZES)
    return SIZES[name]


def of_config(path: str | Path) -> Size:
    """The shape of a Hugging Face Llama, from its config.json or the directory that holds it.

    Raises UserError for a model of another kind: one with experts, or whose heads are not hidden / heads wide.
    """
    path = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    content, where = read_json(path), str(path)
    if missing := [key for key in MOST if content.get(key) is None]:
        raise UserError(f"{path}: not the config.json of a Llama model: {missing[0]} is missing")
    counts = (take(content, key, int, where, least=1, most=most) for key, most in MOST.items())
    layers, hidden, heads, width, vocab = counts
    kv_heads = take(content, "num_key_value_heads", int, where, heads, least=1, most=heads)
    positions = take(content, "max_position_embeddings", int, where, 2048, least=1)
    if expert := next((key for key in content if "expert" in key and content[key]), None):
        raise UserError(f"{path}: {expert} = {content[expert]!r}: models with experts are not known here")
    if hidden % heads or heads % kv_heads:
        raise UserError(
            f"{path}: num_attention_heads {heads} must divide hidden_size {hidden}, and num_key_value_heads {kv_heads} "
            "must divide it; correct them"
        )
    head_dim = take(content, "head_dim", int, where, hidden // heads)
    if head_dim != hidden // heads:
        raise UserError(f"{path}: heads of {head_dim} are not hidden / heads ({hidden} / {heads}) wide")
    tied = take(content, "tie_word_embeddings", bool, where, False)
    return Size(layers, hidden, heads, kv_heads, width, vocab, tied, positions)


def origin(source: dict) -> tuple[str, Size | None]:
    """(name, shape) of what a profile adapts: a row of the table, or what the checkpoint there says of itself. None:
    a name of the model hub, or a file that has no config.json beside it, which conversion reads. Raises UserError for
    an unknown row."""
    if (row := source.get("size", source.get("checkpoint"))) in SIZES or "size" in source:
        return row, size(row)
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", Path(source["checkpoint"]).name.removesuffix(".gguf")) or "checkpoint"
    file = Path(source["checkpoint"]) / "config.json"
    with contextlib.suppress(UserError):  # another family than Llama
        return name, of_config(file) if file.is_file() else None
    return name, None


def row(shape: Size | None) -> dict | None:
    """The row as plain values, so that a pipeline can tell when it changed."""
    return shape and asdict(shape)
