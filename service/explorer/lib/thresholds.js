/** Which rows to call anomalous, by rules that people use, and why none is called. Knows no endpoint. */

/** A p-value may exceed its limit by this factor: 0.1 · 43 / 43 is less than 0.1 in floating point. */
const ROUNDING = 1 + 1e-12;

/**
 * Rows called at a false-discovery rate, true or false each: Benjamini and Hochberg's rule, as the service applies it to a
 * request. The page applies it to all rows of a file, which take several requests. A row without a p-value (null) is no row.
 */
export function discoveries(pValues, rate) {
  const ascending = pValues.filter((p) => p !== null).sort((a, b) => a - b);
  const last = ascending.findLastIndex((p, i) => p <= (rate * ROUNDING * (i + 1)) / ascending.length);
  return pValues.map((p) => p !== null && last >= 0 && p <= ascending[last]);
}

/** Why `discoveries` calls no row, in the words of the service; `noun` is what a row is. */
export function whyNone(pValues, rate, heldOut, noun = "row") {
  const rows = pValues.filter((p) => p !== null).length;
  if (!rows) return `no ${noun} has a p-value`;
  const needed = Math.ceil((rows * (1 / (heldOut + 1))) / (rate * ROUNDING));
  if (needed > rows) return `${smallest(heldOut, noun)}; at q = ${rate} no ${noun} can be called: it takes a larger q or more held-out ${noun}s`;
  const found = pValues.filter((p) => p !== null && p <= 1 / (heldOut + 1)).length;
  const count = (n) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
  return `${smallest(heldOut, noun)}; at q = ${rate} and ${count(rows)} at least ${count(needed)} must be that strange, `
    + `and ${found.toLocaleString("en")} ${found === 1 ? "is" : "are"}`;
}

/** What so many held-out rows allow. */
export function smallest(heldOut, noun) {
  const least = (1 / (heldOut + 1)).toLocaleString("en", { maximumSignificantDigits: 2 });
  return `with ${heldOut.toLocaleString("en")} held-out ${noun}s no p-value is below ${least}`;
}

/** Rows called at a level: those with a p-value of at most `level`. */
export function atLevel(pValues, level) {
  return pValues.map((p) => p !== null && p <= level);
}

/** The `count` rows of the highest ranks, without those whose rank is null. */
export function strangest(ranks, count) {
  const order = ranks.map((_, i) => i).filter((i) => ranks[i] !== null).sort((a, b) => ranks[b] - ranks[a] || a - b);
  const called = new Set(order.slice(0, count));
  return ranks.map((_, i) => called.has(i));
}

/** How strange a row is: its score, which is infinite where the row is too far for one; null where it has none. */
export function rankOf(score, p) {
  return score ?? (p === null ? null : Infinity);
}

/**
 * The lowest threshold at which so large a share of the called rows are anomalies, of `{rank, anomalous}` of labelled rows:
 * `{score, hits, called}`, or null. The command `lowerbound threshold` finds the same.
 */
export function lowestThreshold(labelled, precision) {
  const descending = labelled.toSorted((a, b) => b.rank - a.rank);
  let best = null;
  let hits = 0;
  descending.forEach(({ rank, anomalous }, i) => {
    hits += anomalous;
    const last = descending[i + 1]?.rank !== rank; // Rows of equal scores are called together.
    if (last && hits / (i + 1) >= precision && hits > (best?.hits ?? 0)) best = { score: rank, hits, called: i + 1 };
  });
  return best;
}
