// Figures and tables of the results. A chart is an SVG file until it is scrolled to; then Vega draws the same
// specification in its place, with hover and in the page's colours. Tables sort by their heads and filter their rows.
(() => {
  const INK = "#010203";
  const loaded = {};
  const load = (address) =>
    (loaded[address] ??= new Promise((done, failed) => {
      const script = Object.assign(document.createElement("script"), { src: address, onload: done, onerror: failed });
      document.head.append(script);
    }));

  async function draw(panel) {
    const folder = panel.querySelector("img").src.replace(/[^/]*$/, "");
    const name = panel.dataset.chart;
    await Promise.all([load(`${folder}vega.js`), load(`${folder}${name}.js`)]);
    const ink = getComputedStyle(panel).color;
    const spec = JSON.parse(JSON.stringify(window.ladderCharts[name]).replaceAll(INK, ink));
    const place = document.createElement("div");
    await window.vegaEmbed(place, spec, { actions: false, renderer: "svg", logLevel: 1 });
    const svg = place.querySelector("svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", spec.description);
    for (const part of svg.children) part.setAttribute("aria-hidden", "true"); // the label has it all
    panel.querySelector(".drawn")?.remove();
    place.className = "drawn";
    panel.append(place);
  }

  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      draw(target).catch(() => {}); // the SVG file stays
    }
  });
  new MutationObserver(() => {
    for (const place of document.querySelectorAll(".panel:has(.drawn)")) draw(place);
  }).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });

  function key(row, column) {
    const text = row.cells[column].dataset.sort;
    return text === undefined || text === "" ? null : isNaN(text) ? text : Number(text);
  }

  function compare(a, b) {
    if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
    return typeof a === "number" ? -1 : 1;
  }

  // Cells without a value stay at the end either way.
  function sort(table, head) {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const keyed = [...table.tBodies[0].rows].map((row) => [key(row, head.cellIndex), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return ascending ? compare(a, b) : compare(b, a);
    });
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  }

  function filter(input) {
    const box = input.closest(".results");
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...box.querySelectorAll("tbody tr")];
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    box.querySelector(".count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  }

  document$.subscribe(() => {
    document.querySelectorAll(".panel[data-chart]").forEach((panel) => seen.observe(panel));
    document.querySelectorAll(".results .filter input").forEach((input) => {
      input.addEventListener("input", () => filter(input));
    });
    for (const table of document.querySelectorAll("table.sortable")) {
      for (const head of table.tHead.rows[table.tHead.rows.length - 1].cells) {
        if (head.querySelector("button")) continue;
        const button = Object.assign(document.createElement("button"), { type: "button" });
        button.append(...head.childNodes);
        button.addEventListener("click", () => sort(table, head));
        head.append(button);
      }
    }
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => (fold.open = true)));
})();
