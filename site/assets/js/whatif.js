// The what-if page: what a wiring would gain with the chosen model, GPUs and link. The form is in whatif-form.js, the
// equations are in simulate.js, the drawings in charts.js.
document$.subscribe(() => {
  const data = document.getElementById("whatif-data");
  const root = document.getElementById("whatif");
  if (!data || !root) return;
  const tables = JSON.parse(data.textContent);
  const { sizes, links, calibration, one_shot: oneShot } = tables;
  const simulation = simulator(tables);
  const { predict, layer, order, findLink, degrees } = simulation;
  const { html, look, three, times, between, bars, timeline, figure } = charts(tables);

  const { table, paper, studies, share } = whatifTables(tables, simulation);
  const gib = (bytes) => (bytes / tables.constants.gib).toFixed(1);
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
    return html(
      "div",
      { class: "card" },
      html("p", { class: "title" }, title),
      html("p", { class: "number" }, number),
      rest,
    );
  }

  // Three numbers: all layers, those that convert, and both against an engine.
  function cards(at, ladder, part) {
    const { layers } = sizes[at.model];
    const row = converted(at);
    const gain = (one) => times(one.speedup);
    const range = (one) => p(`90 % interval ${between(one.speedup_interval, times)}`);
    const shot = at.tp <= 8 && oneShot[at.link];
    const engine = predict({ ...at, implementation: "serving", link: shot || at.link }, ["ladder", part.wiring]);
    const loss =
      row &&
      `${row.model}, its last ${row.converted} of ${row.layers} layers retrained so, ` +
        (row.loss > 0 ? `lost ${row.loss.toFixed(1)} points` : "lost nothing") +
        " on average (published).";
    return html(
      "div",
      { class: "cards" },
      card(
        `Ladder in all ${layers} layers`,
        gain(ladder),
        range(ladder),
        p("The model must be trained this way, or long retrained."),
      ),
      row
        ? card(`Ladder in the last ${row.here}`, gain(part), range(part), p(loss))
        : card("Ladder in some layers", "none", p(`No published model was converted within ${form.loss()} points.`)),
      card(
        shot ? "Against an engine with a one-shot all-reduce" : "Against a serving engine",
        row ? `${gain(engine[0])} all, ${gain(engine[1])} part` : gain(engine[0]),
        p(
          `90 % interval ${between(engine[0].speedup_interval, times)}`,
          row ? ` and ${between(engine[1].speedup_interval, times)}` : "",
        ),
        p(
          shot
            ? "vLLM and others have one. Measure against this, not against NCCL."
            : "With its kernels; this link has no one-shot all-reduce.",
        ),
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
      return [
        p(
          html("strong", null, "TP is the wrong choice here. "),
          `The same ${at.batch} sequences on ${setup(spread)}, give ${total(spread)}.`,
        ),
      ];
    }
    const more = best((tp) => standard(tp, at.batch));
    if (!more) return [];
    const slower = ladder.tokens_per_s / at.batch / (more.tokens_per_s / more.batch);
    return [
      p(
        html("strong", null, "More requests than this? "),
        `${setup(more)}, each with ${count(at.batch, "sequence")}, give ${total(more)}; `,
        `each user then waits ${times(slower)} as long.`,
      ),
    ];
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
      said.push(
        `The latency of ${link.name} is known for TP ${known.join(", ")} only; that of TP ${at.tp} is extrapolated.`,
      );
    }
    if (gap < calibration.quantile * calibration.residual.speedup) {
      said.push("Ladder and parallel are too close here for the simulator to say which is faster.");
    }
    return said;
  }

  function headline(words, ...rest) {
    answer.replaceChildren(html("p", { class: "headline" }, words), ...rest);
  }

  // The smallest number of GPUs at which a model that does not fit would.
  function enough(at) {
    const tp = form
      .possible(sizes[at.model])
      .find((one) => one > at.tp && predict({ ...at, tp: one }, ["ladder"], false)[0].fits);
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
    const predictions = predict(
      at,
      rows.map((row) => row.wiring),
    );
    const found = new Map(predictions.map((row, n) => [row.wiring, { ...row, label: rows[n].label }]));
    const ladder = found.get("ladder");
    const room = gib(ladder.room - tables.constants.context);
    if (!ladder.fits) {
      return headline(
        "Does not fit: no speed.",
        p(`Each GPU needs ${gib(ladder.memory)} GiB, and ${at.hardware} has ${room} GiB for it. ${enough(at)}`),
      );
    }
    const hidden = at.tp > 1 ? `, and hides ${share(ladder.hidden)} of the communication` : "";
    headline(
      html("span", null, "Ladder: ", html("strong", null, times(ladder.speedup)), " the speed of standard, simulated"),
      cards(at, ladder, found.get(hybrid(at)) ?? ladder),
      ...replicas(at, ladder),
      p(
        `In all layers it gives ${three(ladder.tokens_per_s)} tokens/s instead of `,
        `${three(found.get("standard").tokens_per_s)}${hidden}. Each GPU needs ${gib(ladder.memory)} of ${room} GiB.`,
      ),
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
  const examples = html(
    "p",
    { class: "examples" },
    "Try: ",
    EXAMPLES.map(([words, hash]) => [html("a", { href: `#${hash}` }, words), " "]),
  );
  root.replaceChildren(
    examples,
    form.element,
    html("div", { class: "answers" }, note, answer),
    html("div", { class: "studies" }, details, terminal),
  );
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
