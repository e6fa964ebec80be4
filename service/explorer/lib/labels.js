/** Files of labels, as `lowerbound threshold` and `recalibrate` read them. Knows no page element. */

import { format, parse } from "./csv.js";

const KINDS = { anomaly: true, 1: true, true: true, normal: false, 0: false, false: false };

/** The key of rows that are named by their number, from 1. */
export const ROW = "row";
/** The key of pictures, which are named by their file. */
export const FILE = "file";

/** `key`, the column that says which row is meant, and `labels`: by its cells, whether the row is an anomaly. */
export function readLabels(text) {
  const [header = [], ...lines] = parse(text, ",");
  const names = header.map((name) => name.trim());
  const others = names.filter((name) => name !== "label");
  const key = [ROW, FILE].find((name) => others.includes(name)) ?? (others.length === 1 ? others[0] : null);
  if (!names.includes("label") || !key) {
    throw new SyntaxError("A file of labels has the columns label and row, or label and one other that says which row is meant.");
  }
  const labels = new Map();
  for (const cells of lines) {
    const [row, label] = [key, "label"].map((name) => cells[names.indexOf(name)]?.trim() ?? "");
    if (label === "") continue; // It still needs a look.
    const anomalous = KINDS[label.toLowerCase()];
    if (anomalous === undefined) throw new SyntaxError(`The label ${JSON.stringify(label)} is neither normal nor anomaly.`);
    if (labels.has(row) && labels.get(row) !== anomalous) throw new SyntaxError(`${key} ${row} is labelled both normal and anomaly.`);
    labels.set(row, anomalous);
  }
  return { key, labels };
}

/**
 * The function that finds the number of the row that a label names, from 0; undefined for none, or several.
 *
 * A label may say less of a picture's path than `cells`, or more: a browser tells the last part alone.
 */
export function rowsNamed(cells, key) {
  const rows = new Map(cells.map((cell, i) => [cell, i]));
  const endsWith = (path, end) => `/${path}`.endsWith(`/${end}`);
  return (name) => {
    if (rows.has(name) || key !== FILE) return rows.get(name);
    const [found, ...others] = cells.flatMap((cell, i) => (endsWith(cell, name) || endsWith(name, cell) ? [i] : []));
    return others.length ? undefined : found;
  };
}

/** The text of such a file, of [cell, anomalous] pairs. */
export function writeLabels(key, labels) {
  return format([[key, "label"], ...labels.map(([row, anomalous]) => [row, anomalous ? "anomaly" : "normal"])], ",");
}
