/** CSV as RFC 4180 has it, with any delimiter. What its cells mean is the service's business. Knows no endpoint. */

const DELIMITERS = [",", ";", "\t", "|"];

/** Lists of cells, one for each line that is not empty; quoted cells may hold delimiters, quotes and line ends. */
export function parse(text, delimiter) {
  const lines = [];
  let line = [];
  const mark = delimiter.replace(/[\\^$.*+?()[\]{}|-]/, "\\$&");
  const cell = new RegExp(`(?:"((?:[^"]|"")*)"|([^"${mark}\\r\\n]*))(${mark}|\\r\\n|\\n|\\r|$)`, "y");
  const source = text.replace(/^\uFEFF/, "");
  while (cell.lastIndex < source.length) {
    const start = cell.lastIndex;
    const found = cell.exec(source);
    if (!found) throw new SyntaxError(`Line ${source.slice(0, start).split(/\r\n|\n|\r/).length}: a quotation mark out of place.`);
    line.push(found[1]?.replaceAll('""', '"') ?? found[2]);
    if (found[3] === delimiter && cell.lastIndex < source.length) continue;
    if (found[3] === delimiter) line.push("");
    if (line.length > 1 || line[0] !== "") lines.push(line);
    line = [];
  }
  return lines;
}

/** The text of lists of cells. */
export function format(lines, delimiter) {
  const special = new RegExp(`["${delimiter}\\r\\n]`);
  const quoted = (cell) => (special.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  return lines.map((line) => `${line.map((value) => quoted(String(value ?? ""))).join(delimiter)}\r\n`).join("");
}

/**
 * The rows of a text whose first line names a model's columns, in any order.
 *
 * `input` is that of the manifest. Returns `{delimiter, header, lines, records, shown, ignored, absent}`: the cells as they
 * are; the records to send, of texts by column name; the same as values to show; the text's columns that the model does not
 * have, and the model's that the text does not have, which are missing in every row.
 * A cell that is none of its column's values is a text, which the service marks.
 * Throws, in words, where the text is no table of the model's rows.
 */
export function readRows(text, input) {
  const columns = input.columns.filter((column) => !column.derived);
  const known = columns.map((column) => column.name);
  const delimiter = findDelimiter(text, known, input.text?.delimiter);
  const [header = [], ...lines] = parse(text, delimiter);
  const names = header.map((name) => name.trim());
  if (!known.some((name) => names.includes(name))) {
    throw new SyntaxError(`The first line must name the model's columns: ${known.slice(0, 6).join(", ")}${known.length > 6 ? ", …" : ""}.`);
  }
  if (!lines.length) throw new SyntaxError("There are no rows below the names of the columns.");
  const places = columns.map((column) => names.indexOf(column.name));
  const missing = new Set(input.missing);
  const records = lines.map((cells, i) => {
    if (cells.length !== names.length) {
      throw new SyntaxError(`Row ${i + 1} has ${cells.length} cells; the first line names ${names.length} columns.`);
    }
    return Object.fromEntries(columns.map(({ name }, j) => [name, places[j] < 0 ? null : cells[places[j]].trim()]));
  });
  return {
    delimiter,
    header,
    lines,
    records,
    shown: records.map((record) => Object.fromEntries(
      columns.map((column) => [column.name, value(record[column.name], column, missing)]),
    )),
    ignored: names.filter((name) => !known.includes(name)),
    absent: known.filter((name) => !names.includes(name)),
  };
}

/** The delimiter under which the first line names most of the columns; the training file's own, if that is one. */
function findDelimiter(text, names, own = ",") {
  const fits = (delimiter) => {
    const [first] = text.split(/\r\n|\n|\r/, 1);
    const cells = first.replace(/^\uFEFF/, "").split(delimiter).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1"));
    return names.filter((name) => cells.includes(name)).length;
  };
  return [own, ...DELIMITERS].reduce((best, other) => (fits(other) > fits(best) ? other : best));
}

/** A cell as it is shown and sorted. */
function value(text, column, missing) {
  if (text === null || (missing.has(text.toLowerCase()) && !column.categories?.includes(text))) return null;
  const number = Number(text);
  return column.type === "numeric" && text !== "" && Number.isFinite(number) ? number : text;
}
