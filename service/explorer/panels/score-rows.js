/** The panel that scores rows: CSV in, the ranked table out, each row opening into what makes it strange. */

import { firstRows, format, readRows, readText } from "../lib/csv.js";
import { element, spoken, takeFiles } from "../lib/elements.js";
import { debounced } from "../lib/pacing.js";
import { progress } from "./progress.js";
import { explanation } from "./row-explanation.js";
import { rowTable } from "./row-table.js";
import { callingRule } from "./rules.js";
import { explainScore, offerScores } from "./scores.js";

const EXAMPLES = 40;
const COLUMNS = ["elbo", "score", "p_value", "problem"];
/** Characters of a file that are shown to be edited. */
const MOST_SHOWN = 50_000;

export function scoreRowsPanel(panel) {
  const find = (selector) => panel.querySelector(selector);
  const message = find("[role=alert]");
  const editor = find("textarea");
  const score = find("[name=score]");
  const result = find(".result");
  const run = progress(find(".progress"));
  let model;
  let text = "";
  let sent;
  let answer;
  let called;
  let seed = 0;

  const table = rowTable(find(".ranked"), async (i) => (
    sent.wrong.has(i)
      ? element("p", { textContent: `Not scored: ${sent.wrong.get(i)}.` })
      : explanation(model, sent.records[i], sent.shown[i], score.value)));

  const rule = callingRule(panel, () => judge());

  /** Score the text's rows. An error leaves no verdict of other rows. */
  const scoreRows = spoken(message, async () => {
    explainScore(panel);
    try {
      const given = readRows(text, model.input);
      const columns = Object.fromEntries(COLUMNS.map((name) => [name, []]));
      const done = await run(given.records.length, async (start, stop) => {
        const part = await model.elboOfRows(given.records.slice(start, stop), { score: score.value });
        for (const name of COLUMNS) columns[name].push(...part[name]);
      });
      if (done === null) return;
      if (done === 0) throw new Error("Stopped before the first rows were scored.");
      for (const [i, problem] of given.wrong) if (i < done) columns.problem[i] = problem;
      [sent, answer] = [firstRows(given, done), columns];
      tellAbout(given, done);
      judge();
      result.hidden = false;
    } catch (error) {
      result.hidden = true;
      throw error;
    }
  });

  function tellAbout({ records, ignored, absent }, done) {
    find(".note").textContent = [
      done < records.length ? `Stopped after ${done.toLocaleString("en")} of ${records.length.toLocaleString("en")} rows.` : "",
      ignored.length ? `Not looked at: ${ignored.join(", ")}.` : "",
      absent.length ? `Missing in every row: ${absent.join(", ")}.` : "",
    ].join(" ").trim();
  }

  /** Call rows by the chosen rule, without asking the service again. */
  function judge() {
    if (!answer) return;
    const judged = rule.judge(answer, model.manifest.calibration.rows);
    called = judged.called;
    const marked = answer.problem.filter(Boolean).length;
    find(".verdict").textContent = judged.verdict
      + (marked ? ` ${marked.toLocaleString("en")} ${marked === 1 ? "has" : "have"} a problem.` : "");
    table.show(model.input.columns.filter((column) => !column.derived), sent.shown, { ...answer, called });
  }

  /** Rows that the model itself would have, noise included where the bundle can draw it. */
  const examples = spoken(message, async () => {
    const { latents, instances } = await model.sample(EXAMPLES, seed, 1);
    const rows = model.has("draw") ? await model.drawRows(latents, seed) : instances;
    seed += 1;
    const columns = model.input.columns.filter((column) => !column.derived);
    // Texts are read by the rule of their column. Numbers with steps are short, and others are made so.
    const cell = (value, { decimal = ".", training_range: range }) => (
      typeof value === "number" ? String(range?.step ? value : Number(value.toPrecision(6))).replace(".", decimal) : value);
    const lines = rows.map((row) => columns.map((column) => cell(row[column.name], column)));
    await take(format([columns.map((column) => column.name), ...lines], model.input.text?.delimiter ?? ","));
  });

  /** Score other rows. An editor takes too long to show millions of characters: a long text is scored without it. */
  function take(csv, name) {
    text = csv;
    const short = csv.length <= MOST_SHOWN;
    editor.value = short ? csv : "";
    editor.placeholder = short ? "" : `${name} is too long to be shown here.\nPaste other rows to score them.`;
    return scoreRows();
  }

  function download() {
    const lines = [
      [...sent.header, ...COLUMNS.toSpliced(-1, 0, "called")],
      ...sent.lines.map((cells, i) => [
        ...cells, answer.elbo[i], answer.score[i], answer.p_value[i], called[i], answer.problem[i]]),
    ];
    const url = URL.createObjectURL(new Blob([format(lines, sent.delimiter)], { type: "text/csv" }));
    element("a", { href: url, download: `${model.manifest.name}-scored.csv` }).click();
    URL.revokeObjectURL(url);
  }

  takeFiles(find(".drop"), spoken(message, async (files) => {
    result.hidden = true;
    const [file] = files;
    if (files.length > 1) throw new TypeError(`${files.length} files: drop one CSV file at a time.`);
    const content = await readText(file, model.input.text?.encoding);
    if (content.includes("\0")) throw new TypeError(`${file.name} is not a CSV file.`);
    await take(content, file.name);
  }));
  editor.addEventListener("input", debounced(() => {
    text = editor.value;
    scoreRows();
  }, 400));
  score.addEventListener("change", scoreRows);
  find(".examples").addEventListener("click", examples);
  find(".download").addEventListener("click", download);

  return {
    async open(opened) {
      model = opened;
      answer = null;
      seed = 0;
      offerScores(panel, model.manifest);
      await examples();
    },
  };
}
