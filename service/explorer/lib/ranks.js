/** Ranks, and how far two orders agree. */

/** Places from 1, of the largest value first; equal values share the mean of their places. */
export function places(values) {
  const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a] || (values[b] > values[a]) - (values[b] < values[a]));
  const found = new Array(values.length);
  for (let start = 0; start < order.length;) {
    let stop = start + 1;
    while (stop < order.length && values[order[stop]] === values[order[start]]) stop += 1;
    for (let i = start; i < stop; i++) found[order[i]] = (start + stop + 1) / 2;
    start = stop;
  }
  return found;
}

/** The correlation of two lists of numbers; of their `places` it is Spearman's. NaN where one is constant. */
export function correlation(a, b) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [middleA, middleB] = [mean(a), mean(b)];
  const sum = (term) => a.reduce((total, _, i) => total + term(a[i] - middleA, b[i] - middleB), 0);
  return sum((x, y) => x * y) / Math.sqrt(sum((x) => x * x) * sum((_, y) => y * y));
}
