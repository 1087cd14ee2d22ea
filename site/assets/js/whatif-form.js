// The form of the what-if page, and the address, which holds all of its state. `changed(at, wrong)` is told of each
// change: the settings as `ladder simulate` takes them, or a list of what is wrong with them.
function whatifForm(tables, simulation, html, changed) {
  const { sizes, devices, links, aliases, implementations, calibration, conversions } = tables;
  const { findLink, linkNumbers, calibrated, degrees } = simulation;
  const reader = shapes(tables.shapes);
  const [OWN, TYPED] = ["own", "typed"];
  const state = {};

  // ---- what may be chosen

  // A GPU that brought its own calibration does not say which it can have.
  const linksOf = ({ links: said } = {}) =>
    (said?.length ? said : [...calibrated, ...Object.keys(links)]).filter((name) => findLink(name));
  const modelOf = () => (state.model === OWN ? sizes[OWN] : sizes[state.model]);

  // Numbers of GPUs that hold equal parts of a model: what `ladder simulate` takes.
  function possible(size) {
    const dense = !size.experts || size.routed.includes(false);
    const widths = [dense ? size.intermediate : 0, size.expert_intermediate, size.shared_intermediate].filter(Boolean);
    const fits = (tp) =>
      size.heads % tp === 0 &&
      (size.kv_heads % tp === 0 || tp % size.kv_heads === 0) &&
      widths.every((width) => width % tp === 0);
    return Array.from({ length: Math.min(size.heads, 1024) }, (_, n) => n + 1).filter(fits);
  }

  function linkWords(name) {
    if (name === TYPED) return "your own numbers";
    const fitted = calibrated.includes(name) && state.hardware === calibration.hardware;
    return fitted
      ? `fitted to runs at TP ${degrees(name).join(", ")}`
      : (links[name]?.words ?? `as on ${calibration.hardware}`);
  }

  function modelWords(name) {
    const size = name === OWN ? modelOf() : sizes[name];
    if (!size) return "";
    const count = size.parameters ? `${(size.parameters / 1e9).toPrecision(3)} billion parameters, ` : "";
    const experts = size.experts ? `, ${size.active} of ${size.experts} experts a token` : "";
    return `${count}${size.layers} layers${experts}`;
  }

  // The most layers that a published model had converted and retrained within this loss.
  const within = (loss) =>
    conversions.filter((row) => row.loss <= loss).reduce((a, b) => (a && a.converted > b.converted ? a : b), undefined);
  const signed = (value) => `${value < 0 ? "+" : "−"}${Math.abs(value).toFixed(1)}`;
  const lossWords = () =>
    `published, ${conversions[0].model}: ` +
    conversions.map((row) => `last ${row.converted} of ${row.layers} ${signed(row.loss)}`).join(", ");

  const counted = { least: 1, most: 1e6, whole: true };
  const fields = [
    {
      key: "model",
      name: "Model",
      value: "llama-3-70b",
      options: () => [...Object.keys(sizes).filter((k) => k !== OWN), OWN],
      words: modelWords,
    },
    { key: "config", name: "config.json, or key numbers", value: "", shown: () => state.model === OWN, text: true },
    {
      key: "hardware",
      name: "GPU",
      value: calibration.hardware,
      options: () => Object.keys(devices),
      words: (name) => devices[name].words,
    },
    {
      key: "link",
      name: "Link",
      value: "",
      options: () => [...linksOf(devices[state.hardware]), TYPED],
      words: linkWords,
    },
    {
      key: "latency_us",
      name: "Latency",
      unit: "µs",
      value: "20",
      least: 0,
      most: 1e6,
      shown: () => state.link === TYPED,
    },
    {
      key: "bandwidth",
      name: "Bandwidth",
      unit: "GB/s",
      value: "400",
      least: 0.001,
      most: 1e6,
      shown: () => state.link === TYPED,
    },
    {
      key: "tp",
      name: "GPUs",
      unit: "TP",
      value: "8",
      ...counted,
      most: 1024,
      offers: () => (modelOf() ? possible(modelOf()) : []),
    },
    { key: "batch", name: "Batch", value: "1", ...counted, offers: () => [1, 2, 4, 8, 16, 32, 64, 128, 256] },
    {
      key: "loss",
      name: "Loss you accept",
      unit: "points",
      value: "0.5",
      least: -100,
      most: 100,
      words: lossWords,
      more: true,
    },
    { key: "prompt", name: "Prompt tokens", value: "1024", ...counted, more: true },
    { key: "new_tokens", name: "New tokens", value: "512", ...counted, least: 2, more: true },
    {
      key: "implementation",
      name: "Implementation",
      value: "published",
      options: () => Object.keys(implementations),
      words: (name) => implementations[name].words,
      more: true,
    },
  ];
  const byKey = Object.fromEntries(fields.map((field) => [field.key, field]));
  const NAMES = { own: "another model …", typed: "typed …" };

  // What is wrong with a field; empty if nothing is.
  function problem(field) {
    const { key, name, least, most, whole } = field;
    const text = state[key];
    const said = `${name} = ${`${text}`.trim() || "nothing"}`;
    if (key === "config") {
      try {
        sizes[OWN] = reader.size(reader.parsed(text));
        return "";
      } catch (error) {
        delete sizes[OWN];
        return error.message;
      }
    }
    if (field.options) {
      const offered = field.options();
      if (offered.includes(text)) return "";
      if (key === "link" && findLink(text))
        return `${state.hardware} has no link ${text}; it can have ${offered.join(", ")}`;
      return `${said} is not known`;
    }
    const value = `${text}`.trim() ? Number(text) : NaN;
    if (!(value >= least && value <= most && (!whole || Number.isInteger(value)))) {
      return `${said} must be a ${whole ? "whole " : ""}number from ${least} to ${most}`;
    }
    if (key === "tp" && modelOf() && !possible(modelOf()).includes(value)) {
      return `${said} is impossible for this model; possible: ${possible(modelOf()).join(", ")}`;
    }
    return "";
  }

  const shown = (field) => !field.shown || field.shown();
  const problems = () => fields.filter(shown).map((field) => [field.key, problem(field)]);

  // Names and numbers as `ladder simulate` takes them; a typed link is 24us+370GB/s.
  function settings() {
    const link = state.link === TYPED ? `${Number(state.latency_us)}us+${Number(state.bandwidth)}GB/s` : state.link;
    const kept = fields.filter((field) => !["latency_us", "bandwidth", "config", "loss"].includes(field.key));
    return {
      ...Object.fromEntries(kept.map(({ key, options }) => [key, options ? state[key] : Number(state[key])])),
      link,
    };
  }

  // ---- the address

  function reset() {
    for (const { key, value } of fields) state[key] = value;
    [state.link] = linksOf(devices[state.hardware]);
  }

  // Take the state from the address, whole or not at all; returns what is wrong with it.
  function read() {
    reset();
    const wrong = [];
    const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    for (const key of Object.keys(given)) if (!byKey[key]) wrong.push(`${key} is no setting of this page`);
    if (!Object.hasOwn(devices, given.hardware ?? state.hardware)) wrong.push(`GPU = ${given.hardware} is not known`);
    else given.link ??= linksOf(devices[given.hardware ?? state.hardware])[0];
    const typed = /^(.+)us[+ ](.+)GB\/s$/.exec(given.link ?? ""); // a + by hand is read as a space
    if (typed) Object.assign(given, { link: TYPED, latency_us: typed[1], bandwidth: typed[2] });
    else if (Object.hasOwn(aliases, given.link ?? "")) given.link = aliases[given.link];
    for (const key of Object.keys(given)) if (byKey[key]) state[key] = given[key];
    if (Object.hasOwn(devices, state.hardware)) {
      const asked = problems().filter(([key]) => key !== "config" || given.config); // that, the visitor will paste
      wrong.push(...asked.map(([, words]) => words).filter(Boolean));
    }
    if (wrong.length) reset();
    return wrong;
  }

  // Of a pasted config.json, what is read of it.
  function address() {
    const config = state.model === OWN ? { config: JSON.stringify(reader.parsed(state.config)) } : {};
    const loss = Number(state.loss) === Number(byKey.loss.value) ? {} : { loss: state.loss };
    return `#${new URLSearchParams({ ...settings(), ...config, ...loss })}`;
  }

  // ---- the controls

  const controls = new Map();

  function control(field) {
    const id = `whatif-${field.key}`;
    const about = { id, "aria-describedby": `${id}-words ${id}-error` };
    const range = { min: field.least, max: field.most, step: field.whole ? 1 : "any", list: `${id}-offers` };
    const placeholder = "layers 64, hidden 5120, heads 64, kv_heads 8, head_dim 128, intermediate 25600, vocab 151936";
    const input = field.text
      ? html("textarea", { ...about, rows: 6, spellcheck: "false", placeholder })
      : field.options
        ? html("select", about)
        : html("input", { ...about, type: "number", ...range });
    const offers = html("datalist", { id: `${id}-offers` });
    const words = html("span", { id: `${id}-words`, class: "words" });
    const error = html("span", { id: `${id}-error`, class: "error" });
    input.addEventListener("input", () => change(field, input.value));
    const box = html(
      "div",
      { class: field.text ? "field wide" : "field" },
      html("label", { for: id }, field.unit ? `${field.name}, ${field.unit}` : field.name),
      input,
      offers,
      words,
      error,
    );
    controls.set(field.key, { field, input, box, words, error, offers });
    return box;
  }

  function change({ key }, value) {
    if (value === TYPED && problems().every(([, wrong]) => !wrong)) {
      // typing starts from the link that was chosen
      const numbers = linkNumbers(settings());
      state.latency_us = `${+numbers.latency_us.toPrecision(3)}`;
      state.bandwidth = `${+(numbers.bus_bandwidth / 1e9).toPrecision(3)}`;
    }
    state[key] = value;
    const offered = byKey.link.options();
    if (key === "hardware" && !offered.includes(state.link)) [state.link] = offered;
    show();
  }

  const option = (value) => html("option", { value }, NAMES[value] ?? `${value}`);

  // Show the state in the form, with what is wrong beside each field, and tell the page.
  function show(quietly = false) {
    const wrong = new Map(problems());
    for (const [key, { field, input, box, words, error, offers }] of controls) {
      const offered = (field.options ?? field.offers)?.() ?? [];
      const list = field.options ? input : offers;
      if ([...list.children].map((one) => one.value).join() !== offered.join())
        list.replaceChildren(...offered.map(option));
      if (input.value !== state[key]) input.value = state[key];
      box.hidden = !wrong.has(key);
      words.textContent = field.words && !wrong.get(key) ? field.words(state[key]) : "";
      error.textContent = wrong.get(key) ?? "";
      input.setAttribute("aria-invalid", Boolean(wrong.get(key)));
    }
    const found = [...wrong.values()].filter(Boolean);
    if (quietly) return;
    if (!found.length) history.replaceState(null, "", address());
    changed(found.length ? null : settings(), found);
  }

  const basic = fields.filter((field) => !field.more).map(control);
  const more = html("div", { class: "more" }, fields.filter((field) => field.more).map(control));
  const element = html(
    "form",
    { "aria-label": "What to simulate", autocomplete: "off" },
    basic,
    html("details", null, html("summary", null, "More settings"), more),
  );
  element.addEventListener("submit", (event) => event.preventDefault());

  return {
    element,
    read,
    reset,
    show,
    possible,
    within: () => within(Number(state.loss)),
    loss: () => Number(state.loss),
  };
}
