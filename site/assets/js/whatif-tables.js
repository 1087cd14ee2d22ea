// The tables and curves of the what-if page: each wiring, over batch and latency, and the paper's Table 1.
function whatifTables(tables, { predict, linkNumbers }) {
  const { html, plain, three, times, between, lines, legend, figure } = charts(tables);
  const BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256];
  const LATENCIES = Array.from({ length: 25 }, (_, n) => 10 ** (n / 8)); // µs, 1 to 1000
  const share = (value) => (Number.isNaN(value) ? "–" : `${Math.round(100 * value)} %`.replace("-", "−"));

  function framed(id, caption, heads, body) {
    const head = heads.map((name, n) => html("th", { scope: "col", class: n ? "number" : "" }, name));
    const about = { class: "scroll", role: "region", tabindex: 0, "aria-labelledby": id };
    const parts = [html("thead", null, html("tr", null, head)), html("tbody", null, body)];
    return html(
      "div",
      { class: "results" },
      html("p", { id, class: "caption" }, caption),
      html("div", about, html("table", { class: "all" }, parts)),
    );
  }

  const cell = (value, range = "") =>
    html("td", { class: "number" }, value, range && html("span", { class: "interval" }, range));
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
      const name = html(
        "tr",
        null,
        rowHead(html("a", { href: `#${new URLSearchParams(at)}` }, at.model)),
        cell(at.tp),
        cell(at.link.includes("p2p-off") ? "off" : "on"),
      );
      name.append(
        cell(times(published), reason),
        cell(times(ladder.speedup), between(ladder.speedup_interval, two)),
        cell(log ? times(log) : "–"),
        known,
      );
      return name;
    });
    const heads = ["Model", "TP", "P2P", "Published", "Predicted", "Authors' logs", "Measured here"];
    const caption =
      "Speed-up of ladder over standard at batch 4, the batch that the authors' logs agree with. " +
      "No model of this table was run here.";
    return [html("h2", { id: "table-1" }, "The paper's Table 1"), framed("whatif-table1", caption, heads, body)];
  }

  // Speed-up of `rows` at each of `values` of a setting, where the model fits; ladder with its interval.
  function study(at, rows, key, values) {
    const points = values.map((x) => {
      const asked = { ...at, [key]: x };
      const [ladder] = predict(asked, ["ladder"]);
      return (
        ladder.fits && {
          x,
          ladder,
          found: predict(
            asked,
            rows.map((row) => row.wiring),
            false,
          ),
        }
      );
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

  return { table, paper, studies, share };
}
