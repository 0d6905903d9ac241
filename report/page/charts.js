"use strict";
// The figures: each gives a Vega-Lite specification, what it draws as rows, and a note.
const INK = "currentColor";
const CONFIG = {
  background: null,
  font: "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
  view: { stroke: null },
  axis: { labelColor: INK, titleColor: INK, domainColor: INK, tickColor: INK, gridColor: "var(--line)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: 600, labelLimit: 220, labelOverlap: "greedy" },
  legend: { labelColor: INK, titleColor: INK, labelFontSize: 12, orient: "bottom", symbolOpacity: 1, labelLimit: 200 },
  text: { color: INK },
};
const FAINT = 0.12;
const DARK = window.matchMedia("screen and (prefers-color-scheme: dark)");
const soft = (value) => (DARK.matches ? Math.min(1, value + 0.3) : value); // on a dark ground what is faint must be lighter
const opacity = (value) => ({ condition: { test: "picked === null || datum.arm === picked", value }, value: FAINT });
const quantitative = (field, title, more = {}) => ({ field, type: "quantitative", title, ...more });
const format = (places) => `,.${places}f`;
/** An axis within a title: "memory", "training time". */
function inWords(key) {
  const [name] = axisOf(key).label.split(",");
  return /^[A-Z][a-z]/.test(name) ? name[0].toLowerCase() + name.slice(1) : name;
}
/** What a note says of measurements by which arms are not compared. */
const notCompared = (...keys) => keys.map(axisOf).filter((axis) => axis.uncompared).map((axis) => ` ${axis.label.split(",")[0]}: as measured, arms are not compared by it (${axis.uncompared}).`).join("");
const axisOf = (key) => pair().axes.find((axis) => axis.key === key);
const metricAxis = () => pair().metric.axis;

/** Arms with a value of every key, flat: key, key_low, key_high beside the arm's own fields. */
function points(arms, keys) {
  return arms.filter((arm) => keys.every((key) => arm.values[key])).map((arm) => {
    const flat = { arm: arm.arm, label: arm.label, name: methodName(arm.method), rank: arm.rank, n: arm.n };
    for (const key of keys) {
      const { mean, low, high, text } = arm.values[key];
      Object.assign(flat, { [key]: mean, [`${key}_low`]: low, [`${key}_high`]: high, [`${key}_text`]: text });
    }
    return flat;
  });
}

/** What the intervals of these rows are, if there are any. */
const WITH = "means, with 95 % intervals";
function intervals(rows, ...keys) {
  const has = (test) => keys.some((key) => test(key) && rows.some((row) => row[`${key}_low`] !== null));
  const of = [has((key) => key.includes("metric")) && "of metrics over other seeds and examples", has((key) => key === "test_loss") && "of the loss over other seeds", has((key) => key === "forgetting") && "of forgetting over other seeds and texts", has((key) => !key.includes("metric") && !["test_loss", "forgetting"].includes(key)) && "of costs over other seeds, of time and energy over other jobs too"].filter(Boolean);
  return of.length ? `${WITH} (${of.join("; ")})` : "means";
}

/** Seeds of these arms with a value of every key. */
function seeds(arms, keys) {
  const known = new Map(arms.map((arm) => [arm.arm, arm]));
  return pair().runs.filter((run) => known.has(run.arm) && keys.every((key) => run.values[key] !== undefined)).map((run) => ({
    arm: run.arm, label: known.get(run.arm).label, name: methodName(known.get(run.arm).method), rank: known.get(run.arm).rank, seed: run.seed, ...run.values,
  }));
}

/** The points that no other beats on both axes, in order of x, and the staircase through them. */
function pareto(rows, x, y) {
  const sign = (key) => (axisOf(key).better === "high" ? 1 : -1);
  const beats = (one, other) => {
    const dx = sign(x) * (one[x] - other[x]);
    const dy = sign(y) * (one[y] - other[y]);
    return dx >= 0 && dy >= 0 && (dx > 0 || dy > 0);
  };
  const front = rows.filter((row) => !rows.some((other) => beats(other, row))).sort((a, b) => a[x] - b[x]);
  const line = [];
  front.forEach((row, index) => {
    if (index) {
      const last = front[index - 1];
      line.push(sign(x) < 0 ? { [x]: row[x], [y]: last[y] } : { [x]: last[x], [y]: row[y] });
    }
    line.push({ [x]: row[x], [y]: row[y] });
  });
  return { front, line: line.map((point, order) => ({ ...point, order })) };
}

const NAMES = { aboveRight: ["left", 9, -10], belowRight: ["left", 9, 10], aboveLeft: ["right", -9, -10], belowLeft: ["right", -9, 10] }; // align; px from the point to the name's middle
const NAME_SIZE = 12; // px
const FEW = 6; // so many arms are all named, where there is room

/** Where the name of each of these rows stands in a figure that is drawn, and whether it is shown while no arm is picked:
 * within the plot, on no other arm and on no name before it; the arm that is recommended or kept first, then the front's,
 * of a few arms the others' too. */
function nameThem(view, rows, front, x, y) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `${NAME_SIZE}px ${CONFIG.font}`;
  const at = (row) => ({ left: view.scale("x")(row[x]), top: view.scale("y")(row[y]) });
  const marks = rows.map((row) => ({ row, half: Math.sqrt(row.size) / 2 + 1, ...at(row) }));
  const boxes = (row) => Object.entries(NAMES).map(([place, [align, dx, dy]]) => {
    const wide = context.measureText(row.label).width;
    const left = at(row).left + dx - (align === "right" ? wide : 0);
    return { place, left, right: left + wide, top: at(row).top + dy - 8, bottom: at(row).top + dy + 8 };
  });
  const within = (box) => box.left >= 0 && box.right <= view.width() && box.top >= -8 && box.bottom <= view.height();
  const meet = (one, other) => one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
  const around = ({ left, top, half }) => ({ left: left - half, right: left + half, top: top - half, bottom: top + half });
  const names = {};
  const kept = [];
  const taken = (row) => pair().taken.includes(row.arm);
  const named = [...rows.filter(taken), ...front.filter((row) => !taken(row))];
  const wanted = rows.length > FEW ? named : [...named, ...rows.filter((row) => !named.includes(row))];
  for (const row of [...wanted, ...rows.filter((one) => !wanted.includes(one))]) {
    const all = boxes(row);
    const free = all.find((box) => within(box) && marks.every((mark) => mark.row === row || !meet(box, around(mark))) && !kept.some((name) => meet(box, name)));
    const box = free ?? all.find(within) ?? all[0];
    const shown = wanted.includes(row) && (Boolean(free) || taken(row));
    if (shown) kept.push(box);
    names[row.arm] = { place: box.place, shown };
  }
  return names;
}

const ranksOf = (rows) => [...new Set(rows.map((row) => row.rank).filter((rank) => rank !== null))].sort((a, b) => a - b);

function size(rows) {
  const ranks = ranksOf(rows);
  return (rank) => (rank === null || ranks.length < 2 ? 110 : (7 + (8 * ranks.indexOf(rank)) / Math.max(1, ranks.length - 1)) ** 2);
}

/** How wide the lines of these rows are, so that ranks are told apart: gives each row a width; what the note says of it. */
function widen(rows) {
  const ranks = ranksOf(rows);
  for (const row of rows) row.width = row.rank === null || ranks.length < 2 ? 2 : 1 + (2.5 * ranks.indexOf(row.rank)) / (ranks.length - 1);
  return ranks.length < 2 ? "" : " Wider: of a higher rank.";
}
const WIDTH = { field: "width", type: "quantitative", scale: null, legend: null };

function tradeoff(arms, width) {
  const [x, y] = [byId("axis-x").value, byId("axis-y").value];
  if (!x || !y) return { empty: "nothing was measured" };
  const rows = points(arms, [x, y]);
  if (!rows.length) return { empty: `no arm has both ${axisOf(x).label} and ${axisOf(y).label}` };
  const area = size(rows);
  const open = notCompared(x, y);
  const { front, line } = open ? { front: [], line: [] } : pareto(rows, x, y);
  const height = Math.min(480, Math.max(300, width * 0.5));
  rows.forEach((row) => Object.assign(row, { size: area(row.rank), front: front.includes(row) }));
  const scales = methodScales(arms);
  const way = (key, padding, tickCount) =>
    key === "trainable_parameters"
      ? quantitative(key, axisOf(key).label, { scale: { type: "log", padding }, axis: { format: "~s", tickCount } })
      : quantitative(key, axisOf(key).label, { scale: { zero: false, padding }, axis: { tickCount } });
  const at = { x: way(x, 24, Math.max(3, Math.floor(width / 90))), y: way(y, 16, 10) };
  const tip = [{ field: "label", title: "Arm" }, { field: "n", title: "Seeds" }, { field: `${x}_text`, title: axisOf(x).label }, { field: `${y}_text`, title: axisOf(y).label }];
  const rule = (way, key) => ({
    data: { values: rows.filter((row) => row[`${key}_low`] !== null && row[`${key}_high`] > row[`${key}_low`]) },
    mark: { type: "rule", aria: false },
    encoding: { ...at, [way]: { ...at[way], field: `${key}_low` }, [`${way}2`]: { field: `${key}_high` }, color: scales.colour, opacity: opacity(soft(0.55)) },
  });
  const name = ([place, [align, dx, dy]]) => {
    const shown = `names[datum.arm] && names[datum.arm].place === "${place}" && (picked === null ? names[datum.arm].shown : datum.arm === picked)`;
    return { data: { values: rows }, mark: { type: "text", aria: false, align, dx, dy, fontSize: NAME_SIZE }, encoding: { ...at, text: { condition: { test: shown, field: "label" }, value: "" } } };
  };
  return {
    spec: {
      height,
      description: `${axisOf(y).label} against ${axisOf(x).label}: ${rows.map((row) => `${row.label} ${row[`${y}_text`]}, ${row[`${x}_text`]}`).join("; ")}`,
      layer: [
        { data: { values: line }, mark: { type: "line", aria: false, color: INK, strokeDash: [4, 3], opacity: 0.6 }, encoding: { x: at.x, y: at.y, order: { field: "order" } } },
        { data: { values: seeds(arms, [x, y]) }, mark: { type: "circle", aria: false, size: 18 }, encoding: { ...at, color: scales.colour, opacity: opacity(soft(0.45)), tooltip: [{ field: "label", title: "Arm" }, { field: "seed", title: "Seed" }, ...[x, y].map((key) => ({ field: key, title: axisOf(key).label, format: format(axisOf(key).places) }))] } },
        rule("x", x),
        rule("y", y),
        { data: { values: rows }, mark: { type: "point", filled: true, stroke: "var(--ground)", strokeWidth: 1 }, encoding: { ...at, color: scales.colour, shape: scales.shape, size: { field: "size", type: "quantitative", scale: null, legend: null }, opacity: opacity(1), tooltip: tip } },
        ...Object.entries(NAMES).map(name),
      ],
    },
    drawn: (view) => view.signal("names", nameThem(view, rows, open ? rows : front, x, y)).runAsync(),
    title: `${inWords(y)[0].toUpperCase()}${inWords(y).slice(1)} against ${inWords(x)}`,
    columns: ["arm", x, `${x}_low`, `${x}_high`, y, `${y}_low`, `${y}_high`, ...(open ? [] : ["front"])],
    rows,
    note: `Large: ${intervals(rows, x, y)}. Small: seeds.${ranksOf(rows).length > 1 ? " Size: rank." : ""}${open || (front.length > 1 || rows.length < 2 ? " Dashed: the arms that no other of those shown beats on both axes, named where there is room." : ` No other arm shown is as good as ${front[0].label} on both axes.`)} The axes need not start at 0.${arms.length > rows.length ? ` Not shown, for lack of a value: ${arms.filter((arm) => !rows.some((row) => row.arm === arm.arm)).map((arm) => arm.label).join(", ")}.` : ""}`,
  };
}

function byRank(key) {
  return (arms) => {
    const axis = axisOf(key);
    const unasked = new Set(pair().arms.map((arm) => arm.rank).filter((rank) => rank !== null)).size < 2;
    if (unasked) return { empty: "no method has two ranks", unasked };
    if (!axis) return { empty: (key === "metric_value" && pair().no_metric) || "nothing was measured" };
    const all = points(arms, [key]);
    const rows = all.filter((row) => row.rank !== null);
    if (new Set(rows.map((row) => row.rank)).size < 2) return { empty: "the arms that are shown have fewer than two ranks" };
    const flat = all.filter((row) => row.rank === null);
    const metric = key.includes("metric");
    const scales = methodScales(arms);
    const domain = [...new Set(rows.map((row) => row.rank))].sort((a, b) => a - b);
    const x = quantitative("at", "Rank (log scale)", { scale: { type: "log", base: 2, nice: false, padding: 14 }, axis: { values: domain, format: "d", grid: false } });
    const y = quantitative(key, axis.label, { scale: { zero: !metric } });
    const tip = [{ field: "label", title: "Arm" }, { field: `${key}_text`, title: axis.label }];
    const families = { field: "family", type: "nominal" };
    const ranks = domain.map(Math.log2);
    const gap = Math.min(...ranks.slice(1).map((rank, index) => rank - ranks[index]));
    const family = (row) => row.arm.replace(/-?r\d+$/, "");
    const every = [...new Set(rows.map(family))];
    const step = Math.min(0.1 * gap, (0.5 * gap) / every.length, 0.025 * (ranks.at(-1) - ranks[0]));
    const shift = (row) => (every.indexOf(family(row)) - (every.length - 1) / 2) * step; // beside each other, not on each other
    const beside = (row) => ({ ...row, family: family(row), at: row.rank * 2 ** shift(row) });
    const placed = rows.map(beside);
    const open = notCompared(key);
    return {
      spec: {
        height: 240,
        description: `${axis.label} by rank`,
        layer: [
          { data: { values: flat }, mark: { type: "rule", strokeDash: [5, 3] }, encoding: { y, color: scales.colour, opacity: opacity(0.9), tooltip: tip } },
          { data: { values: open ? [] : placed }, mark: { type: "line", aria: false, opacity: 0.55 }, encoding: { x, y, color: scales.colour, detail: families } },
          { data: { values: seeds(arms, [key]).filter((row) => row.rank !== null).map(beside) }, mark: { type: "circle", aria: false, size: 14 }, encoding: { x, y, color: scales.colour, opacity: opacity(soft(0.4)) } },
          { data: { values: placed.filter((row) => row[`${key}_low`] !== null) }, mark: { type: "rule", aria: false }, encoding: { x, y: { ...y, field: `${key}_low` }, y2: { field: `${key}_high` }, color: scales.colour, opacity: opacity(soft(0.5)) } },
          { data: { values: placed }, mark: { type: "point", filled: true, size: 70 }, encoding: { x, y, color: scales.colour, shape: scales.shape, opacity: opacity(1), tooltip: tip } },
        ],
      },
      title: `${metric ? pair().metric.label : axis.label.split(",")[0]} by rank`,
      columns: ["arm", "rank", key, `${key}_low`, `${key}_high`],
      rows: all,
      note: `Large: ${intervals(all, key)}. Small: seeds.${flat.length ? ` Dashed: ${flat.map((row) => row.label).join(", ")}, without a rank.` : ""}${every.length > 1 ? " Methods stand beside each other at a rank." : ""}${open}${metric ? " The axis does not start at 0." : ""}`,
    };
  };
}

function curves(arms) {
  const known = new Map(arms.map((arm) => [arm.arm, arm]));
  const rows = pair().curves.filter((row) => known.has(row.arm)).map((row) => ({ ...row, label: known.get(row.arm).label, rank: known.get(row.arm).rank, name: methodName(known.get(row.arm).method) }));
  if (!rows.length) return { empty: pair().no_metric || "no run has an evaluation" };
  const steps = new Map();
  for (const row of rows) steps.set(`${row.arm} ${row.seed}`, (steps.get(`${row.arm} ${row.seed}`) ?? 0) + 1);
  if (Math.max(...steps.values()) < 2) return { empty: "every run was evaluated once, which makes no curve; the table of arms has what it gave" };
  const scales = methodScales(arms);
  const split = rows[0].split;
  const wider = widen(rows);
  const x = quantitative("step", "Optimizer step", { scale: { nice: false, padding: 10 }, axis: { tickCount: 6 } });
  const y = quantitative("value", metricAxis().replace("test split", `${split} split`), { scale: { zero: false } });
  return {
    spec: {
      height: 280,
      data: { values: rows },
      description: `${pair().metric.label} on the ${split} split at every evaluation`,
      layer: [
        { mark: { type: "line", aria: false, strokeWidth: 0.8 }, encoding: { x, y, color: scales.colour, detail: [{ field: "arm" }, { field: "seed" }], opacity: opacity(soft(0.3)) } },
        { mark: { type: "line", point: { size: 25 } }, encoding: { x, y: { ...y, aggregate: "mean" }, color: scales.colour, strokeWidth: WIDTH, detail: { field: "arm" }, opacity: opacity(0.95), tooltip: [{ field: "label", title: "Arm" }, { field: "step", title: "Step" }, { field: "value", aggregate: "mean", format: format(pair().metric.places), title: "Mean" }] } },
      ],
    },
    columns: ["arm", "seed", "split", "epoch", "step", "train_s", "value"],
    rows,
    note: `Faint: seeds. Strong: their mean.${wider} The axis does not start at 0; the result of a run is its last step's.`,
  };
}

function rates(arms) {
  // A trial of a rank that no arm has (a method may be tuned at any) belongs to all arms of its method.
  const [shown, known] = [new Set(arms.map((arm) => arm.arm)), new Set(pair().arms.map((arm) => arm.arm))];
  const methods = new Set(arms.map((arm) => arm.method));
  const rows = pair().trials.filter((trial) => (known.has(trial.arm) ? shown.has(trial.arm) : methods.has(trial.method))).map((row) => ({ ...row, name: methodName(row.method) }));
  if (!rows.length) return { unasked: !pair().trials.length, empty: pair().trials.length ? "no arm that is shown was tuned itself" : "no learning rate was tuned" };
  const scales = methodScales(rows);
  const x = quantitative("rate", "Learning rate (log scale)", { scale: { type: "log", nice: false, padding: 24 }, axis: { format: "~g", values: [...new Set(rows.map((row) => row.rate))].sort((a, b) => a - b), labelFlush: false } });
  const drawn = rows.filter((row) => row.value !== null);
  const lost = rows.filter((row) => row.value === null).map((row) => `${row.label} at ${row.rate} (${row.status})`).join(", ");
  if (!drawn.length) return { empty: `no trial has a metric: ${lost}` };
  const values = drawn.filter((row) => !row.ruined).map((row) => row.value);
  const room = 0.06 * (Math.max(...values) - Math.min(...values)) || 0.01 * Math.abs(values[0]) || 0.01;
  const domain = [Math.min(...values) - room, Math.max(...values) + room];
  const down = pair().metric.better === "high";
  const off = drawn.filter((row) => (down ? row.value < domain[0] : row.value > domain[1]));
  const y = quantitative("value", metricAxis().replace("test split", "dev split"), { scale: { domain, nice: false } }); // room for a ring around the outermost
  const edge = { ...y, field: undefined, datum: domain[down ? 0 : 1] };
  const wider = widen(rows);
  const tip = [{ field: "label", title: "Arm" }, { field: "rate", title: "Rate" }, { field: "value", title: pair().metric.label, format: format(pair().metric.places) }];
  return {
    spec: {
      height: 280,
      data: { values: drawn },
      description: `${pair().metric.label} on the dev split by learning rate`,
      layer: [
        { mark: { type: "line", aria: false, clip: true }, encoding: { x, y, color: scales.colour, strokeWidth: WIDTH, detail: { field: "arm" }, strokeDash: { condition: { test: "datum.check", value: [4, 3] }, value: [1, 0] }, opacity: opacity(0.8) } },
        { transform: [{ filter: down ? `datum.value >= ${domain[0]}` : `datum.value <= ${domain[1]}` }], mark: { type: "point", filled: true, size: 55 }, encoding: { x, y, color: scales.colour, shape: scales.shape, opacity: opacity(1), tooltip: tip } },
        ...(off.length ? [{ data: { values: off }, mark: { type: "point", filled: true, size: 90, shape: down ? "triangle-down" : "triangle-up" }, encoding: { x, y: edge, color: scales.colour, opacity: opacity(1), tooltip: tip } }] : []),
        { transform: [{ filter: "datum.chosen" }], mark: { type: "point", aria: false, size: 230, strokeWidth: 1.5 }, encoding: { x, y, color: scales.colour, opacity: opacity(1) } },
      ],
    },
    columns: ["arm", "rate", "value", "status", "chosen", "check"],
    rows,
    note: `Ringed: the rate taken.${wider}${off.length ? (down ? " Triangles at the foot: lower than the axis goes." : " Triangles at the top: higher than the axis goes.") : ""}${drawn.some((row) => row.check) ? " Dashed: checks, which decide nothing." : ""}${lost ? ` Without a metric: ${lost}.` : ""}`,
  };
}

function memory(arms) {
  const labels = new Map(arms.map((arm) => [arm.arm, arm.label]));
  const rows = pair().memory.filter((row) => labels.has(row.arm)).map((row) => ({ ...row, label: labels.get(row.arm) }));
  if (!rows.length) return { empty: "no run got so far as to know its parts" };
  const order = arms.map((arm) => arm.label);
  const parts = ["Weights", "Gradients", "Optimizer", "Activations"];
  const y = { field: "label", type: "nominal", sort: order, title: null };
  const peaks = rows.filter((row) => row.order === 0 && row.peak !== null);
  return {
    spec: {
      height: 20 * order.length,
      description: "Memory of weights, gradients, optimizer state and activations by arm",
      layer: [
        { data: { values: rows }, mark: { type: "bar", height: { band: 0.75 } }, encoding: { y, x: quantitative("MiB", "MiB", { stack: "zero" }), color: { field: "part", type: "nominal", title: null, sort: parts, scale: { domain: parts, range: ["#4477aa", "#ccbb44", "#ee6677", "#228833"] } }, order: { field: "order" }, opacity: opacity(0.9), tooltip: [{ field: "label", title: "Arm" }, { field: "part", title: "Part" }, { field: "MiB", format: ",.1f" }] } },
        ...(peaks.length ? [{ data: { values: peaks }, mark: { type: "tick", thickness: 2, color: INK, size: 17 }, encoding: { y, x: quantitative("peak", "MiB"), opacity: opacity(1), tooltip: [{ field: "label", title: "Arm" }, { field: "peak", title: "Measured peak, MiB", format: ",.0f" }] } }] : []),
      ],
    },
    columns: ["arm", "part", "MiB", "peak"],
    rows,
    note: `From tensor sizes, on the batch of the longest training texts. The sum is no peak: not all parts are held at once, and kernels need room of their own.${peaks.length ? " Tick: the measured peak." : ""}`,
  };
}

function attribution() {
  const rows = pair().attribution.map((row) => ({ ...row, what: `${row.quantity}: ${row.effect}` }));
  if (!rows.length) return { empty: "the configuration asks for no attribution", unasked: true };
  const y = { field: "what", type: "nominal", sort: null, title: null };
  const x = quantitative("percent", "Change, % of the base");
  return {
    spec: {
      height: 18 * rows.length,
      data: { values: rows },
      description: "Change of memory, time and energy by each factor of the factorial",
      layer: [
        { mark: { type: "bar" }, encoding: { y, x, color: { condition: { test: "datum.percent > 0", value: "#ee6677" }, value: "#4477aa" }, tooltip: [{ field: "what", title: "Change" }, { field: "percent", title: "%", format: ".1f" }] } },
        { transform: [{ filter: "isValid(datum.low)" }], mark: { type: "rule", aria: false, color: INK }, encoding: { y, x: { ...x, field: "low" }, x2: { field: "high" } } },
      ],
    },
    columns: ["factorial", "quantity", "effect", "percent", "low", "high"],
    rows,
    note: "Each factor alone, their interaction beyond the sum, and all together; lines: 95 % intervals over seeds, of time and energy over jobs too.",
  };
}

function published() {
  const rows = DATA.imported.filter((row) => row.status === "success" && row.metric_value !== null && row.peak_memory_MiB !== null);
  if (!rows.length) return { empty: "no result that ended well has both a metric and a peak memory" };
  const x = quantitative("peak_memory_MiB", "Peak memory as published, MiB", { scale: { zero: false, padding: 20 } });
  const y = quantitative("metric_value", `${[...new Set(rows.map((row) => row.metric))].join(", ")} as published`, { scale: { zero: false, padding: 20 } });
  const tip = ["experiment", "source", "method", "rank", "model", "dataset", "metric", "metric_value", "peak_memory_MiB", "train_s"];
  return {
    spec: {
      height: 320,
      data: { values: rows },
      description: `Not measured here: ${rows.map((row) => `${row.experiment} ${row.metric_value}, ${row.peak_memory_MiB} MiB`).join("; ")}`,
      layer: [{ mark: { type: "point", size: 90, strokeWidth: 2 }, encoding: { x, y, color: { field: "method", type: "nominal", title: null, scale: { scheme: "tableau10" } }, shape: { field: "dataset", type: "nominal", title: null }, tooltip: tip.map((field) => ({ field })) } }],
    },
    columns: tip,
    rows: DATA.imported,
    note: "Hollow: not measured here; results that failed are in the table alone. The axes need not start at 0.",
  };
}

const memoryKey = () => ["probe_peak_allocated_MiB", "tensors_MiB"].find((key) => axisOf(key));
const CHARTS = {
  tradeoff,
  "rank-metric": byRank("metric_value"),
  "rank-memory": (arms) => byRank(memoryKey())(arms),
  "rank-time": byRank("train_s"),
  curves,
  rates,
  memory,
  attribution,
  published,
};
