// The drawings of the what-if page: inline SVG like the site's other figures, named and described for screen readers.
function charts(tables) {
  const maker = (namespace) => (tag, attributes, ...children) => {
    const made = document.createElementNS(namespace, tag);
    for (const [name, value] of Object.entries(attributes ?? {})) if (value !== false) made.setAttribute(name, value);
    made.append(...children.flat(Infinity));
    return made;
  };
  const html = maker("http://www.w3.org/1999/xhtml");
  const svg = maker("http://www.w3.org/2000/svg");

  const look = (wiring) => tables.looks[wiring.replace(/@.*/, "@")];
  const plain = (value) => (+value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 });
  const three = (value) => (value >= 999.5 ? Math.round(value).toLocaleString("en") : value.toPrecision(3));
  const times = (value) => `${value.toFixed(2)}×`;
  const between = ([low, high], form) => `${form(low)} to ${form(high)}`;

  const WIDTH = 420;
  const DASHES = { "-": "none", "--": "6 3", ":": "2 3", "-.": "7 3 2 3" };
  let drawn = 0;

  function drawing(title, words, height, ...children) {
    const id = `whatif-chart-${(drawn += 1)}`;
    const named = [svg("title", { id: `${id}-t` }, title), svg("desc", { id: `${id}-d` }, words)];
    const about = { role: "img", "aria-labelledby": `${id}-t ${id}-d`, fill: "currentColor" };
    return svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, ...about }, named, ...children);
  }

  const text = (x, y, words, anchor = "start") => svg("text", { x, y, "text-anchor": anchor }, words);
  const stroke = (d, more) => svg("path", { d, fill: "none", stroke: "currentColor", ...more });
  const grid = (d, strong) => stroke(d, { "stroke-opacity": strong ? 0.7 : 0.15 });

  // Round numbers between two, about `count` of them.
  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 2.5, 5, 10].find((n) => n * unit >= rough);
    const first = Math.ceil(low / step - 1e-9);
    const many = Math.floor(high / step + 1e-9) - first + 1;
    return Array.from({ length: many }, (_, n) => +((first + n) * step).toPrecision(6));
  }

  // Grid and numbers of a horizontal axis that begins at 0.
  function ruler(x, most, bottom, name) {
    const at = ticks(0, most, 4).map((value) => [
      grid(`M${x(value)} 0V${bottom}`),
      text(x(value), bottom + 15, plain(value), "middle"),
    ]);
    return [at, text(WIDTH / 2, bottom + 33, name, "middle")];
  }

  // rows: predictions with a label.
  function bars(rows) {
    const [left, right, step] = [166, 362, 28];
    const most = Math.max(...rows.map((row) => row.tokens_per_s_interval[1]));
    const x = (value) => left + ((right - left) * value) / most;
    const bottom = rows.length * step;
    const marks = rows.map((row, n) => {
      const middle = (n + 0.5) * step;
      const [low, high] = row.tokens_per_s_interval.map(x);
      const [colour, width] = [look(row.wiring).colour, x(row.tokens_per_s) - left];
      return [
        text(left - 8, middle + 4, row.label, "end"),
        svg("rect", { x: left, y: middle - 9, width, height: 18, fill: colour }),
        stroke(`M${low} ${middle}H${high}M${low} ${middle - 4}v8M${high} ${middle - 4}v8`, { "stroke-width": 1.4 }),
        text(high + 6, middle + 4, three(row.tokens_per_s)),
      ];
    });
    const told = (row) => `${row.label} ${three(row.tokens_per_s)}, ${between(row.tokens_per_s_interval, three)}`;
    const words = `Simulated, with 90 % intervals: ${rows.map(told).join("; ")}.`;
    const axis = ruler(x, most, bottom, "simulated tokens/s, with 90 % intervals");
    return drawing("Tokens per second", words, bottom + 40, axis, marks);
  }

  // shown: {wiring, seconds, spans} of one layer each, on one scale.
  function timeline(shown) {
    const [left, right, high, step] = [72, 408, 26, 112];
    const most = 1e3 * Math.max(...shown.map((one) => one.seconds));
    const x = (ms) => left + ((right - left) * ms) / most;
    const marks = shown.map(({ wiring, spans, seconds }, n) => {
      const y = n * step + 32;
      const below = y + high + 4;
      const end = x(1e3 * seconds);
      return [
        text(left - 8, y + 17, look(wiring).label, "end"),
        text(left - 8, below + 17, "link", "end"),
        text(end, y - 7, `${three(1e3 * seconds)} ms`, "end"),
        stroke(`M${end} ${y - 4}V${below + high + 4}`, { "stroke-dasharray": "2 2" }),
        spans.map((span) => {
          const compute = span.lane === "compute";
          const [start, stop] = [x(1e3 * span.start), x(1e3 * span.end)];
          const fill = compute ? look(wiring).colour : tables.communication;
          const opacity = compute && span.index % 2 === 0 ? 0.55 : 1;
          const width = Math.max(stop - start - 0.8, 0.3);
          return svg("rect", { x: start, y: compute ? y : below, width, height: high, fill, opacity });
        }),
      ];
    });
    const bottom = shown.length * step;
    const axis = ruler(x, most, bottom, "simulated ms (light: attention, full: MLP, gold: all-reduce)");
    const words = shown.map((one) => `${look(one.wiring).label} ${three(1e3 * one.seconds)} ms`).join(", ");
    return drawing("One layer of a decode step", `Simulated: ${words}.`, bottom + 40, axis, marks);
  }

  // Speed-up over x on a logarithmic axis with the numbers `labels`; series: {wiring, points: [{x, y, band}]}; the
  // chosen x is marked. The bound, which grows without end, leaves the drawing at the top.
  function lines(title, name, labels, chosen, series) {
    const [left, right, top, bottom] = [44, 408, 8, 228];
    const models = series.filter((one) => one.wiring !== "upper_bound");
    const all = models.flatMap((one) => one.points.flatMap((point) => [point.y, ...(point.band ?? [])]));
    const [low, high] = [Math.min(1, ...all), Math.max(1, ...all) + 0.1];
    const [first, last] = [labels[0], labels[labels.length - 1]];
    const x = (value) => left + (right - left) * (Math.log(value / first) / Math.log(last / first));
    const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low);
    const place = ([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`;
    const path = (points) => (points.length ? `M${points.map(place).join("L")}` : "");
    const axes = [
      ticks(low, high, 5).map((value) => [
        grid(`M${left} ${y(value)}H${right}`, value === 1),
        text(left - 6, y(value) + 4, `${plain(value)}×`, "end"),
      ]),
      labels.map((value) => [
        grid(`M${x(value)} ${top}V${bottom}`),
        text(x(value), bottom + 15, plain(value), "middle"),
      ]),
      text((left + right) / 2, bottom + 33, name, "middle"),
    ];
    const curves = series.map(({ wiring, points }) => {
      const { colour, dashes } = look(wiring);
      const edge = (n) => points.filter((point) => point.band).map((point) => [point.x, point.band[n]]);
      const around = [...edge(0), ...edge(1).reverse()];
      const shade = around.length ? [svg("path", { d: `${path(around)}Z`, fill: colour, opacity: 0.18 })] : [];
      const how = { stroke: colour, "stroke-width": 2, "stroke-dasharray": DASHES[dashes] };
      return [shade, stroke(path(points.filter((point) => point.y <= high).map((point) => [point.x, point.y])), how)];
    });
    const seen = chosen >= first && chosen <= last;
    const mark = seen ? [stroke(`M${x(chosen)} ${top}V${bottom}`, { "stroke-dasharray": "2 2" })] : [];
    const said = series.find((one) => one.wiring === "ladder").points.map((p) => `${times(p.y)} at ${three(p.x)}`);
    const words = `Simulated speed-up of ladder over standard: ${said.join(", ")}.`;
    return drawing(title, words, bottom + 40, axes, curves, mark);
  }

  // Lines and labels of wirings, for several drawings.
  function legend(rows) {
    return html(
      "ul",
      { class: "legend" },
      rows.map(({ wiring, label }) => {
        const { colour, dashes } = look(wiring);
        const how = { stroke: colour, "stroke-width": 2.4, "stroke-dasharray": DASHES[dashes] };
        const line = svg("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, stroke("M0 4H26", how));
        return html("li", null, line, label);
      }),
    );
  }

  function figure(title, caption, panels) {
    const boxes = panels.map((panel) => html("div", { class: "panel" }, panel));
    const said = html("figcaption", null, html("strong", null, `${title}.`), ` ${caption}`);
    return html("figure", { class: "chart" }, html("div", { class: "panels" }, boxes), said);
  }

  return { html, look, plain, three, times, between, bars, timeline, lines, legend, figure };
}
