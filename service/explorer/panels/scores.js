/** The scores that a model can be asked for, and what they and their p-values say in words. */

import { element } from "../lib/elements.js";
import { fixed, probability, words } from "../lib/numbers.js";

const MEANINGS = {
  negative_elbo: "minus the evidence lower bound: how improbable the model finds it",
  negative_log_evidence: "minus the importance-weighted bound, which is tighter",
  regret: "what refinement gains: how far the encoder was off",
  typicality: "how unusual its reconstruction, likelihood and latents are together",
  multiscale_residual: "the reconstruction's error over windows, beside what is usual there and in pictures as rough",
};

/** Offer a model's calibrated scores, its default first. */
export function offerScores(panel, { scores, default_score: first }) {
  const select = panel.querySelector("[name=score]");
  const names = [first, ...scores.filter((name) => name !== first)];
  select.replaceChildren(...names.map((name) => element("option", { value: name, textContent: words(name) })));
  explainScore(panel);
}

/** Say what the chosen score is. */
export function explainScore(panel) {
  panel.querySelector(".meaning").textContent = `Larger is stranger: ${MEANINGS[panel.querySelector("[name=score]").value]}.`;
}

/** The share of held-out rows that are less strange, of a p-value, in per cent and never rounded up; of none a dash. */
export function strangerThan(p) {
  if (p == null || Number.isNaN(p)) return "–";
  const digits = Math.min(Math.max(Math.ceil(-Math.log10(p)) - 1, 1), 4);
  const factor = 10 ** (digits + 2);
  return `${fixed(Math.floor(factor * (1 - p) + 1e-9) / 10 ** digits, digits)} %`;
}

/** What a picture's p-value says. */
export function inWords(p, { rows }) {
  if (Number.isNaN(p) || p == null) return "This score has no valid p-value here.";
  const less = Math.round((1 - p) * (rows + 1));
  const count = less === rows ? "all" : less === 0 ? "none of" : `${less.toLocaleString("en")} of`;
  return `Stranger than ${count} ${rows.toLocaleString("en")} held-out pictures.`;
}

/** A p-value as a reader of statistics writes it. */
export function pValueInWords(p) {
  return p == null || Number.isNaN(p) ? "No p-value." : `p = ${probability(p)}.`;
}
