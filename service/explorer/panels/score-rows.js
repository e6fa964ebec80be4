/** The panel that scores rows: CSV in, the ranked table out, each row opening into what makes it strange. */

import { setView, view } from "../lib/address.js";
import { firstRows, format, readRows, readText } from "../lib/csv.js";
import { element, say, spoken, takeFiles } from "../lib/elements.js";
import { downloadText } from "../lib/files.js";
import { debounced } from "../lib/pacing.js";
import { rankOf } from "../lib/thresholds.js";
import { labelling } from "./labels.js";
import { progress, tryAgain } from "./progress.js";
import { explanation } from "./row-explanation.js";
import { rowTable } from "./row-table.js";
import { callingRule } from "./rules.js";
import { explainScore, offerScores } from "./scores.js";

const EXAMPLES = 40;
const COLUMNS = ["elbo", "score", "p_value", "problem"];
/** Characters of a file that are shown to be edited. */
const MOST_SHOWN = 50_000;

/** @param {() => void} scored is called when other rows are scored. */
export function scoreRowsPanel(panel, scored) {
  const find = (selector) => panel.querySelector(selector);
  const message = find(".work > [role=alert]");
  const [fileProblem, textProblem] = [find("#file-problem"), find("#text-problem")];
  const editor = find("textarea");
  const score = find("[name=score]");
  const result = find(".result");
  const run = progress(find(".progress"));
  const failed = tryAgain(find(".again"), () => scoreRows());
  let model;
  let text = "";
  let given = textProblem;
  let sent;
  let answer;
  let called;
  let seed = 0;

  const labels = labelling(find(".labels"), { noun: "row", titleOf: (i) => `row ${i + 1}`, changed: () => judge() });
  const table = rowTable(find(".ranked"), {
    open: async (i) => (
      sent.wrong.has(i)
        ? element("p", { textContent: `Not scored: ${sent.wrong.get(i)}.` })
        : explanation(model, sent.records[i], sent.shown[i], score.value)),
    opened: (i) => setView({ row: i === null ? null : i + 1 }),
    label: labels.buttons,
  });

  const rule = callingRule(panel, "row", () => judge());

  /** Score the text's rows. An error leaves no verdict of other rows. */
  const scoreRows = spoken(message, async () => {
    explainScore(panel);
    failed(false);
    for (const problem of [fileProblem, textProblem]) say(problem, "");
    try {
      const read = readRows(text, model.input);
      const columns = Object.fromEntries(COLUMNS.map((name) => [name, []]));
      const done = await run(read.records.length, async (start, stop, signal) => {
        const part = await model.elboOfRows(read.records.slice(start, stop), { score: score.value }, signal);
        for (const name of COLUMNS) columns[name].push(...part[name]);
      });
      if (done === null) return;
      if (done === 0) throw new Error("Stopped before the first rows were scored.");
      for (const [i, problem] of read.wrong) if (i < done) columns.problem[i] = problem;
      const same = sent?.text === text && sent.lines.length === done;  // Another score leaves the labels.
      [sent, answer] = [{ ...firstRows(read, done), text }, columns];
      if (!same) labels.take(model.manifest.name, done, others(sent));
      tellAbout(read, done);
      result.hidden = false;  // What is hidden cannot be scrolled.
      judge();
      scored();
    } catch (error) {
      [answer, sent] = [null, null];
      result.hidden = true;
      scored();
      failed(!(error instanceof SyntaxError));
      if (!(error instanceof SyntaxError)) throw error;
      say(given, error.message);
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
    labels.judged(called, answer.score.map((value, i) => rankOf(value, answer.p_value[i])));
    table.show(model.input.columns.filter((column) => !column.derived), sent.shown, { ...answer, called }, labels.names);
    openRow();
  }

  /** The columns of the text that the model is without, name to cells. */
  function others({ ignored, header, lines }) {
    const places = ignored.map((name) => header.findIndex((title) => title.trim() === name));
    return new Map(ignored.map((name, j) => [name, lines.map((cells) => cells[places[j]]?.trim() ?? "")]));
  }

  /** Open the row that the page's address names. */
  function openRow() {
    if (answer) table.openOnly(view().row ? Number(view().row) - 1 : null);
  }

  /** Rows that the model itself would have, noise included where the bundle can draw it. */
  const examples = spoken(message, async () => {
    const { latents, instances } = await model.sample(EXAMPLES, seed, 1);
    const rows = model.has("draw") ? await model.drawRows(latents, seed) : instances;
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
    given = name ? fileProblem : textProblem;
    const short = csv.length <= MOST_SHOWN;
    editor.value = short ? csv : "";
    editor.placeholder = short ? "" : `${name} is too long to be shown here.\nPaste other rows to score them.`;
    return scoreRows();
  }

  function download() {
    const lines = [
      [...sent.header, ...COLUMNS.toSpliced(-1, 0, "called"), "row", "label"],
      ...sent.lines.map((cells, i) => [
        ...cells, answer.elbo[i], answer.score[i], answer.p_value[i], called[i], answer.problem[i], i + 1, labels.textOf(i)]),
    ];
    downloadText(`${model.manifest.name}-scored.csv`, format(lines, sent.delimiter));
  }

  takeFiles(find(".drop"), spoken(fileProblem, async (files) => {
    result.hidden = true;
    leaveExamples();
    const [file] = files;
    if (files.length > 1) throw new TypeError(`${files.length} files: drop one CSV file at a time.`);
    const content = await readText(file, model.input.text?.encoding);
    if (content.includes("\0")) throw new TypeError(`${file.name} is not a CSV file.`);
    await take(content, file.name);
  }));
  editor.addEventListener("input", debounced(() => {
    text = editor.value;
    given = textProblem;
    leaveExamples();
    scoreRows();
  }, 400));
  score.addEventListener("change", scoreRows);
  find(".examples").addEventListener("click", () => {
    seed += 1;
    setView({ seed, row: null });
    examples();
  });
  find(".download").addEventListener("click", download);

  /** A link cannot hold rows: it leads to the model's own. */
  function leaveExamples() {
    setView({ seed: null, row: null }, { replace: true });
  }

  return {
    openRow,
    /** What `/elbo` answered about the rows, or null, how they are named, and how another model scores them. */
    scored: () => ({
      answer,
      names: labels.names,
      forOther(other) {
        const { name, version } = other.manifest;
        if (other.input.kind !== "tabular") throw new TypeError(`${name} ${version} is a model of pictures.`);
        const { records } = readRows(text, other.input);
        return (start, stop, signal) => other.elboOfRows(records.slice(start, stop), {}, signal);
      },
    }),
    async open(opened) {
      model = opened;
      [answer, sent] = [null, null];
      seed = Number(view().seed) || 0;
      offerScores(panel, model.manifest);
      await examples();
    },
  };
}
