// A model that is not in the table: its shape, read from a config.json or from key numbers. The rules and the families
// are those of ladder/model/shapes.py; a test compares the two. Throws an Error that says what is wrong.
function shapes({ families, most, experts: counts, uncounted }) {
  const SHORT = {
    layers: "num_hidden_layers",
    hidden: "hidden_size",
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    intermediate: "intermediate_size",
    vocab: "vocab_size",
    tied: "tie_word_embeddings",
    experts: "num_experts",
    active: "num_experts_per_tok",
    expert_intermediate: "moe_intermediate_size",
  };
  const KEYS = [
    ...["model_type", "head_dim", "attention_bias", "mlp_bias", "use_bias", "qkv_bias", "bias", "attention_out_bias"],
    ...[
      "sliding_window",
      "layer_types",
      "max_window_layers",
      "use_sliding_window",
      "num_local_experts",
      "n_routed_experts",
    ],
    ...["n_shared_experts", "shared_expert_intermediate_size", "first_k_dense_replace", "decoder_sparse_step"],
    ...["mlp_only_layers", ...Object.values(SHORT), ...Object.keys(uncounted)],
  ];

  // The keys of a config.json: `text` is one, or says "layers 64, hidden 5120, heads 40, ...".
  function parsed(text) {
    if (!text.trim()) throw Error("paste a config.json, or write key numbers");
    if (!text.trim().startsWith("{")) {
      const pairs = [...text.matchAll(/([a-z_]+)\s*[:= ]\s*([^\s,;]+)/gi)].map(([, key, value]) => [
        key.toLowerCase(),
        value,
      ]);
      if (!pairs.length) throw Error("this is neither JSON nor key numbers");
      const unknown = pairs.find(([key]) => !(key in SHORT) && !KEYS.includes(key));
      if (unknown) throw Error(`${unknown[0]} is not a key number; ${Object.keys(SHORT).join(", ")}, head_dim are`);
      const typed = (value) =>
        ({ true: true, false: false })[value] ?? (Number.isNaN(Number(value)) ? value : Number(value));
      return Object.fromEntries(pairs.map(([key, value]) => [SHORT[key] ?? key, typed(value)]));
    }
    let content;
    try {
      content = JSON.parse(text);
    } catch (error) {
      throw Error(`this is not JSON: ${error.message}`);
    }
    const read = ([key, value]) => value !== null && (KEYS.includes(key) || key.includes("expert"));
    return Object.fromEntries(Object.entries(content).filter(read));
  }

  // A row of the table of sizes.
  function size(content) {
    const kind = (content.model_type ?? "llama").replace(/^ladder_/, "").replace(/^ladder$/, "llama");
    const refused = Object.keys(uncounted).find((key) => content[key] && `${content[key]}` !== "");
    if (refused) throw Error(`${refused}: ${uncounted[refused]} cannot be counted`);
    if (!(kind in families))
      throw Error(`model_type ${kind} cannot be counted; ${Object.keys(families).join(", ")} can`);
    const family = {
      qkv_bias: "attention_bias",
      output_bias: "attention_bias",
      mlp_bias: "mlp_bias",
      ...families[kind],
    };
    const number = (key, otherwise, least = 1, limit = 1e7) => {
      const value = content[key] ?? otherwise;
      if (value === undefined) throw Error(`${key} is missing`);
      if (Number.isInteger(value) && value >= least && value <= limit) return value;
      throw Error(`${key} = ${JSON.stringify(value)} must be a whole number from ${least} to ${limit}`);
    };
    const [layers, hidden, heads, intermediate, vocab] = Object.keys(most).map((key) =>
      number(key, undefined, 1, most[key]),
    );
    if (layers > 1000) throw Error(`num_hidden_layers = ${layers} are more than the 1000 that can be simulated`);
    const kvHeads = number("num_key_value_heads", heads, 1, heads);
    const headDim = number("head_dim", family.head_dim ?? 0, content.head_dim == null ? 0 : 1, most.hidden_size);
    if (heads % kvHeads || (hidden % heads && !headDim)) {
      throw Error(
        `num_attention_heads ${heads} must divide hidden_size ${hidden}, and num_key_value_heads ${kvHeads} divide it`,
      );
    }
    const said = (key) => (typeof family[key] === "string" ? (content[family[key]] ?? false) : family[key]);
    const head = headDim || hidden / heads;
    return {
      ...{ layers, hidden, heads, kv_heads: kvHeads, intermediate, vocab, head, family: kind },
      tied: content.tie_word_embeddings ?? family.tied ?? false,
      ...{ qkv_bias: said("qkv_bias"), output_bias: said("output_bias"), mlp_bias: said("mlp_bias") },
      ...{ gated: family.gated ?? true, layer_norms: family.layer_norms ?? 2, norm_weights: family.norm_weights ?? 1 },
      qk_norm: family.qk_norm ?? "",
      windows: windows(content, layers, family.period ?? 0, number),
      ...routing(content, layers, intermediate, number),
    };
  }

  function windows(content, layers, period, number) {
    const window = number("sliding_window", 0, 0);
    const first = number("max_window_layers", 0, 0);
    const slides = (n) => n >= first && (!period || (n + 1) % period);
    const every = Array.from({ length: layers }, (_, n) => (slides(n) ? "sliding_attention" : "full_attention"));
    const kinds = content.layer_types ?? (window && (content.use_sliding_window ?? true) ? every : []);
    const odd = kinds.find((kind) => !["full_attention", "sliding_attention"].includes(kind));
    if (odd) throw Error(`layer_types has ${odd}, which cannot be counted`);
    if (kinds.length && kinds.length !== layers)
      throw Error(`layer_types has ${kinds.length} entries for ${layers} layers`);
    const all = kinds.map((kind) => (kind === "sliding_attention" ? window : 0));
    return all.some(Boolean) ? all : [];
  }

  function routing(content, layers, intermediate, number) {
    const none = { experts: 0, active: 0, expert_intermediate: 0, shared_intermediate: 0, router: 0, routed: [] };
    const key = counts.find((name) => content[name]);
    const other = Object.keys(content).find((name) => name.includes("expert") && content[name]);
    if (!key && other) throw Error(`${other} = ${content[other]} without ${counts[0]} cannot be counted`);
    if (!key) return none;
    const experts = number(key);
    const width = number("moe_intermediate_size", intermediate);
    const gate = number("shared_expert_intermediate_size", 0, 0);
    const first = number("first_k_dense_replace", 0, 0);
    const step = number("decoder_sparse_step", 1);
    const plain = content.mlp_only_layers ?? [];
    const routed = Array.from({ length: layers }, (_, n) => n >= first && !plain.includes(n) && (n + 1) % step === 0);
    return {
      experts,
      active: number("num_experts_per_tok", undefined, 1, experts),
      expert_intermediate: width,
      shared_intermediate: number("n_shared_experts", 0, 0, experts) * width + gate,
      router: experts + (gate ? 1 : 0),
      routed: routed.every(Boolean) ? [] : routed,
    };
  }

  return { parsed, size };
}
