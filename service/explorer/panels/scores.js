/** The scores that a model can be asked for, and what they and their p-values say in words. */

import { element } from "../lib/elements.js";
import { probability, words } from "../lib/numbers.js";

const MEANINGS = {
  negative_elbo: "minus the evidence lower bound: how improbable the model finds it",
  negative_log_evidence: "minus the importance-weighted bound, which is tighter",
  regret: "what refinement gains: how far the encoder was off",
  typicality: "how unusual its reconstruction, likelihood and latents are together",
  multiscale_residual: "the reconstruction's error over windows, in which noise averages out",
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

/** What a p-value says, of things of that name. */
export function inWords(pValue, { rows }, things) {
  if (Number.isNaN(pValue) || pValue == null) return "This score has no valid p-value here.";
  const asStrange = Math.round(pValue * (rows + 1)) - 1;
  const count = `${asStrange === 0 ? "None" : asStrange.toLocaleString("en")} of ${rows.toLocaleString("en")}`;
  return `${count} held-out ${things} ${asStrange === 1 ? "is" : "are"} at least as strange: p = ${probability(pValue)}.`;
}
