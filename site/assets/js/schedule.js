// When modules compute and all-reduces are under way: ladder/schedule.py. A test compares the two.
function schedules() {
  // What each wiring does in a model of n layers: c a module computes, l an all-reduce is launched, w the oldest one is
  // waited for. ladder@k-m has all layers from k on.
  const ORDERS = {
    standard: (n) => "clw".repeat(2 * n),
    parallel: (n) => "cclw".repeat(n),
    fal: (n) => `clw${"clwc".repeat(n - 1)}clw`,
    "desync-4x": (n) => `${"cccclw".repeat(n >> 1)}${n % 2 ? "cclw" : ""}`,
    ladder: (n) => `cl${"clw".repeat(2 * n - 1)}w`,
    "ladder@": (n, k) => `${"clw".repeat(2 * k - 1)}cl${"clw".repeat(2 * (n - k))}w`,
    "ladder-2": (n) => `${"cl".repeat(3)}${"wcl".repeat(2 * n - 3)}www`,
    upper_bound: (n) => "c".repeat(2 * n),
  };
  Object.assign(ORDERS, { spd: ORDERS.parallel, "desync-2x": ORDERS.parallel, partial: ORDERS.ladder });

  function order(wiring, layers) {
    const [name, first] = wiring.split("@");
    return first ? ORDERS[`${name}@`](layers, parseInt(first, 10)) : ORDERS[name](layers);
  }

  // Seconds of one pass; `spans` gets the timeline.
  function schedule(letters, modules, reduce, slowdown, inFlight = 1, spans = null) {
    const lanes = new Array(inFlight).fill(0);
    const landed = [];
    let now = 0;
    let module = 0;
    let wait = 0;
    for (const letter of letters) {
      if (letter === "c") {
        const start = now;
        const work = modules[module % modules.length];
        const beside = Math.max(Math.max(...lanes) - now, 0);
        now += work + slowdown * Math.min(work, beside / (1 + slowdown));
        if (spans) spans.push({ lane: "compute", index: module, start, end: now });
        module += 1;
      } else if (letter === "l") {
        const lane = landed.length % inFlight;
        const start = Math.max(now, lanes[lane]);
        lanes[lane] = start + reduce;
        if (spans) spans.push({ lane: "communication", index: landed.length, start, end: lanes[lane] });
        landed.push(lanes[lane]);
      } else {
        now = Math.max(now, landed[wait]);
        wait += 1;
      }
    }
    return now;
  }

  return { order, schedule };
}
