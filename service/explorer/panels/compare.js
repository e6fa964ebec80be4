/** The panel that compares: the same rows or pictures by another model or version. */

import { setView, view } from "../lib/address.js";
import { element, spoken } from "../lib/elements.js";
import { fixed } from "../lib/numbers.js";
import { correlation, places } from "../lib/ranks.js";
import { rankOf } from "../lib/thresholds.js";
import { Model } from "../model.js";
import { progress } from "./progress.js";
import { strangerThan } from "./scores.js";

const MOST = 10;

/**
 * @param {() => {answer, names, forOther, pictureOf}} scored gives what `/elbo` answered, lists by name, and how the rows are
 * named. `forOther` makes of another model the function that scores the rows from one number to another by it, or throws in
 * words. `pictureOf` shows a picture with its name.
 */
export function comparePanel(panel, service, scored) {
  const find = (selector) => panel.querySelector(selector);
  const other = find("[name=other]");
  const result = find(".result");
  const run = progress(find(".progress"));
  let model;

  const compare = spoken(find("[role=alert]"), async () => {
    result.hidden = true;
    find(".hint").hidden = other.value !== "";
    const { answer, names, forOther, pictureOf } = scored();
    if (!other.value || !answer) return;
    const [name, version] = other.value.split("/");
    const second = await Model.open(service, name, version);
    const score = forOther(second);
    const found = { score: [], p_value: [] };
    const count = answer.score.length;
    const done = await run(count, async (start, stop, signal) => {
      const part = await score(start, stop, signal);
      for (const column of Object.keys(found)) found[column].push(...part[column]);
    });
    if (done === null) return;
    if (done === 0) throw new Error(`Stopped before the first ${noun()} were scored.`);
    const both = [answer, found].map(({ score, p_value: p }) => score.map((value, i) => rankOf(value, p[i])));
    const rows = Array.from({ length: done }, (_, i) => i).filter((i) => both.every((ranks) => ranks[i] !== null));
    if (rows.length < 2) throw new TypeError(`Fewer than two ${noun()} can be scored by both models.`);
    show(second, rows, both.map((ranks) => places(rows.map((i) => ranks[i]))), [answer, found], names, pictureOf);
  });

  function noun() {
    return model.input.kind === "image" ? "pictures" : "rows";
  }

  function show({ manifest }, rows, [first, second], answers, names, pictureOf) {
    const titles = [model.manifest, manifest].map((one) => `${one.name} ${one.version}`);
    const agreement = correlation(first, second);
    const same = Number.isNaN(agreement) ? `One of them finds all ${noun()} equally strange.`
      : `The rank correlation over ${rows.length.toLocaleString("en")} ${noun()} is ${fixed(agreement, 3)}; 1 is the same order.`;
    find(".verdict").textContent = `${titles[0]} and ${titles[1]}: ${same}`;
    find("thead tr").replaceChildren(
      ...[pictureOf ? "Picture" : "Row", ...(names ? [names.title] : []), ...titles.map((title) => `Place, ${title}`), ...titles.map((title) => `Stranger than, ${title}`)].map(
        (textContent, i) => element("th", { scope: "col", className: names && i === 1 ? "words" : "", textContent })));
    const apart = (k) => Math.abs(first[k] - second[k]);
    const furthest = rows.map((_, k) => k).sort((a, b) => apart(b) - apart(a) || first[a] - first[b]).slice(0, MOST);
    find("tbody").replaceChildren(...furthest.map((k) => {
      const cells = [first, second].map((ranks) => ranks[k].toLocaleString("en"))
        .concat(answers.map(({ p_value: p }) => strangerThan(p[rows[k]])));
      return element("tr", {}, element("th", { scope: "row" }, ...(pictureOf ? pictureOf(rows[k]) : [String(rows[k] + 1)])),
        ...(names ? [element("td", { className: "words", textContent: names.cells[rows[k]] })] : []),
        ...cells.map((textContent) => element("td", { textContent })));
    }));
    result.hidden = false;
  }

  function choose() {
    other.value = view().with ?? "";
    if (other.selectedIndex < 0) other.value = "";
  }

  other.addEventListener("change", () => {
    setView({ with: other.value || null });
    compare();
  });

  return {
    /** Offer the other served models, `name/version` each, beside the one shown, whose rows are scored next. */
    open(opened, served) {
      model = opened;
      const own = `${model.manifest.name}/${model.manifest.version}`;
      other.replaceChildren(...["", ...served.filter((one) => one !== own)].map((value) => (
        element("option", { value, textContent: value.replace("/", " ") || "none" }))));
      choose();
    },
    /** Compare with the model that the page's address names, or with none. */
    choose() {
      choose();
      return compare();
    },
    /** Compare once more: the rows are others now. */
    compare,
  };
}
