/** CSV as RFC 4180 has it, with any delimiter. What its cells mean is the service's business. Knows no endpoint. */

const DELIMITERS = [",", ";", "\t", "|"];
const FIRST = 20;

/** The text of a file: plain or gzipped, in UTF-8 or UTF-16, else in the encoding of the model's training file. */
export async function readText(file, encoding = "windows-1252") {
  let bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) {
    const plain = file.stream().pipeThrough(new DecompressionStream("gzip"));
    bytes = new Uint8Array(await new Response(plain).arrayBuffer());
  }
  const label = encoding.replace(/^utf-16-/, "utf-16");
  const mark = { 0xfffe: "utf-16le", 0xfeff: "utf-16be" }[256 * bytes[0] + bytes[1]];
  const told = label.startsWith("utf-16") && bytes.subarray(0, 4).includes(0) ? label : null;
  try {
    return new TextDecoder(mark ?? told ?? "utf-8", { fatal: true }).decode(bytes);
  } catch (problem) {
    if (!(problem instanceof TypeError)) throw problem;
    return new TextDecoder(label).decode(bytes);
  }
}

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
 * The rows of a text whose first line names a model's columns, in any order; a title and the like may stand before it.
 *
 * `input` is that of the manifest. Returns `{delimiter, header, lines, records, wrong, shown, ignored, absent}`: the cells as
 * they are; the records to send, of texts by column name; what is wrong with rows that have more or fewer cells, by number,
 * whose records are null; the records as values to show; the text's columns that the model does not have, and the model's
 * that the text does not have, which are missing in every row.
 * A cell that is none of its column's values is a text, which the service marks.
 * Throws, in words, where the text is no table of the model's rows.
 */
export function readRows(text, input) {
  const columns = input.columns.filter((column) => !column.derived);
  const known = columns.map((column) => column.name);
  const delimiter = findDelimiter(text, known, input.text?.delimiter);
  const all = parse(text, delimiter);
  const named = (cells) => cells.some((cell) => known.includes(cell.trim()));
  const place = all.slice(0, FIRST).findIndex(named);
  const [header = [], ...below] = all.slice(Math.max(place, 0));
  const names = header.map((name) => name.trim());
  const lines = below.filter((cells) => names.length === 1 || cells.length > 1 || cells[0].trim());
  // Where all rows end with a delimiter, the header may not.
  if (lines.length && lines.every((cells) => cells.length === names.length + 1 && !cells.at(-1).trim())) names.push("");
  if (!known.some((name) => names.includes(name))) {
    throw new SyntaxError(`The first line must name the model's columns: ${known.slice(0, 6).join(", ")}${known.length > 6 ? ", …" : ""}.`);
  }
  if (!lines.length) throw new SyntaxError("There are no rows below the names of the columns.");
  const places = columns.map((column) => names.indexOf(column.name));
  const missing = new Set(input.missing);
  const record = (cells) => Object.fromEntries(
    columns.map(({ name }, j) => [name, places[j] < 0 ? null : (cells[places[j]]?.trim() ?? null)]),
  );
  const wrong = new Map(lines.flatMap((cells, i) => (
    cells.length === names.length ? [] : [[i, `has ${cells.length} cells; the header has ${names.length}`]])));
  return {
    delimiter,
    header,
    lines,
    records: lines.map((cells, i) => (wrong.has(i) ? null : record(cells))),
    wrong,
    shown: lines.map(record).map((cells) => Object.fromEntries(
      columns.map((column) => [column.name, value(cells[column.name], column, missing)]),
    )),
    ignored: names.filter((name) => name && !known.includes(name)),
    absent: known.filter((name) => !names.includes(name)),
  };
}

/** The first rows alone of what `readRows` read. */
export function firstRows(read, count) {
  if (count === read.records.length) return read;
  const [lines, records, shown] = [read.lines, read.records, read.shown].map((rows) => rows.slice(0, count));
  return { ...read, lines, records, shown };
}

/** The delimiter under which one of the first lines names most of the columns; the training file's own, if that is one. */
function findDelimiter(text, names, own = ",") {
  const first = text.replace(/^\uFEFF/, "").split(/\r\n|\n|\r/, FIRST);
  const fits = (delimiter) => Math.max(...first.map((line) => {
    const cells = line.split(delimiter).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1"));
    return names.filter((name) => cells.includes(name)).length;
  }));
  return [own, ...DELIMITERS].reduce((best, other) => (fits(other) > fits(best) ? other : best));
}

/** A cell as it is shown and sorted. */
function value(text, column, missing) {
  if (text === null || (missing.has(text.toLowerCase()) && !column.categories?.includes(text))) return null;
  const number = Number(text);
  return column.type === "numeric" && text !== "" && Number.isFinite(number) ? number : text;
}
