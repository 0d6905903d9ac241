"use strict";
// The page comes to life: controls, figures, highlighting.
const views = new Map();
let drawn = Promise.resolve();

/** Highlight an arm everywhere, or none. */
function pick(arm) {
  state.picked = arm;
  for (const row of document.querySelectorAll("#arms-table tbody tr")) {
    const own = row.dataset.arm === arm;
    row.classList.toggle("picked", own);
    row.querySelector("button").setAttribute("aria-pressed", String(own));
  }
  byId("clear").disabled = arm === null;
  const label = arm === null ? "" : pair().arms.find((one) => one.arm === arm).label;
  byId("status").textContent = arm === null ? "" : `${label} highlighted; Escape clears it.`;
  for (const view of views.values()) view.signal("picked", arm).runAsync();
}

/** What depends on how much room there is: columns of legends, lengths of labels. */
function configFor(width) {
  const legend = { ...CONFIG.legend, columns: Math.max(1, Math.floor(width / 170)) };
  return { ...CONFIG, axis: { ...CONFIG.axis, labelLimit: Math.max(90, Math.min(300, width * 0.45)) }, axisX: { labelFlush: true, labelSeparation: 8, titleLimit: width, tickCount: Math.max(3, Math.floor(width / 90)) }, legend };
}

const chartOf = (name, arms, width) => (arms.length || name === "published" ? CHARTS[name](arms, width) : { empty: "no arm is left by the filter" });

/** Show the figures of these names but those that nobody asked for. */
function hideUnasked(names) {
  const arms = shownArms();
  for (const name of names) {
    const box = byId(`chart-${name}`);
    if (!box) continue;
    box.closest("section").hidden = false;
    box.closest("figure").hidden = Boolean(chartOf(name, arms, box.parentElement.clientWidth).unasked);
  }
}

async function drawChart(name) {
  const box = byId(`chart-${name}`);
  if (!box) return; // a section that this report does not have
  const numbers = document.querySelector(`details[data-table="${name}"]`);
  const width = Math.floor(box.parentElement.clientWidth);
  const arms = shownArms();
  const chart = chartOf(name, arms, width);
  views.get(name)?.finalize();
  views.delete(name);
  byId(`chart-${name}-note`).textContent = chart.empty ? "" : chart.note;
  if (chart.title) byId(`chart-${name}-title`).textContent = chart.title;
  numbers.hidden = Boolean(chart.empty);
  if (chart.empty) {
    box.replaceChildren(element("p", { class: "empty" }, `Nothing to draw: ${chart.empty}.`));
    return;
  }
  const spec = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width, autosize: { type: "fit-x", contains: "padding" }, config: configFor(width), params: [{ name: "picked", value: state.picked }, { name: "names", value: {} }], ...chart.spec };
  spec.layer = spec.layer.filter((layer) => !layer.data || layer.data.values.length); // Vega warns of an empty one
  const { view } = await window.vegaEmbed(box, spec, { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
  await chart.drawn?.(view);
  view.signal("picked", state.picked).runAsync(); // it may have changed meanwhile
  view.addEventListener("click", (event, item) => pick(item?.datum?.arm && item.datum.arm !== state.picked ? item.datum.arm : null));
  views.set(name, view);
  numbers.querySelector(".download").onclick = () => download(`${name}.csv`, csv(chart.columns, chart.rows));
  const fill = () => {
    const head = element("tr", {}, ...chart.columns.map((key) => element("th", { scope: "col", "data-key": key }, columnName(key))));
    const places = new Map(chart.columns.map((key) => [key, columnPlaces(key, chart.rows)]));
    const text = (row, key) => (key === "arm" && row.label ? row.label : cellText(key, row[key], places.get(key)));
    const cells = (row) => chart.columns.map((key) => element("td", { class: typeof row[key] === "number" ? "number" : null }, text(row, key)));
    const scroll = numbers.querySelector(".scroll");
    scroll.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...chart.rows.map((row) => element("tr", {}, ...cells(row))))));
    hintAt(scroll);
  };
  numbers.ontoggle = () => numbers.open && fill();
  if (numbers.open) fill();
}

/** Draw figures anew, one after the other: all, or those named. */
function drawCharts(names = Object.keys(CHARTS)) {
  drawn = drawn.then(async () => {
    hideUnasked(names); // first, so that the figures beside them have their room
    for (const name of names) await drawChart(name);
    for (const section of document.querySelectorAll("main > section:has(figure)")) {
      section.hidden = [...section.querySelectorAll("figure")].every((figure) => figure.hidden);
      const link = document.querySelector(`nav a[href="#${section.id}"]`);
      if (link) link.hidden = section.hidden;
    }
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
  });
}

/** Draw the table and all figures anew; an arm that is no longer shown is not highlighted. */
function draw() {
  if (state.picked !== null && !shownArms().some((arm) => arm.arm === state.picked)) pick(null);
  drawTable();
  drawAnswers();
  drawCharts();
}

function showPair() {
  state.picked = null;
  const { axes, absent, intervals, dataset, model, random, conditions, notes, warnings } = pair();
  for (const text of document.querySelectorAll(".pair")) text.textContent = [`${dataset} · ${model}`, random, conditions].filter(Boolean).join(" · ");
  byId("warnings").hidden = warnings.length === 0;
  byId("warnings").querySelector("ul").replaceChildren(...warnings.map((text) => element("li", {}, text)));
  byId("arms-notes").textContent = notes.join(" ");
  byId("arms-untrained").hidden = !pair().untrained;
  byId("arms-untrained").textContent = pair().untrained?.line ?? "";
  byId("absent").textContent = [absent.length ? `Not measured here: ${absent.join("; ")}.` : "", ...intervals].join(" ").trim();
  byId("absent-fold").hidden = !byId("absent").textContent;
  const options = (wanted) => axes.map((axis) => element("option", { value: axis.key, selected: axis.key === wanted }, `${axis.label} (${axis.better === "high" ? "higher" : "lower"} is better)`));
  const first = (...keys) => keys.find((key) => axes.some((axis) => axis.key === key));
  byId("axis-y").replaceChildren(...options(first("metric_value", "samples_per_s")));
  byId("axis-x").replaceChildren(...options(pair().decides)); // the cost by which the verdict chose
  const used = DATA.methods.map((one, index) => ({ ...one, index })).filter((one) => pair().arms.some((arm) => arm.method === one.method));
  const legend = byId("methods").querySelector("legend");
  byId("methods").replaceChildren(legend, ...used.map((one) => {
    const box = element("input", { type: "checkbox", checked: state.methods.has(one.method) });
    box.addEventListener("change", () => {
      state.methods[box.checked ? "add" : "delete"](one.method);
      draw();
    });
    return element("label", { style: `--swatch: var(--m${one.index})` }, box, ` ${one.label}`);
  }));
  answering.shown = FIRST_PROMPTS;
  byId("clear").disabled = true;
  byId("status").textContent = "";
  draw();
}

let waiting;
const later = (action) => {
  clearTimeout(waiting);
  waiting = setTimeout(action, 200);
};
byId("pair")?.addEventListener("change", (event) => {
  state.pair = Number(event.target.value);
  showPair();
});
byId("filter").addEventListener("input", (event) => {
  state.text = event.target.value.trim();
  later(draw);
});
byId("answers-search")?.addEventListener("input", (event) => {
  answering.text = event.target.value.trim();
  answering.shown = FIRST_PROMPTS;
  later(drawAnswers);
});
byId("answers-more")?.addEventListener("click", moreAnswers);
for (const id of ["axis-x", "axis-y"]) byId(id).addEventListener("change", () => drawCharts(["tradeoff"]));
byId("clear").addEventListener("click", () => pick(null));
document.addEventListener("keydown", (event) => event.key === "Escape" && state.picked !== null && pick(null));
for (const button of document.querySelectorAll("button.file")) {
  button.addEventListener("click", () => download(button.dataset.file, DATA.files[button.dataset.file]));
}
const widths = new ResizeObserver((entries) => entries.forEach((entry) => hintAt(entry.target)));
for (const box of document.querySelectorAll(".scroll")) {
  widths.observe(box);
  box.addEventListener("scroll", () => hintAt(box), { passive: true });
}
DARK.addEventListener("change", () => drawCharts());
let seen = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === seen) return; // a phone's address bar
  seen = window.innerWidth;
  later(draw);
});
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not(.numbers):not([open])")];
  for (const one of opened) one.open = true;
});
window.addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
showPair();
