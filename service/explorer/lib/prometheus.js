/** Prometheus's text format, and what the page reads of it: how much is asked of the service, and how fast it answers. */

const SAMPLE = /^([a-z_]+)(?:\{(.*)\})? ([^ ]+)/;
const LABEL = /([a-z_]+)="([^"]*)"/g;
/** Routes that watch or show the service, rather than use a model. */
const NO_USE = /^$|^\/$|^\/metrics$|^\/explorer\/|^\/health\/|^\/models?$|\/model(\/card)?$/;

/** The counters at one moment. */
export function read(text, time) {
  const now = { time, requests: 0, rowDraws: 0, buckets: new Map() };
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = SAMPLE.exec(line) ?? [];
    if (!name) continue;
    const given = Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, text]) => [key, text]));
    if (name === "lowerbound_row_draws_total") now.rowDraws += Number(value);
    if (NO_USE.test(given.route ?? "")) continue;
    if (name === "lowerbound_http_request_duration_seconds_count") now.requests += Number(value);
    if (name === "lowerbound_http_request_duration_seconds_bucket") {
      const most = given.le === "+Inf" ? Infinity : Number(given.le);
      now.buckets.set(most, (now.buckets.get(most) ?? 0) + Number(value));
    }
  }
  return now;
}

/** Rates and latencies between two moments: per second, and in seconds (null where nothing was asked). */
export function between(before, now) {
  const seconds = (now.time - before.time) / 1000;
  const edges = [...now.buckets].sort(([a], [b]) => a - b).map(([most, count]) => [most, count - (before.buckets.get(most) ?? 0)]);
  return {
    requests: (now.requests - before.requests) / seconds,
    rowDraws: (now.rowDraws - before.rowDraws) / seconds,
    median: quantile(edges, 0.5),
    slowest: quantile(edges, 0.99),
  };
}

/** As Prometheus's `histogram_quantile`: in a straight line between a bucket's ends. */
function quantile(edges, share) {
  const total = edges.at(-1)?.[1] ?? 0;
  if (!total) return null;
  const i = edges.findIndex(([, count]) => count >= share * total);
  const [least, below] = i > 0 ? edges[i - 1] : [0, 0];
  const [most, count] = edges[i];
  return most === Infinity ? least : least + ((most - least) * (share * total - below)) / (count - below);
}
