"""The shape of a decoder of any family that can be counted, read from its config.json (no torch, no transformers).

What a family leaves unsaid in that file is a row of FAMILIES. ``configs.json`` holds what the files of some published
models say of their shape.
"""

from functools import cache
from pathlib import Path

from ladder.errors import UserError
from ladder.model.sizes import Size
from ladder.reading import read_json, take

# What no decoder comes near, so that a slip of the pen ends in a sentence and not in a table of that length.
MOST = {"num_hidden_layers": 10_000, "hidden_size": 10**6, "num_attention_heads": 10**5}
MOST |= {"intermediate_size": 10**7, "vocab_size": 10**8}
WIDEST = MOST["intermediate_size"]

# Of each family: fields of Size, and keys of config.json where they are not as a Llama has them. tied: if the file does
# not say. qkv_bias, output_bias, mlp_bias: a key, or a value. period: of every so many layers the last attends to all
# positions, the others to sliding_window of them, unless the file says of each.
SANDWICH = {"layer_norms": 4, "tied": True, "head_dim": 256}
QWEN2 = {"qkv_bias": True, "output_bias": False, "mlp_bias": False}
FAMILIES: dict[str, dict] = {
    "llama": {},
    "arcee": {"gated": False},
    "cwm": {},
    "dots1": {"qk_norm": "head"},
    "ernie4_5": {"qkv_bias": "use_bias", "output_bias": "use_bias", "mlp_bias": "use_bias", "tied": True},
    "exaone4": {"qk_norm": "head", "period": 4},
    "flex_olmo": {"qk_norm": "full"},
    "gemma": {"tied": True, "head_dim": 256},
    "gemma2": {**SANDWICH, "period": 2},
    "gemma3_text": {**SANDWICH, "period": 6, "qk_norm": "head"},
    "glm": {"output_bias": False},
    "glm4": {"layer_norms": 4, "output_bias": False},
    "glm4_moe": {"output_bias": False, "mlp_bias": False},
    "granite": {},
    "granitemoe": {},
    "helium": {},
    "hunyuan_v1_dense": {"qk_norm": "head"},
    "internlm3": {"qkv_bias": "qkv_bias", "output_bias": "bias", "mlp_bias": "bias"},
    "minimax_m2": {"qk_norm": "full"},
    "ministral": {},
    "ministral3": {},
    "mistral": {},
    "mixtral": {},
    "olmo2": {"qk_norm": "full"},
    "olmo3": {"qk_norm": "full", "period": 4},
    "olmoe": {"qk_norm": "full"},
    "phi3": {},
    "qwen2": QWEN2,
    "qwen2_moe": QWEN2,
    "qwen3": {"qk_norm": "head", "head_dim": 128, "mlp_bias": False},
    "qwen3_moe": {"qk_norm": "head", "mlp_bias": False},
    "seed_oss": {"output_bias": "attention_out_bias"},
    "smollm3": {"tied": True},
    "starcoder2": {
        **{"gated": False, "norm_weights": 2, "tied": True},
        **dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), "use_bias"),
    },
}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
# Keys whose value, if there is one, changes what a layer costs in a way that is not counted.
UNCOUNTED = {
    "kv_lora_rank": "latent attention",
    "quantization_config": "quantised weights (take the original's config.json)",
    "vision_config": "an encoder of images",
    "text_config": "a model of several parts (take the config.json of its decoder)",
    "ladder_layers": "a wiring of its own",
    "use_parallel_residual": "a stream of its own",
    "parallel_attn": "a stream of its own",
    "hybrid_override_pattern": "layers without attention",
    "ssm_state_size": "layers without attention",
}


def of_config(path: str | Path) -> Size:
    """The shape that a config.json says, or that of the directory that holds it. Raises UserError for what cannot be
    counted, naming key and value."""
    path = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    return of_content(read_json(path), str(path))


@cache
def published() -> dict[str, Size]:
    """The shapes of configs.json by name."""
    configs = read_json(Path(__file__).parent / "configs.json")
    return {name: of_content(content, name) for name, content in configs.items()}


def of_content(content: dict, where: str) -> Size:
    """The shape that the keys of a config.json say; ``where`` names them in errors."""
    kind = take(content, "model_type", str, where, "llama").removeprefix("ladder_")
    kind = "llama" if kind == "ladder" else kind
    if key := next((key for key in UNCOUNTED if content.get(key)), None):
        raise UserError(f"{where}: {key} = {content[key]!r:.60}: {UNCOUNTED[key]} cannot be counted")
    if kind not in FAMILIES:
        raise UserError(f"{where}: model_type = {kind!r:.60} cannot be counted; {', '.join(FAMILIES)} can")
    if missing := [key for key in MOST if content.get(key) is None]:
        raise UserError(f"{where}: not the config.json of a decoder: {missing[0]} is missing")
    family = {"qkv_bias": "attention_bias", "output_bias": "attention_bias", "mlp_bias": "mlp_bias"} | FAMILIES[kind]
    layers, hidden, heads, width, vocab = (take(content, key, int, where, least=1, most=MOST[key]) for key in MOST)
    kv_heads = take(content, "num_key_value_heads", int, where, heads, least=1, most=heads)
    head = take(content, "head_dim", int, where, family.get("head_dim", 0), least=1, most=MOST["hidden_size"])
    if heads % kv_heads or (hidden % heads and not head):
        raise UserError(
            f"{where}: num_attention_heads {heads} must divide hidden_size {hidden}, and num_key_value_heads "
            f"{kv_heads} must divide it; correct them"
        )

    def said(key: str) -> bool:
        value = family[key]
        return take(content, value, bool, where, False) if isinstance(value, str) else value

    return Size(
        *(layers, hidden, heads, kv_heads, width, vocab),
        tied=take(content, "tie_word_embeddings", bool, where, family.get("tied", False)),
        positions=take(content, "max_position_embeddings", int, where, 2048, least=1),
        family=kind,
        head_width=0 if head * heads == hidden else head,
        **{key: said(key) for key in ("qkv_bias", "output_bias", "mlp_bias")},
        **{key: family[key] for key in ("gated", "layer_norms", "norm_weights", "qk_norm") if key in family},
        windows=_windows(content, layers, family.get("period", 0), where),
        **_experts(content, layers, where),
        origin=where,
    )


def _windows(content: dict, layers: int, period: int, where: str) -> tuple[int, ...]:
    window = take(content, "sliding_window", int, where, 0, least=0)
    kinds = take(content, "layer_types", list, where, None)
    if kinds is None:
        first = take(content, "max_window_layers", int, where, 0, least=0)
        kinds = ["sliding_attention" if n >= first and (not period or (n + 1) % period) else "" for n in range(layers)]
        kinds = kinds if window and take(content, "use_sliding_window", bool, where, True) else []
    elif odd := next((kind for kind in kinds if kind not in ("full_attention", "sliding_attention")), None):
        raise UserError(f"{where}: layer_types has {odd!r:.60}, which cannot be counted")
    elif len(kinds) != layers:
        raise UserError(f"{where}: layer_types has {len(kinds)} entries, and num_hidden_layers is {layers}; correct it")
    windows = tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    return windows if any(windows) else ()


def _experts(content: dict, layers: int, where: str) -> dict:
    """The fields of :class:`Size` about experts."""
    key = next((key for key in EXPERTS if content.get(key)), None)
    if key is None:
        if other := next((key for key in content if "expert" in key and content[key]), None):
            raise UserError(f"{where}: {other} = {content[other]!r:.60} without {EXPERTS[0]} cannot be counted")
        return {}
    experts = take(content, key, int, where, least=1, most=100_000)
    width = take(content, "intermediate_size", int, where)
    width = take(content, "moe_intermediate_size", int, where, width, least=1, most=WIDEST)
    shared = take(content, "n_shared_experts", int, where, 0, least=0, most=experts) * width
    gate = take(content, "shared_expert_intermediate_size", int, where, 0, least=0, most=WIDEST)
    first = take(content, "first_k_dense_replace", int, where, 0, least=0)
    step = take(content, "decoder_sparse_step", int, where, 1, least=1)
    plain = take(content, "mlp_only_layers", list, where, [])
    routed = tuple(n >= first and n not in plain and (n + 1) % step == 0 for n in range(layers))
    return {
        "experts": experts,
        "active": take(content, "num_experts_per_tok", int, where, least=1, most=experts),
        "expert_intermediate": width,
        "shared_intermediate": shared + gate,
        "router": experts + bool(gate),
        "routed": () if all(routed) else routed,
    }
