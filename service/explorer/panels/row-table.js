/** A table of scored rows: sortable by every column, each row opening into more. Knows no endpoint. */

import { element } from "../lib/elements.js";
import { short } from "../lib/numbers.js";
import { rankOf } from "../lib/thresholds.js";
import { strangerThan } from "./scores.js";

const PAGE = 100;
const SCORE = 2;

/**
 * @param {HTMLTableElement} table
 * @param {(i: number) => Promise<Node>} open what row i opens into; its failure is shown in its place.
 */
export function rowTable(table, open) {
  const [head, body] = [table.tHead.rows[0], table.tBodies[0]];
  const more = table.parentElement.querySelector(".more");
  let columns = [];
  let rows = [];
  let order = { column: SCORE, descending: true };
  let shown = PAGE;

  /** Show records, what `/elbo` answered about them, and which are `called` anomalous. */
  function show(inputColumns, records, answer) {
    columns = [
      { title: "Row", of: (row) => row.i + 1 },
      { title: "Stranger than", of: (row) => row.p && -row.p, text: (value) => strangerThan(-value) },
      { title: "Score", of: (row) => rankOf(row.score, row.p), text: short },
      ...inputColumns.map(({ name, type }) => ({
        title: name, of: (row) => row.record[name], text: type === "numeric" ? cell : undefined, words: type !== "numeric",
      })),
    ];
    rows = records.map((record, i) => ({
      i, record, score: answer.score[i], p: answer.p_value[i], called: answer.called[i], problem: answer.problem[i],
    }));
    if (order.column >= columns.length) order = { column: SCORE, descending: true };
    head.replaceChildren(...columns.map(header));
    draw();
  }

  function header({ title, words }, i) {
    const button = element("button", { type: "button", textContent: title });
    const cell = element("th", { scope: "col", className: words ? "words" : "" }, button);
    if (i === order.column) cell.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
    button.addEventListener("click", () => {
      order = { column: i, descending: order.column === i ? !order.descending : i === 1 || i === SCORE };
      shown = PAGE;
      head.replaceChildren(...columns.map(header));
      head.cells[i].querySelector("button").focus();
      draw();
    });
    return cell;
  }

  function draw() {
    const { of } = columns[order.column];
    const sign = order.descending ? -1 : 1;
    const sorted = [...rows].sort((a, b) => sign * compare(of(a), of(b)) || a.i - b.i);
    body.replaceChildren(...sorted.slice(0, shown).flatMap(line));
    more.hidden = shown >= sorted.length;
  }

  function line(row) {
    const toggle = element("button", { type: "button", "aria-expanded": "false", textContent: row.i + 1, title: "What makes it strange" });
    const cells = columns.slice(1).map(({ of, text = String, words }) => {
      const value = of(row);
      return element("td", { className: words ? "words" : "", textContent: value == null ? "–" : text(value) });
    });
    if (row.problem) cells[0].append(element("span", { className: "called problem", textContent: row.problem }));
    if (row.called) cells[0].append(element("span", { className: "called", textContent: "called" }));
    const line = element("tr", { className: row.called ? "anomalous" : "" }, element("th", { scope: "row" }, toggle), ...cells);
    const inside = element("td", { colSpan: columns.length });
    const opened = element("tr", { className: "opened", hidden: true }, inside);
    toggle.addEventListener("click", async () => {
      opened.hidden = !opened.hidden;
      toggle.setAttribute("aria-expanded", String(!opened.hidden));
      if (opened.hidden || inside.hasChildNodes()) return;
      inside.textContent = "…";
      try {
        inside.replaceChildren(await open(row.i));
      } catch (error) {
        inside.textContent = error.message;
      }
    });
    return [line, opened];
  }

  more.addEventListener("click", () => {
    shown += PAGE;
    draw();
  });
  return { show };
}

/** A number in short, or the text that is none. */
function cell(value) {
  return typeof value === "number" ? short(value) : String(value);
}

/** Numbers by size, words by letter, what is missing last. */
function compare(a, b) {
  if (a == null || b == null) return (a == null) - (b == null);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}
