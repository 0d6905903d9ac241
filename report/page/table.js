"use strict";
// The table of arms: sorted by a click on a header, the best first, an arm highlighted by a click on its name.
const sorting = { header: "Arm", ascending: true };

function drawTable() {
  const { headers, numeric, rows } = pair().table;
  const asked = headers.indexOf(sorting.header);
  const column = Math.max(0, asked); // by arm where this pair has no such column
  const ascending = sorting.ascending || asked < 0;
  const shown = new Map(shownArms().map((arm) => [arm.arm, arm]));
  const sorted = rows.filter((row) => shown.has(row.arm)).sort((one, other) => {
    const [a, b] = [one, other].map((row) => row.cells[column].by);
    if (a === b) return 0;
    if (a === null || b === null) return a === null ? 1 : -1; // without a value: last either way
    return (a < b ? -1 : 1) * (ascending ? 1 : -1);
  });
  const head = headers.map((header, index) => {
    const own = column === index;
    const button = element("button", { type: "button" }, header);
    button.addEventListener("click", () => sortBy(index));
    return element("th", { scope: "col", class: numeric[index] ? "number" : null, "aria-sort": own ? (ascending ? "ascending" : "descending") : "none" }, button);
  });
  const body = sorted.map((row) => {
    const button = element("button", { type: "button", "aria-pressed": String(row.arm === state.picked) }, row.cells[0].text);
    button.addEventListener("click", () => pick(row.arm === state.picked ? null : row.arm));
    const cells = row.cells.slice(1).map((cell, index) => element("td", { class: headers[index + 1] === "Differs" ? "differs" : numeric[index + 1] ? "number" : null }, cell.text));
    return element("tr", { "data-arm": row.arm, class: row.arm === state.picked ? "picked" : null }, element("th", { scope: "row" }, button), ...cells);
  });
  byId("arms-table").replaceChildren(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body), ...untrainedRow(headers, numeric));
  hintAt(byId("arms-table").parentElement);
}

/** The untrained model's metric below the arms', where it was asked; whatever is sorted or filtered, for it is no arm. */
function untrainedRow(headers, numeric) {
  const found = pair().untrained;
  if (!found?.cell) return [];
  const text = (header) => (header === found.header ? found.cell : header.startsWith("Verdict") ? "not compared" : "");
  const cells = headers.slice(1).map((header, index) => element("td", { class: numeric[index + 1] ? "number" : null }, text(header)));
  return [element("tfoot", {}, element("tr", {}, element("th", { scope: "row" }, "untrained"), ...cells))];
}

function sortBy(column) {
  const { headers, high_first: highFirst } = pair().table;
  const before = Math.max(0, headers.indexOf(sorting.header));
  sorting.ascending = before === column ? !sorting.ascending : !highFirst[column]; // the best first
  sorting.header = headers[column];
  drawTable();
  byId("arms-table").querySelectorAll("thead button")[column].focus();
}
