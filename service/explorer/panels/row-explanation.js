/** What a row opens into: which of its cells are strange, and what the model expected there. */

import { bar } from "../lib/charts.js";
import { element } from "../lib/elements.js";
import { fixed, short } from "../lib/numbers.js";
import { pValueInWords, strangerThan } from "./scores.js";

/** Ask the model about one record; `shown` are its values. */
export async function explanation(model, record, shown, score) {
  if (!model.has("explain")) return element("p", { textContent: "This bundle has no graph that explains its bounds." });
  const answer = await model.elboOfRows([record], { score, explain: true });
  if (answer.score[0] == null) return element("p", { textContent: `Not scored: ${answer.problem[0]}.` });
  const [surprise, expected] = [answer.feature_surprise[0], answer.feature_expected[0]];
  const ranked = model.input.columns.map(({ name }) => name).sort((a, b) => surprise[b] - surprise[a]);
  const most = surprise[ranked[0]];
  const cell = (value) => (value == null ? "missing" : typeof value === "number" ? short(value) : String(value));
  const sources = new Map(model.input.columns.map(({ name, derived }) => [name, derived?.source]));
  const rows = ranked.map((name) => element("tr", {},
    element("th", { scope: "row", textContent: name }),
    element("td", { textContent: sources.get(name) ? `from ${sources.get(name)}` : cell(shown[name]) }),
    element("td", { textContent: cell(expected[name]) }),
    element("td", {}, bar(surprise[name], most)),
    element("td", { className: "number", textContent: fixed(surprise[name], 2) })));
  const head = ["Column", "Sent", "Expected", "Surprise"].map((title) => element("th", { scope: "col", textContent: title }));
  head.push(element("th", { scope: "col", className: "number", textContent: "nats" }));
  const table = element("table", { className: "cells" },
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  const p = answer.p_value[0];
  const lead = p == null ? "It cannot be compared with held-out rows." : `Stranger than ${strangerThan(p)} of held-out rows.`;
  const bounds = `${pValueInWords(p)} ELBO ${fixed(answer.elbo[0])} = log-likelihood ${fixed(answer.log_likelihood[0])} \u2212 KL ${fixed(answer.kl[0])}. `
    + "Surprise is what the ELBO would gain if this cell alone were as expected, given the others.";
  return element("div", { className: "explanation" },
    element("p", { className: "lead-words", textContent: lead }), table,
    element("details", {}, element("summary", { textContent: "In numbers" }), element("p", { className: "small", textContent: bounds })));
}
