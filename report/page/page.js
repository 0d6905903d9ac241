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
