/** A table of scored rows: sortable by every column, each row opening into more. Knows no endpoint. */

import { element, oneTabStop } from "../lib/elements.js";
import { short } from "../lib/numbers.js";
import { rankOf } from "../lib/thresholds.js";
import { strangerThan } from "./scores.js";

const PAGE = 100;
/** Of a row: the one that opens it, and two that label it. */
const BUTTONS = 3;
/** Keys of the columns that are not the file's, whose names are any. */
const [ROW, STRANGER, SCORE, LABEL] = ["Row", "Stranger than", "Score", "Label"].map(Symbol);

/**
 * @param {HTMLTableElement} table
 * @param {object} use
 * @param {(i: number) => Promise<Node>} use.open what row i opens into; its failure is shown in its place.
 * @param {(i: number | null) => void} use.opened hears which row the user has opened, or null when one is closed.
 * @param {(i: number) => Node} use.label gives the buttons that label row i.
 */
export function rowTable(table, use) {
  const [head, body] = [table.tHead.rows[0], table.tBodies[0]];
  const more = table.parentElement.querySelector(".more");
  let columns = [];
  let rows = [];
  let turns = new Map();
  let order = { key: SCORE, descending: true };
  let shown = PAGE;

  /**
   * Show records, what `/elbo` answered about them, and which are `called` anomalous. `names`, `{title, cells}` or null, says
   * how the rows are named beside their numbers.
   */
  function show(inputColumns, records, answer, names) {
    columns = [
      { key: ROW, of: (row) => row.i + 1 },
      ...(names ? [{ key: names.title, of: (row) => names.cells[row.i], words: true }] : []),
      { key: STRANGER, of: (row) => row.p && -row.p, text: (value) => strangerThan(-value), notes: true },
      { key: SCORE, of: (row) => rankOf(row.score, row.p), text: short },
      { key: LABEL, node: (row) => use.label(row.i) },
      ...inputColumns.map(({ name, type }) => ({
        key: name, of: (row) => row.record[name], text: type === "numeric" ? cell : undefined, words: type !== "numeric",
      })),
    ];
    rows = records.map((record, i) => ({
      i, record, score: answer.score[i], p: answer.p_value[i], called: answer.called[i], problem: answer.problem[i],
    }));
    if (!columns.some(({ key }) => key === order.key)) order = { key: SCORE, descending: true };
    head.replaceChildren(...columns.map(header));
    draw();
    table.parentElement.scrollLeft = 0; // Else what is wrong with a row may stand left of a narrow window.
  }

  function header({ key, words, node }, i) {
    const textContent = key.description ?? key;
    if (node) return element("th", { scope: "col", className: "words", textContent });
    const button = element("button", { type: "button", textContent });
    const cell = element("th", { scope: "col", className: words ? "words" : "" }, button);
    if (key === order.key) cell.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
    button.addEventListener("click", () => {
      order = { key, descending: order.key === key ? !order.descending : [STRANGER, SCORE].includes(key) };
      shown = PAGE;
      head.replaceChildren(...columns.map(header));
      head.cells[i].querySelector("button").focus();
      draw();
    });
    return cell;
  }

  function sorted() {
    const { of } = columns.find(({ key }) => key === order.key);
    const sign = order.descending ? -1 : 1;
    return rows.toSorted((a, b) => sign * compare(of(a), of(b)) || a.i - b.i);
  }

  function draw() {
    turns = new Map();
    body.replaceChildren(...sorted().slice(0, shown).flatMap(line));
    oneTabStop(body, BUTTONS);
    more.hidden = shown >= rows.length;
  }

  function line(row) {
    const toggle = element("button", { type: "button", "aria-expanded": "false", textContent: row.i + 1, title: "What makes it strange" });
    const cells = columns.slice(1).map(({ of, text = String, words, node, notes }) => {
      if (node) return element("td", { className: "words label" }, node(row));
      const value = of(row);
      const made = element("td", { className: words ? "words" : "", textContent: value == null ? "–" : text(value) });
      if (notes && row.problem) made.append(element("span", { className: "called problem", textContent: row.problem }));
      if (notes && row.called) made.append(element("span", { className: "called", textContent: "called" }));
      return made;
    });
    const line = element("tr", { className: row.called ? "anomalous" : "" }, element("th", { scope: "row" }, toggle), ...cells);
    const inside = element("td", { colSpan: columns.length });
    const opened = element("tr", { className: "opened", hidden: true }, inside);

    async function turn(open) {
      opened.hidden = !open;
      toggle.setAttribute("aria-expanded", String(open));
      if (!open || inside.hasChildNodes()) return;
      inside.textContent = "…";
      try {
        inside.replaceChildren(await use.open(row.i));
      } catch (error) {
        inside.textContent = error.message;
      }
    }

    toggle.addEventListener("click", () => {
      turn(opened.hidden);
      use.opened(opened.hidden ? null : row.i);
    });
    turns.set(row.i, (open) => {
      if (open === opened.hidden) turn(open);
      if (open) table.parentElement.scrollTop = line.offsetTop - head.offsetHeight;
    });
    return [line, opened];
  }

  more.addEventListener("click", () => {
    shown += PAGE;
    draw();
  });

  return {
    show,
    /** Open row i, bring it into view within the table, and close the others; null closes all. */
    openOnly(i) {
      const place = sorted().findIndex((row) => row.i === i);
      if (place >= shown) {
        shown = place + 1;
        draw();
      }
      for (const [other, turn] of turns) turn(other === i);
    },
  };
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
