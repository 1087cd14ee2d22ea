"""What a checkpoint directory is, decided once: one process, ranks, conversion, evaluation and training go by it.

Where files disagree or are silent, the decision is the installed transformers': a head of its own stays apart whatever
config.json says of tied embeddings; all weights are loaded in config.json's dtype, or the first one's where it has
none. What transformers or torch would end on (shapes that cannot be, ids outside the vocabulary) is refused here.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from ladder.errors import UserError, explained
from ladder.files import CARD, sha256
from ladder.model.copying import damaged
from ladder.model.families import Family, not_quantised, rewired
from ladder.model.shapes import MOST
from ladder.model.weights import EMBEDDINGS, HEAD, Tensor, check_shapes, same_values, tensors, weight_files
from ladder.reading import REQUIRED, read_json, take
from ladder.wiring import Wiring

# What is carried from a directory beside its weights: tokenizer, chat template, defaults of generation, terms of use.
# Nothing that would be executed.
CARRIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "*.model",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # of weights: ours, torch's
LLAMA = ("llama", "ladder")  # their model types: a plain one, and one under a wiring
FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias")
NEVER_NULL = ("max_position_embeddings", "rms_norm_eps", "hidden_act", *FLAGS)
# Of these transformers knows the meaning; it takes seconds to import, so it is asked about others only.
COMMON = {"rope_type": ("default", "llama3", "linear"), "hidden_act": ("silu",)}


@dataclass(frozen=True)
class Checkpoint:
    """``config``: config.json, with what it leaves open filled in; ``dtype``: the one to load in, as torch calls it."""

    folder: Path
    card: dict
    config: dict
    tensors: dict[str, Tensor]
    dtype: str
    family: Family | None = None  # None: a Llama

    @classmethod
    def open(cls, folder: str | Path) -> "Checkpoint":
        """Read configuration and headers. Raises UserError for what is no whole decoder of a known family."""
        folder = Path(folder)
        info = card(folder)
        stays_inside(folder, ["config.json", *(file.name for file in folder.glob("*.safetensors*"))])
        carried(folder)
        file = folder / "config.json"
        stored = read_json(file)
        family = None if stored.get("model_type") in LLAMA else Family.read(stored, file)
        config = checked(stored, file) if family is None else family.filled()
        wiring, tp = config.get("wiring", "standard"), config.get("tensor_parallel_size")
        if info["wiring"] != wiring:
            raise UserError(
                f"{folder / CARD}: wiring is {info['wiring']!r}, but that of config.json is {wiring!r}; restore the "
                "one that was changed"
            )
        if (folder / "generation_config.json").is_file():
            read_json(folder / "generation_config.json")
        try:
            found = tensors(folder)
        except UserError:
            verify(folder)  # names the file that is damaged, if there are digests
            raise
        if config["num_hidden_layers"] > len(found):  # before anything of that size is made
            raise UserError(
                f"{file}: num_hidden_layers is {config['num_hidden_layers']}, but its weight files hold {len(found)} "
                "tensors; correct it"
            )
        try:
            Wiring.parse(wiring, tp).of_model(config["num_hidden_layers"])
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        if family is None:
            check_shapes(folder, config, found)
        else:
            family.check_shapes(folder, found)
        if unfit := next((name for name, tensor in found.items() if tensor.dtype not in DTYPES), None):
            raise UserError(
                f"{found[unfit].file}: {unfit!r} is of type {found[unfit].dtype}; weights must be of "
                f"{', '.join(DTYPES)}, so save it as one of those"
            )
        if family is None and config["tie_word_embeddings"] and HEAD in found:
            config["tie_word_embeddings"] = same_values(found[HEAD], found[EMBEDDINGS])
        dtype = config.get("dtype") or config.get("torch_dtype")
        if dtype is None:
            dtype = config["dtype"] = DTYPES[next(iter(found.values())).dtype]
        return cls(folder, info, config, found, dtype, family)

    def model_config(self):
        """The configuration of the model that is loaded. Raises UserError for what transformers refuses."""
        return self.family.config if self.family else model_config(self.config, self.folder / "config.json")

    def fit(self, wiring: str, tp: int | None = None) -> None:
        """Refuse a wiring (at ``tp`` ranks, if it belongs to some) that this model cannot have."""
        chosen = Wiring.parse(wiring, tp)
        if self.family:
            return self.family.fit(chosen, self.config["num_hidden_layers"])
        table = chosen.of_model().table(self.config["num_hidden_layers"])
        if tp is not None:
            from ladder.model.slicing import check_degree

            check_degree(SimpleNamespace(**self.config), tp, table.ends_apart)

    def signal(self, wiring: str, tp: int | None = None) -> bool:
        """Whether ``wiring`` gives this model a norm of the first attention."""
        return Wiring.parse(wiring, tp).table(self.config["num_hidden_layers"]).signal

    def rewired(self, wiring: str, tp: int | None = None) -> dict:
        """The config.json of this model under another wiring, at ``tp`` ranks if it belongs to some."""
        return rewired(self.family.stored if self.family else self.config, wiring, tp)

    def llama_only(self, use: str) -> None:
        """Refuse a ``use`` of the checkpoint that other families do not have yet."""
        if self.family:
            raise UserError(f"{self.folder}: {use}: not yet for {self.family.name}, only for Llama")

    def tokenizer(self):
        """transformers' tokenizer, None if the directory has none. Raises UserError for one that cannot be used."""
        from ladder.data.tokenizer import load_auto

        if not any(name.startswith(("tokenizer", "vocab", "spiece")) for name in carried(self.folder)):
            return None
        return load_auto(self.folder, config=self.family.config if self.family else None)

    def needed_tokenizer(self, eos: bool = False, template: bool = False):
        """The tokenizer. Raises UserError if there is none, if it has tokens that the model has not, and, where they
        are asked for, if it has no end of sequence or no chat template."""
        tokenizer = self.tokenizer()
        if tokenizer is None:
            raise UserError(f"{self.folder}: no tokenizer there; copy the tokenizer.json of its model into it")
        if tokenizer.vocab_size > self.config["vocab_size"]:
            raise UserError(
                f"{self.folder}: its tokenizer has {tokenizer.vocab_size} tokens, more than the vocab_size "
                f"{self.config['vocab_size']} of config.json; use the tokenizer that the model was trained with"
            )
        if eos and tokenizer.eos_token_id is None:
            raise UserError(f"{self.folder}/tokenizer_config.json: no eos_token; name the token that ends a text")
        if template:
            self.chat_template(tokenizer)
        return tokenizer

    def chat_template(self, tokenizer, cure: str = "give it one (`ladder convert --chat-template`)") -> str:
        """The template that conversations are written with. Raises UserError if there is none."""
        template = tokenizer.chat_template
        if isinstance(template, dict) and "default" not in template:
            raise UserError(
                f"{self.folder}: its chat templates are {', '.join(sorted(template))}, none is called 'default'; {cure}"
            )
        if not template:
            raise UserError(
                f"{self.folder}: its tokenizer has no chat template, so conversations cannot be written for it; {cure}"
            )
        return template["default"] if isinstance(template, dict) else template

    def positions(self, sequence: int, option: str = "--sequence") -> None:
        """Refuse sequences that the model has no positions for."""
        most = self.config["max_position_embeddings"]
        if sequence > most:
            raise UserError(f"{option} {sequence} is longer than the {most} positions of {self.folder}")


def card(folder: str | Path) -> dict:
    """The content of ``ladder.json``, or what a foreign Hugging Face directory tells about itself."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no checkpoint there (config.json is missing)")
    file, where = folder / CARD, f"{folder}/config.json"
    config = read_json(folder / "config.json")
    stated = {"model": folder.resolve().name, "wiring": take(config, "wiring", str, where, "standard")}
    if not file.is_file():
        tp = take(config, "tensor_parallel_size", int, where, None, least=1)
        return stated | {"tp": tp, "variant": "original", "seed": None}
    info = stated | read_json(file)
    for key in ("model", "wiring", "variant"):
        take(info, key, str, str(file), None if key == "variant" else REQUIRED)
    for key in ("seed", "tp"):
        take(info, key, int, str(file), None)
    if "sha256" in info:
        info["sha256"] = take(info, "sha256", dict, str(file), {})
    digests = info.get("sha256", {})
    for name, value in digests.items():
        if not isinstance(value, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{file}: sha256 of {name!r} is not the digest of a file beside it; copy it again")
    return info


def verify(folder: str | Path, but: Collection[str] = ()) -> dict:
    """The checkpoint's card, after every file was found as it was written. Raises UserError naming the first that is
    not. ``but``: names of files that are not read, since the caller compares their digests."""
    folder = Path(folder)
    info = card(folder)
    if info.get("sha256") and (unlisted := [f for f in weight_files(folder) if f.name not in info["sha256"]]):
        raise damaged(unlisted[0], f"is not listed in {CARD}")
    for name, expected in info.get("sha256", {}).items():
        file = folder / name
        if not file.is_file():
            raise damaged(file, "is missing")
        if name not in but and sha256(file) != expected:
            raise damaged(file)
    return info


def carried(folder: Path) -> list[str]:
    """Names of the files beside the weights that belong to the model as well."""
    matches = (file for pattern in CARRIED for file in folder.glob(pattern) if file.is_file())
    return stays_inside(folder, sorted({file.relative_to(folder).as_posix() for file in matches}))


def stays_inside(folder: Path, names: list[str]) -> list[str]:
    """``names``; refuse a link that leaves ``folder``. The model hub's cache links to blobs beside its snapshots."""
    home = folder.resolve()
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else None
    for name in names:
        target = (folder / name).resolve()
        if home not in target.parents and target.parent != blobs:
            raise UserError(f"{folder / name}: leads out of the directory, to {target}; put the file itself there")
    return names


def checked(config: dict, file: Path) -> dict:
    """``config`` (of config.json) with numbers that can be a Llama's, defaults filled in. Raises UserError."""
    for name in take(config, "architectures", list, str(file), []):
        if name not in ("LlamaForCausalLM", "LadderForCausalLM"):
            raise UserError(f"{file}: architecture {name!r} cannot be read or rewired; 'LlamaForCausalLM' can")
    not_quantised(config, file)
    where, config = str(file), dict(config)
    if null := next((key for key in NEVER_NULL if config.get(key, key) is None), None):
        raise UserError(f"{file}: {null} is null; give its value, or leave it out for transformers' default")
    for key, most in MOST.items():
        take(config, key, int, where, least=1, most=most)
    hidden, heads, vocab = (config[key] for key in ("hidden_size", "num_attention_heads", "vocab_size"))
    if hidden % heads:
        raise UserError(f"{file}: num_attention_heads {heads} does not divide hidden_size {hidden}; correct one")
    kv_heads = config["num_key_value_heads"] = take(config, "num_key_value_heads", int, where, heads, least=1)
    if heads % kv_heads:
        raise UserError(f"{file}: num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}")
    head = config["head_dim"] = take(config, "head_dim", int, where, hidden // heads, least=2)
    if head % 2:
        raise UserError(f"{file}: head_dim is {head}; rotary positions need an even one")
    config["max_position_embeddings"] = take(config, "max_position_embeddings", int, where, 2048, least=1)
    take(config, "rms_norm_eps", float, where, 1e-6, least=0)
    take(config, "num_labels", int, where, 2, least=0, most=10**6)  # transformers makes a name for each
    for key in FLAGS:
        config[key] = take(config, key, bool, where, False)
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        ids = config.get(key) if isinstance(config.get(key), list) and key == "eos_token_id" else [config.get(key)]
        for value in ids:
            take({key: value}, key, int, where, None, least=-1, most=vocab - 1)  # -1: none, in older ones
    for key in ("dtype", "torch_dtype"):
        if config.get(key) is not None and config[key] not in DTYPES.values():
            raise UserError(f"{file}: {key} is {config[key]!r}; it must be one of {', '.join(DTYPES.values())}")
    wiring = take(config, "wiring", str, where, "standard")
    tp = take(config, "tensor_parallel_size", int, where, None, least=1)
    if tp is not None and heads % tp:
        raise UserError(
            f"{file}: tensor-parallel degree {tp} does not divide the model's num_attention_heads ({heads}), and its "
            f"wiring is {wiring!r}; convert the original again with another --tp"
        )
    rope = take(config, "rope_parameters", dict, where, None) or take(config, "rope_scaling", dict, where, None) or {}
    asked = {"rope_type": rope.get("rope_type", rope.get("type", "default"))}
    asked["hidden_act"] = take(config, "hidden_act", str, where, "silu")
    if any(value not in COMMON[key] for key, value in asked.items()):
        model_config(config, file)
    return config


def model_config(config: dict, file: Path):
    """The :class:`LadderConfig` of a config.json. Raises UserError for what transformers refuses."""
    from transformers.activations import ACT2FN
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    from ladder.model.modeling import LadderConfig

    plain = rewired(config, config.get("wiring", "standard"), config.get("tensor_parallel_size"))
    with explained(f"{file}: not a Llama that transformers knows"):
        made = LadderConfig.from_dict({key: value for key, value in plain.items() if key != "model_type"})
        ACT2FN[made.hidden_act]
        LlamaRotaryEmbedding(made)
    return made
