/** Labels of rows: marked by clicks or read from a file, saved as a file, and what they say of calls and thresholds. */

import { readText } from "../lib/csv.js";
import { element, holdsNumber, spoken, takeFiles } from "../lib/elements.js";
import { readLabels, ROW, rowsNamed, writeLabels } from "../lib/labels.js";
import { downloadText } from "../lib/files.js";
import { short } from "../lib/numbers.js";
import { lowestThreshold } from "../lib/thresholds.js";

const KINDS = [["anomaly", true], ["normal", false]];
const count = (n) => n.toLocaleString("en");

/**
 * @param {HTMLElement} zone has a select `key`, a button `.save`, a file input, a number `precision` and texts.
 * @param {object} use
 * @param {string} use.noun says what is labelled, one of them.
 * @param {(i: number) => string} use.titleOf names row i for people.
 * @param {() => void} use.changed is called when rows are named by another column, or a file has labelled rows.
 * @param {(i: number, first: boolean) => void} use.marked is called when row i has another label, `first` where it had none.
 */
export function labelling(zone, { noun, titleOf, changed, marked: hear = () => {} }) {
  const find = (selector) => zone.querySelector(selector);
  const key = find("[name=key]");
  const precision = find("[name=precision]");
  const problem = find("[role=alert]");
  let table = { columns: new Map(), rows: 0, name: "" };
  let called = [];
  let ranks = [];
  let labels = new Map();

  function tell() {
    const marked = [...labels.values()].filter(Boolean).length;
    const hits = [...labels.keys()].filter((i) => called[i]);
    const right = hits.filter((i) => labels.get(i)).length;
    find(".save").disabled = !labels.size;
    find(".tally").textContent = [
      labels.size ? `${count(labels.size)} ${noun}${labels.size === 1 ? " is" : "s are"} labelled, ${count(marked)} as ${marked === 1 ? "an anomaly" : "anomalies"}.` : "",
      hits.length ? `Of the ${count(hits.length)} called among them ${count(right)} ${right === 1 ? "is an anomaly" : "are anomalies"}.` : "",
    ].join(" ").trim();
    find(".wanted").hidden = !marked;
    tellThreshold(marked);
  }

  /** The threshold for the wanted precision, of so many anomalies. */
  function tellThreshold(total) {
    if (!holdsNumber(precision)) return;
    const labelled = [...labels].map(([i, anomalous]) => ({ rank: ranks[i] ?? -Infinity, anomalous }));
    const best = lowestThreshold(labelled, Number(precision.value) / 100);
    const share = (hits, all) => `${Math.round((100 * hits) / all)} % (${count(hits)} of ${count(all)})`;
    find(".threshold").textContent = best
      ? `Scores from ${short(best.score, 6)} on have precision ${share(best.hits, best.called)} and recall ${share(best.hits, total)} `
        + `on these labels, and call ${count(ranks.filter((rank) => rank !== null && rank >= best.score).length)} of all ${noun}s.`
      : "No threshold has that precision on these labels.";
  }

  /** The buttons that label row i. */
  function buttons(i) {
    const made = KINDS.map(([textContent, anomalous]) => {
      const button = element("button", { type: "button", textContent, "aria-label": `${textContent}, ${titleOf(i)}` });
      button.addEventListener("click", (event) => {
        if (event.detail > 1) return; // The second half of a double click is no other decision.
        const first = !labels.has(i);
        if (labels.get(i) === anomalous) labels.delete(i);
        else labels.set(i, anomalous);
        press();
        tell();
        hear(i, first);
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
  precision.addEventListener("input", tell);
  find(".save").addEventListener("click", () => {
    const ordered = [...labels].sort(([a], [b]) => a - b).map(([i, anomalous]) => [nameOf(i), anomalous]);
    downloadText(`${table.name}-labels.csv`, writeLabels(key.value, ordered));
  });
  takeFiles(zone, spoken(problem, async ([file]) => {
    const read = readLabels(await readText(file));
    if (read.key !== ROW && !table.columns.has(read.key)) {
      throw new SyntaxError(`${file.name} names ${noun}s by ${read.key}, which the ${noun}s here do not have, or not each another.`);
    }
    const cells = read.key === ROW ? Array.from({ length: table.rows }, (_, i) => String(i + 1)) : table.columns.get(read.key);
    const rowOf = rowsNamed(cells, read.key);
    const found = [...read.labels].map(([name, anomalous]) => [name, rowOf(name), anomalous]);
    for (const [, i, anomalous] of found) if (i !== undefined) labels.set(i, anomalous);
    const absent = found.filter(([, i]) => i === undefined).map(([name]) => name);
    key.value = read.key;
    changed();
    if (absent.length) throw new SyntaxError(`${absent.length} of ${read.labels.size} labels name no ${noun} here: ${absent.slice(0, 5).join(", ")}.`);
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
    /** Which rows are called anomalous now, and how strange each is, see `rankOf`. */
    judged(now, strangeness) {
      [called, ranks] = [now, strangeness];
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
