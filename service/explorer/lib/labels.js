/** Files of labels, as `lowerbound threshold` and `recalibrate` read them. Knows no page element. */

import { format, parse } from "./csv.js";

const KINDS = { anomaly: true, 1: true, true: true, normal: false, 0: false, false: false };

/** The key of rows that are named by their number, from 1. */
export const ROW = "row";

/** `key`, the column that says which row is meant, and `labels`: by its cells, whether the row is an anomaly. */
export function readLabels(text) {
  const [header = [], ...lines] = parse(text, ",");
  const names = header.map((name) => name.trim());
  const others = names.filter((name) => name !== "label");
  const key = others.includes(ROW) ? ROW : others[0];
  if (!names.includes("label") || !key || (key !== ROW && others.length > 1)) {
    throw new SyntaxError("A file of labels has the columns label and row, or label and one other that says which row is meant.");
  }
  const labels = new Map();
  for (const cells of lines) {
    const [row, label] = [key, "label"].map((name) => cells[names.indexOf(name)]?.trim() ?? "");
    const anomalous = KINDS[label.toLowerCase()];
    if (anomalous === undefined) throw new SyntaxError(`The label ${JSON.stringify(label)} is neither normal nor anomaly.`);
    if (labels.has(row) && labels.get(row) !== anomalous) throw new SyntaxError(`${key} ${row} is labelled both normal and anomaly.`);
    labels.set(row, anomalous);
  }
  return { key, labels };
}

/** The text of such a file, of [cell, anomalous] pairs. */
export function writeLabels(key, labels) {
  return format([[key, "label"], ...labels.map(([row, anomalous]) => [row, anomalous ? "anomaly" : "normal"])], ",");
}
