"use strict";
// What the page shows, and who is told when that changes.
const DATA = JSON.parse(document.getElementById("data").textContent);
const state = { pair: 0, picked: null, text: "", methods: new Set(DATA.methods.map((one) => one.method)) };
const pair = () => DATA.pairs[state.pair];
const byId = (id) => document.getElementById(id);

/** An element with attributes and children; texts are never taken for markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Whether a text has every word of the filter, and none that is given as -word. */
function matches(text, filter) {
  const words = filter.toLowerCase().split(/\s+/).filter((word) => word && word !== "-");
  return words.every((word) => (word.startsWith("-") ? !text.includes(word.slice(1)) : text.includes(word)));
}

/** The arms that the filter (of names and verdicts) and the methods leave, in order. */
function shownArms() {
  const { headers, rows } = pair().table;
  const verdicts = headers.flatMap((header, index) => (header.startsWith("Verdict") ? [index] : []));
  const cells = new Map(rows.map((row) => [row.arm, row.cells]));
  return pair().arms.filter((arm) => {
    const text = [arm.arm, arm.label, ...verdicts.map((index) => cells.get(arm.arm)[index].text)].join(" ").toLowerCase();
    return state.methods.has(arm.method) && matches(text, state.text);
  });
}

// What columns of figures' numbers are called; axes have their labels, and theirs with _low and _high the ends.
const COLUMNS = {
  arm: "Arm", seed: "Seed", rank: "Rank", split: "Split", epoch: "Epoch", step: "Optimizer step", train_s: "Training time, s", rate: "Learning rate", status: "Status",
  chosen: "Taken", check: "Decides nothing", part: "Part", MiB: "MiB", peak: "Measured peak, MiB", front: "On the front", factorial: "Factorial", quantity: "Quantity",
  effect: "Effect", percent: "Change, %", low: "From (95 %)", high: "To (95 %)", experiment: "Experiment", source: "Source", method: "Method", model: "Model", dataset: "Data set",
  metric: "Metric", metric_value: "Metric", peak_memory_MiB: "Peak memory, MiB",
};
function columnName(key) {
  const [, base, end] = /^(.*?)(?:_(low|high))?$/.exec(key);
  const axis = pair().axes.find((one) => one.key === base);
  if (axis) return end ? `${axis.label}: ${end === "low" ? "from" : "to"} (95 %)` : axis.label;
  return key === "value" ? pair().metric.label : (COLUMNS[key] ?? key);
}

/** Decimals of a column: three significant digits of the largest number, two of the smallest; of a metric its own. */
function columnPlaces(key, rows) {
  const base = key.replace(/_(low|high)$/, "");
  const axis = pair().axes.find((one) => one.key === base);
  if (axis) return axis.places;
  if (base === "value") return pair().metric.places;
  const sizes = rows.map((row) => Math.abs(row[key])).filter((size) => size > 0);
  if (!sizes.length || rows.every((row) => row[key] === null || Number.isInteger(row[key]))) return 0;
  const digits = (size, count) => count - 1 - Math.floor(Math.log10(size));
  const least = Math.max(0, digits(Math.max(...sizes), 3));
  return Math.max(least, Math.min(digits(Math.min(...sizes), 2), least + 2));
}
const EXACT = ["rate", "seed", "rank", "step"];

/** A cell for readers. */
function cellText(key, value, places) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number" || EXACT.includes(key)) return String(value);
  return value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
}

/** How many columns of a table stand out of its box to the right, the first of them named: "Verdict and 3 more columns". */
function columnsBeyond(box) {
  const edge = box.getBoundingClientRect().right;
  const beyond = [...box.querySelectorAll("thead tr:first-child th")].filter((one) => one.getBoundingClientRect().right > edge + 4);
  const named = beyond.slice(0, 2).map((one) => one.innerText.trim().replace(/\s+/g, " ")).filter(Boolean).join("; ");
  const more = beyond.length - 2;
  return `${named}${more > 0 ? ` and ${more} more ${more === 1 ? "column" : "columns"}` : ""}`;
}

/** Say above a table that is wider than its room that it goes on, and with what. */
function hintAt(box) {
  const more = box.scrollWidth - box.clientWidth > 4;
  const right = more && box.scrollWidth - box.clientWidth - box.scrollLeft > 4;
  box.classList.toggle("goes-on", right);
  let hint = box.previousElementSibling;
  if (!hint?.classList.contains("hint")) {
    if (!more) return;
    hint = element("p", { class: "note hint", "aria-hidden": "true" });
    box.before(hint);
  }
  hint.hidden = !more;
  if (more) hint.textContent = right ? `The table goes on to the right, with ${columnsBeyond(box)} →` : "← The table goes on to the left";
}

/** Save a text as a file. */
function download(name, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Rows of objects as CSV, quoted where needed; a text that a spreadsheet would run as a formula gets a ' before it. */
function csv(columns, rows) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows.map((row) => columns.map((key) => row[key]))].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

/** Which colour, name and shape a method has, as scales of Vega-Lite. */
function methodScales(arms) {
  const used = DATA.methods.map((one, index) => ({ ...one, colour: `var(--m${index})` }))
    .filter((one) => arms.some((arm) => arm.method === one.method));
  const domain = used.map((one) => one.label);
  return {
    colour: { field: "name", type: "nominal", title: null, scale: { domain, range: used.map((one) => one.colour) } },
    shape: { field: "name", type: "nominal", title: null, scale: { domain, range: used.map((one) => one.shape) } },
  };
}
const methodName = (method) => DATA.methods.find((one) => one.method === method).label;
