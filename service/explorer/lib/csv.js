/** CSV as RFC 4180 has it, and its cells as a model's columns take them. Knows no endpoint and no page element. */

/** How files write that a value is missing. */
const MISSING = new Set(["", "na", "n/a", "nan", "null", "none", "?"]);

/** Lists of cells, one for each line that is not empty; quoted cells may hold commas, quotes and line ends. */
export function parse(text) {
  const lines = [];
  let line = [];
  const cell = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n|\n|\r|$)/y;
  const source = text.replace(/^\uFEFF/, "");
  while (cell.lastIndex < source.length) {
    const start = cell.lastIndex;
    const found = cell.exec(source);
    if (!found) throw new SyntaxError(`Line ${source.slice(0, start).split(/\r\n|\n|\r/).length}: a quotation mark out of place.`);
    line.push(found[1]?.replaceAll('""', '"') ?? found[2]);
    if (found[3] === "," && cell.lastIndex < source.length) continue;
    if (found[3] === ",") line.push("");
    if (line.length > 1 || line[0] !== "") lines.push(line);
    line = [];
  }
  return lines;
}

/** The text of lists of cells. */
export function format(lines) {
  const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  return lines.map((line) => `${line.map((value) => quoted(String(value ?? ""))).join(",")}\r\n`).join("");
}

/**
 * A model's rows out of CSV text whose first line names the columns, in any order.
 *
 * Returns `{header, lines, records, ignored, absent}`: the cells as they are; the records by column name, null where a
 * value is missing; the file's columns that the model does not have, and the model's that the file does not have, which
 * are missing in every row.
 * A cell that is none of its column's values stays a text, which the service marks.
 * Throws, in words, where the text is no table of the model's rows.
 */
export function readRows(text, columns) {
  const [header = [], ...lines] = parse(text);
  const names = header.map((name) => name.trim());
  const known = columns.map((column) => column.name);
  if (!known.some((name) => names.includes(name))) {
    throw new SyntaxError(`The first line must name the model's columns: ${known.slice(0, 6).join(", ")}${known.length > 6 ? ", …" : ""}.`);
  }
  if (!lines.length) throw new SyntaxError("There are no rows below the names of the columns.");
  const records = lines.map((cells, i) => {
    if (cells.length !== names.length) {
      throw new SyntaxError(`Row ${i + 1} has ${cells.length} cells; the first line names ${names.length} columns.`);
    }
    return Object.fromEntries(columns.map((column) => {
      const place = names.indexOf(column.name);
      return [column.name, place < 0 ? null : value(cells[place].trim(), column)];
    }));
  });
  return {
    header,
    lines,
    records,
    ignored: names.filter((name) => !known.includes(name)),
    absent: known.filter((name) => !names.includes(name)),
  };
}

function value(text, column) {
  const category = column.categories?.find((known) => isWritten(known, text));
  if (category !== undefined) return category;
  if (MISSING.has(text.toLowerCase())) return null;
  return column.type === "numeric" && Number.isFinite(Number(text)) ? Number(text) : text;
}

/** Whether a file's text means this category: 1.0 is 1, and True is true. */
function isWritten(category, text) {
  switch (typeof category) {
    case "number": return text !== "" && Number(text) === category;
    case "boolean": return text.toLowerCase() === String(category);
    default: return text === category;
  }
}
