// The what-if page: its form, its answers, and its address, which holds the whole state. The equations are in
// simulate.js, the drawings in charts.js.
document$.subscribe(() => {
  const data = document.getElementById("whatif-data");
  const root = document.getElementById("whatif");
  if (!data || !root) return;
  const tables = JSON.parse(data.textContent);
  const { sizes, devices, links, aliases, implementations, calibration } = tables;
  const { predict, layer, findLink, linkNumbers, calibrated, degrees } = simulator(tables);
  const { html, look, plain, three, times, between, bars, timeline, lines, legend, figure } = charts(tables);

  const TYPED = "typed";
  const BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256];
  const LATENCIES = Array.from({ length: 25 }, (_, n) => 10 ** (n / 8)); // µs, 1 to 1000
  const SOURCE = `calibration: ${calibration.name} (${calibration.hardware})`;
  const gib = (bytes) => (bytes / tables.constants.gib).toFixed(1);
  const share = (value) => (Number.isNaN(value) ? "–" : `${Math.round(100 * value)} %`.replace("-", "−"));

  // ---- the form: selects have options, the others take numbers

  const linkWords = (name) =>
    calibrated.includes(name) ? `calibrated at TP ${degrees(name).join(", ")}` : links[name]?.words ?? "your own numbers";
  const modelWords = (name) =>
    `${(sizes[name].parameters / 1e9).toPrecision(3)} billion parameters, ${sizes[name].layers} layers`;
  const counted = { least: 1, most: 1e6, whole: true };
  const fields = [
    { key: "model", name: "Model", value: "llama-3-70b", options: Object.keys(sizes), words: modelWords },
    {
      key: "hardware",
      name: "GPU",
      value: calibration.hardware,
      options: Object.keys(devices),
      words: (name) => devices[name].words,
    },
    {
      key: "link",
      name: "Link",
      value: calibrated.includes("nvlink") ? "nvlink" : Object.keys(links)[0],
      options: [...new Set([...calibrated, ...Object.keys(links)]), TYPED],
      words: linkWords,
    },
    { key: "latency_us", name: "Latency", unit: "µs", value: "20", least: 0, most: 1e6, typed: true },
    { key: "bandwidth", name: "Bandwidth", unit: "GB/s", value: "400", least: 0.001, most: 1e6, typed: true },
    { key: "tp", name: "TP", unit: "GPUs", value: "8", ...counted, most: 1024, offers: [1, 2, 4, 8, 16, 32, 64] },
    { key: "batch", name: "Batch", value: "1", ...counted, offers: BATCHES },
    { key: "prompt", name: "Prompt tokens", value: "1024", ...counted },
    { key: "new_tokens", name: "New tokens", value: "512", ...counted, least: 2 },
    {
      key: "implementation",
      name: "Implementation",
      value: "published",
      options: Object.keys(implementations),
      words: (name) => implementations[name].words,
    },
  ];
  const state = {};

  // What is wrong with a text in a field; empty if nothing is.
  function problem({ name, options, least, most, whole }, text) {
    const said = `${name} = ${text.trim() || "nothing"}`;
    if (options) return options.includes(text) ? "" : `${said} is not known`;
    const value = text.trim() ? Number(text) : NaN;
    if (value >= least && value <= most && (!whole || Number.isInteger(value))) return "";
    return `${said} must be a ${whole ? "whole " : ""}number from ${least} to ${most}`;
  }

  function problems() {
    const asked = fields.filter((field) => !field.typed || state.link === TYPED);
    return asked.map((field) => [field.key, problem(field, state[field.key])]);
  }

  // Names and numbers as `ladder simulate` takes them; a typed link is 24us+370GB/s.
  function settings() {
    const link = state.link === TYPED ? `${Number(state.latency_us)}us+${Number(state.bandwidth)}GB/s` : state.link;
    const value = ({ key, options }) => [key, options ? state[key] : Number(state[key])];
    return { ...Object.fromEntries(fields.filter((field) => !field.typed).map(value)), link };
  }

  // Take the state from the address; returns what could not be taken.
  function read() {
    const notes = [];
    for (const { key, value } of fields) state[key] = value;
    for (const [key, text] of new URLSearchParams(location.hash.slice(1))) {
      const typed = key === "link" && /^(.+)us[+ ](.+)GB\/s$/.exec(text); // a + by hand is read as a space
      const given = { [key]: Object.keys(aliases).includes(text) ? aliases[text] : text };
      if (typed) Object.assign(given, { link: TYPED, latency_us: typed[1], bandwidth: typed[2] });
      const meant = fields.filter((field) => field.key in given && (typed || !field.typed));
      const [wrong] = meant.map((field) => problem(field, given[field.key])).filter(Boolean);
      if (!meant.length) notes.push(`${key} is no setting of this page.`);
      else if (wrong) notes.push(`${wrong}; it is ${fields.find((field) => field.key === key).value} here.`);
      else Object.assign(state, given);
    }
    return notes.map((words) => `In the link that you opened: ${words}`);
  }

  const controls = new Map();

  function control(field) {
    const id = `whatif-${field.key}`;
    const option = (value) => html("option", { value }, `${value}`);
    const about = { id, "aria-describedby": `${id}-words ${id}-error` };
    const range = { min: field.least, max: field.most, step: field.whole ? 1 : "any", list: `${id}-offers` };
    const input = field.options
      ? html("select", about, field.options.map(option))
      : html("input", { ...about, type: "number", ...range });
    const offers = html("datalist", { id: `${id}-offers` }, (field.offers ?? []).map(option));
    const words = html("span", { id: `${id}-words`, class: "words" });
    const error = html("span", { id: `${id}-error`, class: "error" });
    input.addEventListener("input", () => change(field, input.value));
    const label = html("label", { for: id }, field.unit ? `${field.name}, ${field.unit}` : field.name);
    const box = html("div", { class: "field" }, label, input, offers, words, error);
    controls.set(field.key, { field, input, box, words, error });
    return box;
  }

  function change(field, value) {
    if (value === TYPED && problems().every(([, wrong]) => !wrong)) {
      // typing starts from the link that was chosen
      const numbers = linkNumbers(settings());
      state.latency_us = `${+numbers.latency_us.toPrecision(3)}`;
      state.bandwidth = `${+(numbers.bus_bandwidth / 1e9).toPrecision(3)}`;
    }
    state[field.key] = value;
    note.replaceChildren();
    render();
  }

  // Show the state in the form, with what is wrong beside each field; returns what is wrong.
  function fill() {
    const wrong = new Map(problems());
    for (const [key, { field, input, box, words, error }] of controls) {
      if (input.value !== state[key]) input.value = state[key];
      box.hidden = !wrong.has(key);
      words.textContent = field.words ? field.words(state[key]) : "";
      error.textContent = wrong.get(key) ?? "";
      input.setAttribute("aria-invalid", Boolean(wrong.get(key)));
    }
    return [...wrong.values()].filter(Boolean);
  }

  // ---- the answers

  // Wirings whose order of computing and communicating is the same take the same time: one row for them.
  function rowsOf(model) {
    const groups = new Map();
    for (const [wiring, order] of Object.entries(tables.orders[sizes[model].layers])) {
      groups.set(order, [...(groups.get(order) ?? []), wiring]);
    }
    const label = (group) => group.map((wiring) => look(wiring).label).join(", ");
    return [...groups.values()].map((group) => ({ wiring: group[0], label: label(group) }));
  }

  // How the numbers came about, as far as this point is not one that was measured.
  function remarks(at, found) {
    const link = findLink(at.link);
    const known = link.calibrated ? degrees(at.link) : Object.keys(link.latency_us ?? {}).map(Number);
    const gap = Math.abs(Math.log(found.get("ladder").speedup / found.get("parallel").speedup));
    const percent = (name) => `${Math.round(100 * tables.assumed[name])} %`;
    const said = [];
    const unseen = (name, how, scale) => said.push(`No run on ${name} was used: ${how}, within ${percent(scale)}.`);
    if (at.tp === 1) return ["One GPU communicates nothing, so no wiring is faster than another."];
    if (at.hardware !== calibration.hardware) {
      unseen(at.hardware, `it is taken to be as efficient as ${calibration.hardware}`, "device_scale");
    }
    if (link.assumed) unseen(link.name, "its all-reduce is that of the table of links", "link_scale");
    if (known.length && at.tp > Math.max(...known)) {
      said.push(`The latency of ${link.name} is known for TP ${known.join(", ")} only; that of TP ${at.tp} is extrapolated.`);
    }
    if (gap < calibration.quantile * calibration.residual.speedup) {
      said.push("Ladder and parallel are too close here for the simulator to say which is faster.");
    }
    return said;
  }

  function table(rows) {
    const heads = ["Wiring", "Tokens/s", "Over standard", "Hidden", "ms a decode step", "Prefill, ms"];
    const small = (range) => (range ? html("span", { class: "interval" }, range) : "");
    const cell = (value, range) => html("td", { class: "number" }, value, small(range));
    const body = rows.map((row) => {
      const range = row.wiring === "standard" ? "" : between(row.speedup_interval, (value) => value.toFixed(2));
      return html(
        "tr",
        null,
        html("th", { scope: "row" }, row.label),
        cell(three(row.tokens_per_s), between(row.tokens_per_s_interval, three)),
        cell(times(row.speedup), range),
        cell(share(row.hidden)),
        cell(three(1e3 * row.step)),
        cell(three(1e3 * row.prefill)),
      );
    });
    const head = heads.map((name, n) => html("th", { scope: "col", class: n ? "number" : "" }, name));
    const title = html("strong", null, "Each wiring, simulated");
    const caption = html("p", { id: "whatif-table", class: "caption" }, title, `, with 90 % intervals; ${SOURCE}.`);
    const about = { class: "scroll", role: "region", tabindex: 0, "aria-labelledby": "whatif-table" };
    const parts = [html("thead", null, html("tr", null, head)), html("tbody", null, body)];
    return html("div", { class: "results" }, caption, html("div", about, html("table", { class: "all" }, parts)));
  }

  // Speed-up of `rows` at each of `values` of a setting, where the model fits; ladder with its interval.
  function study(at, rows, key, values) {
    const points = values.map((x) => {
      const asked = { ...at, [key]: x };
      const [ladder] = predict(asked, ["ladder"]);
      return ladder.fits && { x, ladder, found: predict(asked, rows.map((row) => row.wiring), false) };
    });
    return rows.map(({ wiring, label }, n) => ({
      wiring,
      label,
      points: points.filter(Boolean).map(({ x, ladder, found }) => ({
        x,
        y: found[n].speedup,
        band: wiring === "ladder" ? ladder.speedup_interval : null,
      })),
    }));
  }

  // Where ladder gains most, and where its interval lies above 1.
  function helps(series, at, form) {
    const { points } = series.find((one) => one.wiring === "ladder");
    const best = points.reduce((a, b) => (b.y > a.y ? b : a));
    const good = points.map((point) => point.band[0] > 1);
    const ranges = []; // [first, last] of neighbours
    points.forEach(({ x }, n) => {
      if (good[n] && good[n - 1]) ranges[ranges.length - 1][1] = x;
      else if (good[n]) ranges.push([x, x]);
    });
    const said = ranges.map(([from, to]) => (from === to ? form(from) : between([from, to], form))).join(" and ");
    const where = good.every(Boolean) ? "everywhere" : said ? `at ${said}` : "nowhere";
    return `Over ${at} ladder gains most at ${form(best.x)} (${times(best.y)}); its interval lies above 1× ${where}. `;
  }

  function studies(at, rows) {
    const curves = rows.filter((row) => row.wiring !== "standard");
    const sorted = (values) => [...new Set(values)].sort((a, b) => a - b);
    const own = linkNumbers(at).latency_us;
    const batches = study(at, curves, "batch", sorted([...BATCHES, ...(at.batch < 256 ? [at.batch] : [])]));
    const latencies = study(at, curves, "latency_us", sorted([...LATENCIES, ...(own > 1 && own < 1000 ? [own] : [])]));
    const caption =
      "Simulated speed-up over standard; all but what an axis says is as chosen (dotted: your choice). " +
      "The shade is ladder's 90 % interval. " +
      helps(batches, "batches", plain) +
      helps(latencies, "latencies", (us) => `${three(us)} µs`) +
      (batches[0].points.some((point) => point.x === 256) ? "" : "Batches beyond the curves do not fit. ") +
      `${SOURCE[0].toUpperCase()}${SOURCE.slice(1)}.`;
    const panels = [
      lines("Speed-up over batch", "batch", BATCHES, at.batch, batches),
      lines("Speed-up over link latency", "latency of an all-reduce, µs", [1, 10, 100, 1000], own, latencies),
    ];
    return [legend(curves), figure("When it stops helping", caption, panels)];
  }

  function headline(words, ...rest) {
    answer.replaceChildren(html("p", { class: "headline" }, words), ...rest.map((one) => html("p", null, one)));
  }

  // The smallest number of GPUs, doubling, at which a model that does not fit would.
  function enough(at) {
    for (let tp = at.tp * 2; tp <= 1024; tp *= 2) {
      if (predict({ ...at, tp }, ["ladder"], false)[0].fits) return `It would fit at TP ${tp}.`;
    }
    return "A smaller batch or prompt may fit.";
  }

  function render() {
    const wrong = fill();
    details.replaceChildren();
    terminal.hidden = wrong.length > 0;
    if (wrong.length) {
      headline("No prediction.", `${wrong.join("; ")}.`);
      return;
    }
    const at = settings();
    history.replaceState(null, "", `#${new URLSearchParams(at)}`);
    const options = Object.entries(at).map(([key, value]) => `--${key.replace("_", "-")} ${value}`);
    command.textContent = `ladder simulate ${options.join(" ")}`;
    const rows = rowsOf(at.model);
    const predictions = predict(at, rows.map((row) => row.wiring));
    const found = new Map(predictions.map((row, n) => [row.wiring, { ...row, label: rows[n].label }]));
    const ladder = found.get("ladder");
    const room = `${gib(ladder.room - tables.constants.context)} GiB`;
    if (!ladder.fits) {
      headline(
        "Does not fit: no speed.",
        `Simulated: a rank needs ${gib(ladder.memory)} GiB, and ${at.hardware} has ${room} for it. ${enough(at)}`,
      );
      return;
    }
    headline(
      html("span", null, "Ladder: ", html("strong", null, times(ladder.speedup)), " the speed of standard, simulated"),
      `90 % interval ${between(ladder.speedup_interval, times)}. ${three(ladder.tokens_per_s)} tokens/s instead of ` +
        `${three(found.get("standard").tokens_per_s)}; ${share(ladder.hidden)} of the communication hidden. ` +
        `A rank needs ${gib(ladder.memory)} of ${room}: fits. All simulated; ${SOURCE}.`,
      ...remarks(at, found),
    );
    const layers = ["standard", "ladder"].map((wiring) => ({ wiring, ...layer(at, wiring) }));
    details.append(
      html(
        "div",
        { class: "pair" },
        figure("Tokens/s of the batch", `Simulated, prefill included; ${SOURCE}.`, [bars([...found.values()])]),
        figure("One layer of a decode step", `Simulated, both on one scale; ${SOURCE}.`, [timeline(layers)]),
      ),
      ...studies(at, rows),
      table([...found.values()]),
    );
  }

  // ---- the page

  const note = html("div", { class: "note", role: "status" });
  const answer = html("div", { class: "answer", role: "status" });
  const details = html("div", null);
  const command = html("code", null);
  const tell = (...lines) => note.replaceChildren(...lines.map((line) => html("p", null, line)));
  const button = (words, act) => {
    const made = html("button", { type: "button", class: "md-button" }, words);
    made.addEventListener("click", act);
    return made;
  };
  const copy = button("Copy link", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      tell("Link copied.");
    } catch {
      tell(`Copy this: ${location.href}`); // browsers give the clipboard to safe pages only
    }
  });
  const afresh = button("Reset", () => {
    history.replaceState(null, "", "#");
    tell(...read());
    render();
  });
  const buttons = html("div", { class: "buttons" }, copy, afresh);
  const form = html("form", { "aria-label": "What to simulate", autocomplete: "off" }, fields.map(control), buttons);
  form.addEventListener("submit", (event) => event.preventDefault());
  const terminal = html("div", { class: "terminal" }, html("p", null, "The same in a terminal:"), html("pre", null, command));
  root.replaceChildren(form, html("div", null, note, answer, details, terminal));
  const open = () => {
    tell(...read());
    render();
  };
  // Links to a place on the page, which have no settings, change nothing.
  window.addEventListener("hashchange", () => location.hash.includes("=") && open());
  open();
});
