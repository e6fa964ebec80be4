/** The control that says which rows to call anomalous: by false calls, by a level, or so many. */

import { holdsNumber } from "../lib/elements.js";
import { probability } from "../lib/numbers.js";
import { atLevel, discoveries, rankOf, smallest, strangest, whyNone } from "../lib/thresholds.js";
import { strangerThan } from "./scores.js";

const count = (n) => n.toLocaleString("en");
const percent = (share) => `${Number((100 * share).toPrecision(6))} %`;

/** By name: what the number means, where it begins and ends, and who is called; without a label it is how many. */
const RULES = {
  fdr: { label: "False calls at most, %", first: 10, min: 0.1, max: 50, step: "any", judge: judgeRate },
  level: { label: "p-value at most, %", first: 1, min: 0.001, max: 50, step: "any", judge: judgeLevel },
  count: { first: 10, min: 1, max: 1e6, step: 1, judge: judgeCount },
};

/**
 * @param {HTMLElement} panel has a select `rule` and a number `limit` with its label.
 * @param {string} noun says what is called, one of them.
 * @param {() => void} changed is called when the user chooses another rule or number.
 */
export function callingRule(panel, noun, changed) {
  const choice = panel.querySelector("[name=rule]");
  const limit = panel.querySelector("[name=limit]");
  const limits = Object.fromEntries(Object.entries(RULES).map(([name, { first }]) => [name, first]));

  function offer() {
    const { label, min, max, step } = RULES[choice.value];
    panel.querySelector(".limit").textContent = label ?? `${noun[0].toUpperCase()}${noun.slice(1)}s`;
    Object.assign(limit, { min, max, step, value: limits[choice.value] });
    holdsNumber(limit);
  }

  choice.addEventListener("change", () => { offer(); changed(); });
  limit.addEventListener("input", () => {
    if (!holdsNumber(limit)) return;
    limits[choice.value] = Number(limit.value);
    changed();
  });
  offer();

  return {
    /** Which rows are called, and what to say of that; `answer` has `score` and `p_value` of all rows. */
    judge: (answer, heldOut) => RULES[choice.value].judge(answer, limits[choice.value], heldOut, noun),
  };
}

function judgeRate({ p_value: p }, limit, heldOut, noun) {
  const rate = Number((limit / 100).toPrecision(12));
  const called = discoveries(p, rate);
  const why = called.includes(true) ? `; on average at most ${percent(rate)} of such calls are wrong` : `: ${whyNone(p, rate, heldOut, noun)}`;
  return { called, verdict: `${inAll(called, noun)} called anomalous${why}.` };
}

function judgeLevel({ p_value: p }, limit, heldOut, noun) {
  const level = Number((limit / 100).toPrecision(12));
  const called = atLevel(p, level);
  const verdict = level < 1 / (heldOut + 1)
    ? `${smallest(heldOut, noun)}: a level of ${percent(level)} calls none`
    : `of as many usual ${noun}s about ${count(Math.round(level * p.length))} would be`;
  return { called, verdict: `${inAll(called, noun)} called anomalous; ${verdict}.` };
}

function judgeCount({ score, p_value: p }, limit, heldOut, noun) {
  const ranks = score.map((value, i) => rankOf(value, p[i]));
  const called = strangest(ranks, limit);
  const found = called.filter(Boolean).length;
  const last = ranks.reduce((least, rank, i) => (called[i] && (least === null || rank < ranks[least]) ? i : least), null);
  const others = last === null || p[last] === null ? "" : `; the last of them is stranger than ${strangerThan(p[last])} of held-out `
    + `${noun}s, p = ${probability(p[last])}`;
  return { called, verdict: `The ${found === 1 ? "strangest" : `${count(found)} strangest`} of ${count(p.length)} ${noun}s${others}.` };
}

function inAll(called, noun) {
  const found = called.filter(Boolean).length;
  return `${count(found)} of ${count(called.length)} ${called.length === 1 ? `${noun} is` : `${noun}s are`}`;
}
