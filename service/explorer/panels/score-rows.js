/** The panel that scores rows: CSV in, the ranked table out, each row opening into what makes it strange. */

import { format, readRows, readText } from "../lib/csv.js";
import { element, spoken, takeFiles } from "../lib/elements.js";
import { short } from "../lib/numbers.js";
import { debounced, latest } from "../lib/pacing.js";
import { explanation } from "./row-explanation.js";
import { rowTable } from "./row-table.js";
import { explainScore, offerScores } from "./scores.js";

const EXAMPLES = 40;

export function scoreRowsPanel(panel) {
  const find = (selector) => panel.querySelector(selector);
  const message = find("[role=alert]");
  const text = find("textarea");
  const score = find("[name=score]");
  const rate = find("[name=fdr]");
  const note = find(".note");
  let model;
  let sent;
  let answer;
  let seed = 0;

  const table = rowTable(find(".ranked"), async (i) => (
    sent.wrong.has(i)
      ? element("p", { textContent: `Not scored: ${sent.wrong.get(i)}.` })
      : explanation(model, sent.records[i], sent.shown[i], score.value)));

  const scoreRows = latest(spoken(message, async () => {
    const asked = model;
    explainScore(panel);
    find("output").value = `${rate.value} %`;
    const given = readRows(text.value, model.input);
    const answered = await model.elboOfRows(given.records, { score: score.value, fdr: rate.value / 100 });
    if (asked !== model) return;
    for (const [i, problem] of given.wrong) answered.problem[i] = problem;
    [sent, answer] = [given, answered];
    note.textContent = [
      given.ignored.length ? `Not looked at: ${given.ignored.join(", ")}.` : "",
      given.absent.length ? `Missing in every row: ${given.absent.join(", ")}.` : "",
    ].join(" ").trim();
    const called = answer.discovery.filter(Boolean).length;
    const marked = answer.problem.filter(Boolean).length;
    const rows = sent.records.length;
    const { rows: heldOut, resolution } = model.manifest.calibration;
    find(".verdict").textContent = `${called.toLocaleString("en")} of ${rows.toLocaleString("en")} `
      + `${rows === 1 ? "row is" : "rows are"} called anomalous; on average at most ${rate.value} % of such calls are wrong. `
      + (marked ? `${marked.toLocaleString("en")} ${marked === 1 ? "has" : "have"} a problem. ` : "")
      + `With ${heldOut.toLocaleString("en")} held-out rows no p-value is below ${short(resolution, 2)}.`;
    find(".download").disabled = false;
    table.show(model.input.columns.filter((column) => !column.derived), sent.shown, answer);
  }));

  /** Rows that the model itself would have, noise included where the bundle can draw it. */
  const examples = spoken(message, async () => {
    const { latents, instances } = await model.sample(EXAMPLES, seed, 1);
    const rows = model.has("draw") ? await model.drawRows(latents, seed) : instances;
    seed += 1;
    const columns = model.input.columns.filter((column) => !column.derived);
    // Texts are read by the rule of their column.
    const cell = (value, { decimal = "." }) => (
      typeof value === "number" ? String(Number(value.toPrecision(6))).replace(".", decimal) : value);
    const lines = rows.map((row) => columns.map((column) => cell(row[column.name], column)));
    take(format([columns.map((column) => column.name), ...lines], model.input.text?.delimiter ?? ","));
  });

  function take(csv) {
    text.value = csv;
    scoreRows();
  }

  function download() {
    const columns = ["elbo", "score", "p_value", "discovery", "problem"];
    const lines = [
      [...sent.header, ...columns],
      ...sent.lines.map((cells, i) => [...cells, ...columns.map((name) => answer[name][i])]),
    ];
    const url = URL.createObjectURL(new Blob([format(lines, sent.delimiter)], { type: "text/csv" }));
    element("a", { href: url, download: `${model.manifest.name}-scored.csv` }).click();
    URL.revokeObjectURL(url);
  }

  takeFiles(find(".drop"), spoken(message, async ([file]) => {
    const content = await readText(file, model.input.text?.encoding);
    if (content.includes("\0")) throw new TypeError(`${file.name} is not a CSV file.`);
    take(content);
  }));
  text.addEventListener("input", debounced(scoreRows, 400));
  score.addEventListener("change", scoreRows);
  rate.addEventListener("input", scoreRows);
  find(".examples").addEventListener("click", examples);
  find(".download").addEventListener("click", download);

  return {
    async open(opened) {
      model = opened;
      seed = 0;
      offerScores(panel, model.manifest);
      await examples();
    },
  };
}
