// The simulator's equations: ladder/cost.py and ladder/simulate/{seconds,calibration,model}.py, part by part, for one
// point at a time, in seconds and bytes; schedule.py is in schedule.js. `tables` is what `ladder simulate page` writes.
// Nothing here knows the page; a test compares the results with Python's.
function simulator(tables) {
  const { sizes, devices, links, aliases, implementations, calibration, assumed, constants } = tables;
  const TYPED = /^(-?[\d.]+(?:e-?\d+)?)us\+(-?[\d.]+(?:e\d+)?)GB\/s(?:x(\d+))?$/;

  const { order, schedule } = schedules();

  // ---- cost.py

  // Of `length` positions, those that a layer with this window attends to.
  const spanned = (length, window) => (window ? Math.min(length, window) : length);

  // Widths of the fullest rank, the weights of one layer, and each layer's [window, whether it has experts].
  function rank(size, tp, how) {
    const share = (count) => Math.ceil(count / tp);
    const { hidden, head } = size;
    const [queries, keys] = [share(size.heads) * head, share(size.kv_heads) * head];
    const [intermediate, expert, shared] = ["intermediate", "expert_intermediate", "shared_intermediate"].map((key) =>
      share(size[key]),
    );
    const matrices = size.gated ? 3 : 2;
    const qkNorm = { "": 0, head: 2 * head, full: queries + keys }[size.qk_norm];
    return {
      queries,
      keys,
      matrices,
      intermediate,
      activeWidth: size.active * expert + shared,
      vocab: how.sharded_head ? share(size.vocab) : size.vocab,
      attention:
        2 * hidden * (queries + keys) + size.qkv_bias * (queries + 2 * keys) + size.output_bias * hidden + qkNorm,
      mlp: matrices * hidden * intermediate + size.mlp_bias * ((matrices - 1) * intermediate + hidden),
      expert: matrices * hidden * expert,
      besideExperts: hidden * (size.router + matrices * shared),
      kinds: Array.from({ length: size.layers }, (_, n) => [
        size.windows.length ? size.windows[n % size.windows.length] : 0,
        size.routed.length ? size.routed[n % size.routed.length] : size.experts > 0,
      ]),
    };
  }

  // Bytes that one rank needs at most.
  function memory(size, how, at) {
    const { hidden, head } = size;
    const mine = rank(size, at.tp, how);
    const tokens = at.batch * at.prompt;
    let numbers =
      mine.vocab * hidden * (size.tied ? 1 : 2) + size.norm_weights * hidden * (size.layer_norms * size.layers + 1);
    let width = 0;
    for (const [window, experts] of mine.kinds) {
      numbers += mine.attention + (experts ? size.experts * mine.expert + mine.besideExperts : mine.mlp);
      numbers += 2 * mine.keys * at.batch * spanned(at.prompt + at.new_tokens, window);
      width = Math.max(width, experts ? mine.activeWidth : mine.intermediate);
    }
    const scores = how.score_passes ? (2 * at.prompt * mine.queries) / head : 0;
    const layers = tokens * (4 * hidden + Math.max(6 * mine.queries + scores, (2 * mine.matrices - 1) * width));
    const rows = how.all_logits ? tokens : at.batch;
    const logits = how.logit_copies * rows * mine.vocab + 2 * tokens * hidden;
    return how.dtype_bytes * (numbers + Math.max(layers, logits)) + constants.reserved;
  }

  // ---- simulate/seconds.py

  // Seconds of the modules of all layers in turn, and of what is there once a pass.
  function work(size, how, device, prm, at, prefill) {
    const { batch, prompt } = at;
    const bytes = how.dtype_bytes;
    const mine = rank(size, at.tp, how);
    const tokens = prefill ? batch * prompt : batch;
    const peak = prm.matmul * device.flops;
    const many = prm.stream_many * device.bandwidth;
    const weightsRate = (tokens === 1 ? prm.stream_one : prm.stream_many) * device.bandwidth;
    const kernel = (prefill ? prm.prefill_kernel_us : prm.kernel_us) * 1e-6;
    const product = (weights, rows, kernels) =>
      Math.max((weights * bytes) / weightsRate, (2 * rows * weights) / peak) + kernels * kernel;

    const attend = (window) => {
      const attention = product(mine.attention, tokens, how.attention_kernels);
      if (prefill) {
        const scores = (how.score_passes * batch * prompt ** 2 * (mine.queries / size.head) * bytes) / many;
        const seen = spanned(prompt, window);
        const pairs = how.score_passes ? seen : seen - seen ** 2 / (2 * prompt);
        const multiplied = (4 * tokens * pairs * mine.queries) / peak;
        return attention + scores + multiplied + (tokens * bytes * (4 * size.hidden + 6 * mine.queries)) / many;
      }
      const length = spanned(prompt + at.new_tokens / (how.whole_cache ? 1 : 2), window);
      const read = how.expands_kv
        ? (2 * batch * length * mine.queries * bytes) / (prm.kv_stream * device.bandwidth)
        : (2 * batch * length * mine.keys * bytes) / many;
      return attention + Math.max(read, (4 * batch * length * mine.queries) / peak);
    };
    const mlp = (experts) => {
      let seconds = 0;
      if (experts) {
        const read = size.experts * (1 - (1 - size.active / size.experts) ** tokens) * mine.expert * bytes;
        seconds = Math.max(read / weightsRate, (2 * tokens * size.active * mine.expert) / peak);
        seconds += product(mine.besideExperts, tokens, how.mlp_kernels + constants.routing);
      } else seconds = product(mine.mlp, tokens, how.mlp_kernels);
      const wide = (2 * mine.matrices - 1) * (experts ? mine.activeWidth : mine.intermediate);
      return prefill ? seconds + (tokens * bytes * (4 * size.hidden + wide)) / many : seconds;
    };
    const modules = mine.kinds.flatMap(([window, experts]) => [attend(window), mlp(experts)]);
    const positions = how.all_logits ? tokens : batch;
    let rest = product(size.hidden * mine.vocab, positions, how.head_kernels);
    rest += (how.logit_copies * positions * mine.vocab * bytes) / many;
    return { modules, rest: prefill ? rest : rest + prm.step_scale * how.step_us * 1e-6 };
  }

  function slowdown(prm, nbytes) {
    const share = Math.log(nbytes / constants.small) / Math.log(constants.large / constants.small);
    const { interference_small: small, interference_large: large } = prm;
    return small + (large - small) * Math.min(Math.max(share, 0), 1);
  }

  // ---- simulate/calibration.py

  const uncertain = [...calibration.fitted, ...Object.keys(assumed)];
  const covariance = uncertain.map((_, i) =>
    uncertain.map((name, j) => calibration.covariance[i]?.[j] ?? (i === j ? assumed[name] ** 2 : 0)),
  );

  const latencies = Object.keys(calibration.parameters).filter((key) => key.includes(".latency_us."));
  const calibrated = [...new Set(latencies.map((key) => key.split(".")[0]))];

  // Numbers of ranks for which a calibrated link has a latency.
  function degrees(name) {
    const start = `${name}.latency_us.`;
    const own = latencies.filter((key) => key.startsWith(start));
    return own.map((key) => Number(key.slice(start.length))).sort((a, b) => a - b);
  }

  // A link by name or typed; undefined for anything else. `latency`: in its stead, for a study of latencies.
  function findLink(name, latency) {
    const typed = TYPED.exec(name);
    if (calibrated.includes(name)) return { name, calibrated: true, fixed: latency, in_flight: 1 };
    if (typed) {
      const [us, bandwidth, inFlight] = [Number(typed[1]), Number(typed[2]) * 1e9, Number(typed[3] ?? 1)];
      if (!(us >= 0 && bandwidth > 0 && inFlight >= 1)) return undefined;
      return { name, fixed: latency ?? us, bus_bandwidth: bandwidth, in_flight: inFlight };
    }
    const row = links[aliases[name] ?? name];
    return row && { ...row, assumed: latency === undefined, fixed: latency };
  }

  // Microseconds between and beyond the known numbers of ranks, linear in their logarithm.
  function latencyUs(known, ranks) {
    const at = Object.keys(known)
      .map(Number)
      .sort((a, b) => a - b);
    const last = at[at.length - 1];
    if (ranks <= at[0]) return known[at[0]];
    if (ranks > last) {
      const [level, us] = at.length > 1 ? [Math.log2(at[at.length - 2]), known[at[at.length - 2]]] : [0, 0];
      const slope = Math.max((known[last] - us) / (Math.log2(last) - level), 0);
      return known[last] + slope * (Math.log2(ranks) - Math.log2(last));
    }
    const high = at.find((n) => n >= ranks);
    const low = at[at.indexOf(high) - 1];
    const share = (Math.log2(ranks) - Math.log2(low)) / (Math.log2(high) - Math.log2(low));
    return known[low] + share * (known[high] - known[low]);
  }

  // [seconds, seconds per byte] of each protocol; the faster counts.
  function protocols(link, ranks, prm) {
    if (ranks === 1) return [[0, 0]];
    const factor = (2 * (ranks - 1)) / ranks;
    if (!link.calibrated) {
      const scale = link.assumed ? prm.link_scale : 1;
      const us = link.fixed ?? latencyUs(link.latency_us, ranks);
      return [[scale * us * 1e-6, (scale * factor) / link.bus_bandwidth]];
    }
    const of = (key) => prm[`${link.name}.${key}`];
    const known = Object.fromEntries(degrees(link.name).map((n) => [n, of(`latency_us.${n}`)]));
    const latency = (link.fixed ?? latencyUs(known, ranks)) * 1e-6;
    const bandwidth = of(`bandwidth.${ranks}`) ?? of("bandwidth");
    return [
      [latency, factor / of("small_bandwidth")],
      [of("switch") * latency, factor / bandwidth],
    ];
  }

  // ---- simulate/model.py

  const parameters = { ...calibration.parameters, step_scale: 1, device_scale: 1, link_scale: 1 };
  const raised = uncertain.map((name) => ({ ...parameters, [name]: parameters[name] * Math.exp(constants.step) }));

  function scaledDevice(point, prm) {
    const { bandwidth, flops } = devices[point.hardware];
    const scale = point.hardware === calibration.hardware ? 1 : prm.device_scale;
    return { bandwidth: bandwidth * scale, flops: flops * scale };
  }

  // Seconds of the modules, all that is once a pass, an all-reduce, and the slowdown beside it.
  function parts(point, prm, prefill) {
    const [size, how] = [sizes[point.model], implementations[point.implementation]];
    const done = work(size, how, scaledDevice(point, prm), prm, point, prefill);
    const nbytes = point.batch * (prefill ? point.prompt : 1) * size.hidden * how.dtype_bytes;
    const link = findLink(point.link, point.latency_us);
    const costs = protocols(link, point.tp, prm).map(([start, each]) => start + nbytes * each);
    return { ...done, reduce: Math.min(...costs), slowdown: slowdown(prm, nbytes), inFlight: link.in_flight };
  }

  // By wiring: [prefill, one decode step, all decode steps] in seconds.
  function seconds(point, prm, wirings) {
    const [size, how] = [sizes[point.model], implementations[point.implementation]];
    const passes = [true, false].map((prefill) => parts(point, prm, prefill));
    const same = new Map(); // wirings of one order take one time
    return wirings.map((wiring) => {
      const letters = order(wiring, size.layers);
      if (!same.has(letters)) {
        const [prefill, step] = passes.map(
          (p) => schedule(letters, p.modules, p.reduce, p.slowdown, p.inFlight) + p.rest,
        );
        same.set(letters, [prefill, step, (point.new_tokens - how.steps_less) * step]);
      }
      return same.get(letters);
    });
  }

  // A prediction for each wiring, with 90 % intervals [low, high] of tokens/s and speed-up where they are asked for.
  // `point`: names of model, hardware, link and implementation; tp, batch, prompt, new_tokens; latency_us, if it is to
  // replace the link's.
  function predict(point, wirings, intervals = true) {
    const asked = ["standard", "upper_bound", ...wirings];
    const all = [seconds(point, parameters, asked)];
    if (intervals) {
      // What belongs to another link changes nothing here.
      const matters = (name) => !name.includes(".") || name.startsWith(`${point.link}.`);
      uncertain.forEach((name, n) => all.push(matters(name) ? seconds(point, raised[n], asked) : all[0]));
    }
    const requests = all.map((row) => row.map(([prefill, , decode]) => prefill + decode));
    const [standard, silent] = requests[0];
    const made = point.batch * point.new_tokens;
    const need = memory(sizes[point.model], implementations[point.implementation], point);
    const room = devices[point.hardware].memory_bytes;
    return wirings.map((wiring, n) => {
      const [prefill, step, decode] = all[0][n + 2];
      const own = requests[0][n + 2];
      const hidden = standard - silent > 1e-9 ? (standard - own) / (standard - silent) : NaN;
      const found = { wiring, prefill, step, decode, tokens_per_s: made / own, speedup: standard / own, hidden };
      Object.assign(found, { exposed: own - silent, memory: need, fits: need + constants.context <= room, room });
      if (intervals) {
        found.tokens_per_s_interval = interval(
          requests.map((row) => Math.log(made / row[n + 2])),
          "tokens_per_s",
        );
        found.speedup_interval = interval(
          requests.map((row) => Math.log(row[0] / row[n + 2])),
          "speedup",
        );
      }
      return found;
    });
  }

  // `logs`: of the prediction, and with each uncertain parameter raised. Standard over itself has no interval.
  function interval(logs, what) {
    const slopes = logs.slice(1).map((value) => (value - logs[0]) / constants.step);
    let variance = calibration.residual[what] ** 2;
    slopes.forEach((a, i) => slopes.forEach((b, j) => (variance += a * covariance[i][j] * b)));
    if (what === "speedup" && logs.every((value) => value === 0)) variance = 0;
    const half = calibration.quantile * Math.sqrt(variance);
    return [Math.exp(logs[0] - half), Math.exp(logs[0] + half)];
  }

  // A layer in the middle of a decode step: its seconds, and the spans in it, counted from its start.
  function layer(point, wiring) {
    const { layers } = sizes[point.model];
    const p = parts(point, parameters, false);
    const spans = [];
    schedule(order(wiring, layers), p.modules, p.reduce, p.slowdown, p.inFlight, spans);
    const first = 2 * Math.floor(layers / 2);
    const [from, to] = [first, first + 2].map((n) => spans.find((s) => s.lane === "compute" && s.index === n).start);
    const inside = spans.filter((s) => s.end > from && s.start < to);
    const cut = (time) => Math.min(Math.max(time, from), to) - from;
    return { seconds: to - from, spans: inside.map((s) => ({ ...s, start: cut(s.start), end: cut(s.end) })) };
  }

  // Of the point's link at its number of ranks: microseconds of an all-reduce of few bytes, bytes/s of a large one.
  function linkNumbers(point) {
    const ranks = Math.max(point.tp, 2);
    const costs = protocols(findLink(point.link), ranks, parameters);
    const factor = (2 * (ranks - 1)) / ranks;
    return { latency_us: costs[0][0] * 1e6, bus_bandwidth: factor / costs[costs.length - 1][1] };
  }

  return { predict, layer, order, findLink, linkNumbers, calibrated, degrees };
}
