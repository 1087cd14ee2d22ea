// The what-if page: what a wiring would gain with the chosen model, GPUs and link. The form is in whatif-form.js, the
// equations are in simulate.js, the drawings in charts.js.
document$.subscribe(() => {
  const data = document.getElementById("whatif-data");
  const root = document.getElementById("whatif");
  if (!data || !root) return;
  const tables = JSON.parse(data.textContent);
  const { sizes, links, calibration, one_shot: oneShot } = tables;
  const simulation = simulator(tables);
  const { predict, layer, order, findLink, linkNumbers, degrees } = simulation;
  const { html, look, plain, three, times, between, bars, timeline, lines, legend, figure } = charts(tables);

  const BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256];
  const LATENCIES = Array.from({ length: 25 }, (_, n) => 10 ** (n / 8)); // µs, 1 to 1000
  const gib = (bytes) => (bytes / tables.constants.gib).toFixed(1);
  const share = (value) => (Number.isNaN(value) ? "–" : `${Math.round(100 * value)} %`.replace("-", "−"));
  const p = (...words) => html("p", null, ...words);
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

  // ---- which wirings

  // The layers that convert within the loss that the visitor accepts: a share of the published model's layers.
  function converted(at) {
    const row = form.within();
    return row ? { ...row, here: Math.round((sizes[at.model].layers * row.converted) / row.layers) } : null;
  }

  function hybrid(at) {
    const { layers } = sizes[at.model];
    const part = converted(at)?.here ?? Math.floor(layers / 2);
    return `ladder@${layers - part}-${layers - 1}`;
  }

  // Wirings whose order of computing and communicating is the same take the same time: one row for them.
  function rowsOf(at) {
    const groups = new Map();
    for (const name of tables.wirings) {
      const wiring = name === "ladder@" ? hybrid(at) : name;
      const letters = order(wiring, sizes[at.model].layers);
      groups.set(letters, [...(groups.get(letters) ?? []), wiring]);
    }
    const label = (group) => group.map((wiring) => look(wiring).label).join(", ");
    return [...groups.values()].map((group) => ({ wiring: group[0], label: label(group) }));
  }

  // ---- the answer

  function card(title, number, ...rest) {
    return html("div", { class: "card" }, html("p", { class: "title" }, title), html("p", { class: "number" }, number), rest);
  }

  // Three numbers: all layers, those that convert, and both against an engine.
  function cards(at, ladder, part) {
    const { layers } = sizes[at.model];
    const row = converted(at);
    const gain = (one) => times(one.speedup);
    const range = (one) => p(`90 % interval ${between(one.speedup_interval, times)}`);
    const shot = at.tp <= 8 && oneShot[at.link];
    const engine = predict({ ...at, implementation: "serving", link: shot || at.link }, ["ladder", part.wiring]);
    const loss = row && `${row.model}, its last ${row.converted} of ${row.layers} layers retrained so, ` +
      (row.loss > 0 ? `lost ${row.loss.toFixed(1)} points` : "lost nothing") + " on average (published).";
    return html(
      "div",
      { class: "cards" },
      card(`Ladder in all ${layers} layers`, gain(ladder), range(ladder), p("The model must be trained this way, or long retrained.")),
      row
        ? card(`Ladder in the last ${row.here}`, gain(part), range(part), p(loss))
        : card("Ladder in some layers", "none", p(`No published model was converted within ${form.loss()} points.`)),
      card(
        shot ? "Against an engine with a one-shot all-reduce" : "Against a serving engine",
        row ? `${gain(engine[0])} all, ${gain(engine[1])} part` : gain(engine[0]),
        p(`90 % interval ${between(engine[0].speedup_interval, times)}${row ? ` and ${between(engine[1].speedup_interval, times)}` : ""}`),
        p(shot ? "vLLM and others have one. Measure against this, not against NCCL." : "With its kernels; this link has no one-shot all-reduce."),
      ),
    );
  }

  // Fewer GPUs a replica, more replicas: what the same GPUs give in total, as the model is.
  function replicas(at, ladder) {
    if (at.tp === 1) return [];
    const options = form.possible(sizes[at.model]).filter((tp) => tp < at.tp && at.tp % tp === 0);
    const best = (of) => {
      const all = options.map((tp) => of(tp)).filter((one) => one && one.fits && one.total > ladder.tokens_per_s);
      return all.reduce((a, b) => (a && a.total >= b.total ? a : b), undefined);
    };
    const standard = (tp, batch) => {
      const [one] = predict({ ...at, tp, batch, link: at.link }, ["standard"], false);
      return { ...one, tp, batch, number: at.tp / tp, total: (one.tokens_per_s * at.tp) / tp };
    };
    const spread = best((tp) => ((at.batch * tp) % at.tp === 0 ? standard(tp, (at.batch * tp) / at.tp) : undefined));
    const setup = (one) => `${count(one.number, "replica")} at TP ${one.tp}, unconverted`;
    const total = (one) => `${three(one.total)} tokens/s in total instead of ${three(ladder.tokens_per_s)}`;
    if (spread) {
      return [p(html("strong", null, "TP is the wrong choice here. "), `The same ${at.batch} sequences on ${setup(spread)}, give ${total(spread)}.`)];
    }
    const more = best((tp) => standard(tp, at.batch));
    if (!more) return [];
    const slower = (ladder.tokens_per_s / at.batch) / (more.tokens_per_s / more.batch);
    return [p(html("strong", null, "More requests than this? "), `${setup(more)}, each with ${count(at.batch, "sequence")}, give ${total(more)}; each user then waits ${times(slower)} as long.`)];
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
    if (sizes[at.model].experts) said.push("No run of a model with experts was used.");
    if (known.length && at.tp > Math.max(...known)) {
      said.push(`The latency of ${link.name} is known for TP ${known.join(", ")} only; that of TP ${at.tp} is extrapolated.`);
    }
    if (gap < calibration.quantile * calibration.residual.speedup) {
      said.push("Ladder and parallel are too close here for the simulator to say which is faster.");
    }
    return said;
  }

  function framed(id, caption, heads, body) {
    const head = heads.map((name, n) => html("th", { scope: "col", class: n ? "number" : "" }, name));
    const about = { class: "scroll", role: "region", tabindex: 0, "aria-labelledby": id };
    const parts = [html("thead", null, html("tr", null, head)), html("tbody", null, body)];
    return html("div", { class: "results" }, html("p", { id, class: "caption" }, caption), html("div", about, html("table", { class: "all" }, parts)));
  }

  const cell = (value, range = "") => html("td", { class: "number" }, value, range && html("span", { class: "interval" }, range));
  const rowHead = (words) => html("th", { scope: "row" }, words);
  const two = (value) => value.toFixed(2);

  function table(rows) {
    const body = rows.map((row) =>
      html(
        "tr",
        null,
        rowHead(row.label),
        cell(three(row.tokens_per_s), between(row.tokens_per_s_interval, three)),
        cell(times(row.speedup), row.wiring === "standard" ? "" : between(row.speedup_interval, two)),
        cell(share(row.hidden)),
        cell(three(1e3 * row.step)),
        cell(three(1e3 * row.prefill)),
      ),
    );
    const heads = ["Wiring", "Tokens/s", "Over standard", "Hidden", "ms a decode step", "Prefill, ms"];
    const caption = [html("strong", null, "Each wiring, simulated"), ", with 90 % intervals."];
    return framed("whatif-table", caption, heads, body);
  }

  // The paper's Table 1 beside predictions and what was measured; it does not depend on the form.
  function paper() {
    const body = tables.table1.map(({ at, published, log, reason, here }) => {
      const [ladder] = predict(at, ["ladder"]);
      const known = here ? cell(times(here.value), `${here.model}, TP ${here.tp}, CPU, TCP`) : cell("–");
      const name = html("tr", null, rowHead(html("a", { href: `#${new URLSearchParams(at)}` }, at.model)), cell(at.tp), cell(at.link.includes("p2p-off") ? "off" : "on"));
      name.append(cell(times(published), reason), cell(times(ladder.speedup), between(ladder.speedup_interval, two)), cell(log ? times(log) : "–"), known);
      return name;
    });
    const heads = ["Model", "TP", "P2P", "Published", "Predicted", "Authors' logs", "Measured here"];
    const caption = "Speed-up of ladder over standard at batch 4, the batch that the authors' logs agree with. No model of this table was run here.";
    return [html("h2", { id: "table-1" }, "The paper's Table 1"), framed("whatif-table1", caption, heads, body)];
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

  // Where ladder's interval lies above 1.
  function helps(series, form) {
    const { points } = series.find((one) => one.wiring === "ladder");
    const good = points.map((point) => point.band[0] > 1);
    const ranges = []; // [first, last] of neighbours
    points.forEach(({ x }, n) => {
      if (good[n] && good[n - 1]) ranges[ranges.length - 1][1] = x;
      else if (good[n]) ranges.push([x, x]);
    });
    const said = ranges.map(([from, to]) => (from === to ? form(from) : between([from, to], form))).join(" and ");
    return said ? `at ${said}` : "at none";
  }

  function studies(at, rows) {
    const curves = rows.filter((row) => row.wiring !== "standard");
    const sorted = (values) => [...new Set(values)].sort((a, b) => a - b);
    const own = linkNumbers(at).latency_us;
    const batches = study(at, curves, "batch", sorted([...BATCHES, ...(at.batch < 256 ? [at.batch] : [])]));
    const latencies = study(at, curves, "latency_us", sorted([...LATENCIES, ...(own > 1 && own < 1000 ? [own] : [])]));
    const caption =
      `Ladder's interval lies above 1× ${helps(batches, plain).replace("at", "at batch")}, and ` +
      `${helps(latencies, three)} µs of latency. ` +
      "Dotted: your choice. Shade: ladder's 90 % interval.";
    const panels = [
      lines("Speed-up over batch", "batch", BATCHES, at.batch, batches),
      lines("Speed-up over link latency", "latency of an all-reduce, µs", [1, 10, 100, 1000], own, latencies),
    ];
    return [legend(curves), figure("Where it stops helping", caption, panels)];
  }

  function headline(words, ...rest) {
    answer.replaceChildren(html("p", { class: "headline" }, words), ...rest);
  }

  // The smallest number of GPUs at which a model that does not fit would.
  function enough(at) {
    const tp = form.possible(sizes[at.model]).find((one) => one > at.tp && predict({ ...at, tp: one }, ["ladder"], false)[0].fits);
    return tp ? `It would fit at TP ${tp}.` : "A smaller batch or prompt may fit.";
  }

  function render(at, wrong) {
    details.replaceChildren();
    terminal.hidden = !at;
    if (!at) return headline("No prediction.", ...wrong.map((words) => p(`${words}.`)));
    const model = at.model === "own" ? "config.json" : at.model;
    const options = Object.entries({ ...at, model }).map(([key, value]) => `--${key.replace("_", "-")} ${value}`);
    command.textContent = `ladder simulate ${options.join(" ")}`;
    const rows = rowsOf(at);
    const predictions = predict(at, rows.map((row) => row.wiring));
    const found = new Map(predictions.map((row, n) => [row.wiring, { ...row, label: rows[n].label }]));
    const ladder = found.get("ladder");
    const room = gib(ladder.room - tables.constants.context);
    if (!ladder.fits) {
      return headline("Does not fit: no speed.", p(`Each GPU needs ${gib(ladder.memory)} GiB, and ${at.hardware} has ${room} GiB for it. ${enough(at)}`));
    }
    const hidden = at.tp > 1 ? `, and hides ${share(ladder.hidden)} of the communication` : "";
    headline(
      html("span", null, "Ladder: ", html("strong", null, times(ladder.speedup)), " the speed of standard, simulated"),
      cards(at, ladder, found.get(hybrid(at)) ?? ladder),
      ...replicas(at, ladder),
      p(`In all layers it gives ${three(ladder.tokens_per_s)} tokens/s instead of ${three(found.get("standard").tokens_per_s)}${hidden}. Each GPU needs ${gib(ladder.memory)} of ${room} GiB.`),
      ...remarks(at, found).map((words) => p(words)),
    );
    const layers = ["standard", "ladder"].map((wiring) => ({ wiring, ...layer(at, wiring) }));
    details.append(
      html(
        "div",
        { class: "pair" },
        figure("Tokens/s of the batch", "Simulated, prefill included.", [bars([...found.values()])]),
        figure("One layer of a decode step", "Simulated, both on one scale.", [timeline(layers)]),
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
  const terminal = html("div", { class: "terminal" }, p("The same in a terminal:"), html("pre", null, command));
  const tell = (...words) => note.replaceChildren(...words.map((line) => p(line)));
  const form = whatifForm(tables, simulation, html, (at, wrong) => {
    note.replaceChildren();
    render(at, wrong);
  });

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
    form.reset();
    form.show();
  });
  form.element.append(html("div", { class: "buttons" }, copy, afresh));

  // Questions that many have; the third needs the visitor's own config.json.
  const EXAMPLES = [
    ["70B on 8 H100", "model=llama-3-70b&hardware=h100&tp=8"],
    ["8B on 2 RTX 4090", "model=llama-3.1-8b&hardware=rtx-4090&tp=2"],
    ["My own model on 4 L40S", "model=own&hardware=l40s&tp=4"],
    ["The paper's Table 1", "table-1"],
  ];
  const examples = html("p", { class: "examples" }, "Try: ", EXAMPLES.map(([words, hash]) => [html("a", { href: `#${hash}` }, words), " "]));
  root.replaceChildren(examples, form.element, html("div", { class: "answers" }, note, answer), html("div", { class: "studies" }, details, terminal));
  root.after(...paper());

  function open() {
    const wrong = form.read();
    if (wrong.length) {
      form.show(true);
      headline("This link cannot be answered.", ...wrong.map((words) => p(`${words}.`)));
      details.replaceChildren();
      terminal.hidden = true;
    } else form.show();
  }
  // Links to a place on the page, which have no settings, change nothing.
  window.addEventListener("hashchange", () => location.hash.includes("=") && open());
  open();
});
