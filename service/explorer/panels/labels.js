/** Labels of rows: marked by clicks or read from a file, saved as a file, and how many calls they confirm. */

import { readText } from "../lib/csv.js";
import { element, spoken, takeFiles } from "../lib/elements.js";
import { readLabels, ROW, writeLabels } from "../lib/labels.js";
import { downloadText } from "../lib/files.js";

const KINDS = [["anomaly", true], ["normal", false]];

/**
 * @param {HTMLElement} zone has a select `key`, a button `.save`, a file input and texts.
 * @param {() => void} changed is called when rows are named by another column, or a file has labelled rows.
 */
export function labelling(zone, changed) {
  const find = (selector) => zone.querySelector(selector);
  const key = find("[name=key]");
  const problem = find("[role=alert]");
  let table = { columns: new Map(), rows: 0, name: "" };
  let called = [];
  let labels = new Map();

  function tell() {
    const count = (n) => n.toLocaleString("en");
    const marked = [...labels.values()].filter(Boolean).length;
    const hits = [...labels.keys()].filter((i) => called[i]);
    const right = hits.filter((i) => labels.get(i)).length;
    find(".save").disabled = !labels.size;
    find(".tally").textContent = [
      labels.size ? `${count(labels.size)} ${labels.size === 1 ? "row is" : "rows are"} labelled, ${count(marked)} as ${marked === 1 ? "an anomaly" : "anomalies"}.` : "",
      hits.length ? `Of the ${count(hits.length)} called among them ${count(right)} ${right === 1 ? "is an anomaly" : "are anomalies"}.` : "",
    ].join(" ").trim();
  }

  /** The buttons that label row i. */
  function buttons(i) {
    const made = KINDS.map(([textContent, anomalous]) => {
      const button = element("button", { type: "button", textContent, "aria-label": `${textContent}, row ${i + 1}` });
      button.addEventListener("click", () => {
        if (labels.get(i) === anomalous) labels.delete(i);
        else labels.set(i, anomalous);
        press();
        tell();
      });
      return button;
    });
    function press() {
      KINDS.forEach(([, anomalous], k) => made[k].setAttribute("aria-pressed", String(labels.get(i) === anomalous)));
    }
    press();
    return element("span", {}, ...made);
  }

  /** How row i is named in files of labels. */
  const nameOf = (i) => (key.value === ROW ? String(i + 1) : table.columns.get(key.value)[i]);

  key.addEventListener("change", changed);
  find(".save").addEventListener("click", () => {
    const ordered = [...labels].sort(([a], [b]) => a - b).map(([i, anomalous]) => [nameOf(i), anomalous]);
    downloadText(`${table.name}-labels.csv`, writeLabels(key.value, ordered));
  });
  takeFiles(zone, spoken(problem, async ([file]) => {
    const read = readLabels(await readText(file));
    if (read.key !== ROW && !table.columns.has(read.key)) {
      throw new SyntaxError(`${file.name} names rows by ${read.key}, which the rows here do not have with a different cell in each.`);
    }
    const cells = read.key === ROW ? Array.from({ length: table.rows }, (_, i) => String(i + 1)) : table.columns.get(read.key);
    const rows = new Map(cells.map((cell, i) => [cell, i]));
    const absent = [...read.labels.keys()].filter((name) => !rows.has(name));
    for (const [name, anomalous] of read.labels) if (rows.has(name)) labels.set(rows.get(name), anomalous);
    key.value = read.key;
    changed();
    if (absent.length) throw new SyntaxError(`${absent.length} of ${read.labels.size} labels name no row here: ${absent.slice(0, 5).join(", ")}.`);
  }));

  return {
    buttons,
    /** Other rows, without labels yet. `columns` are those that are none of the model's: name to cells. */
    take(name, rows, columns) {
      const unique = [...columns].filter(([title, cells]) => title !== ROW && title !== "label" && new Set(cells).size === cells.length);
      table = { name, rows, columns: new Map(unique) };
      labels = new Map();
      key.replaceChildren(...[[ROW, "their number"], ...unique.map(([title]) => [title, title])].map(
        ([value, textContent]) => element("option", { value, textContent })));
      if (unique.length) key.value = unique[0][0];
      problem.textContent = "";
    },
    /** Which rows are called anomalous now. */
    judged(now) {
      called = now;
      tell();
    },
    /** The column that names rows, `{title, cells}`; null for their numbers. */
    get names() {
      return key.value === ROW ? null : { title: key.value, cells: table.columns.get(key.value) };
    },
    /** The label of row i as a cell of a file. */
    textOf: (i) => (labels.has(i) ? (labels.get(i) ? "anomaly" : "normal") : ""),
  };
}
