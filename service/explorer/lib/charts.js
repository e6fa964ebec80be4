/** Charts in SVG. Knows nothing of models. */

import { drawing } from "./elements.js";
import { short } from "./numbers.js";

const NARROWEST = 260;
const HEIGHT = 158;
const FLOOR = 118;
const BINS = 48;

/**
 * How values are distributed, from their percentiles 0 to 100, and where one value lies among them.
 *
 * Of the held-out values all but some of the outermost are shown; a value further out is marked at the edge.
 */
export function distribution(svg, percentiles, value, label) {
  const width = Math.max(svg.getBoundingClientRect().width, NARROWEST);  // One unit is one pixel: text keeps its size.
  const spread = percentiles[99] - percentiles[1] || 1;
  const low = percentiles[1] - spread / 4;
  const high = percentiles[99] + spread / 2;
  const at = (number) => ((number - low) / (high - low)) * width;
  const edges = Array.from({ length: BINS + 1 }, (_, i) => low + ((high - low) * i) / BINS);
  const below = edges.map((edge) => share(percentiles, edge));
  const shares = below.slice(1).map((upper, i) => upper - below[i]);
  const tallest = Math.max(...shares);
  const bars = shares.map((part, i) => drawing("rect", {
    x: (i * width) / BINS + 0.5, width: width / BINS - 1, y: FLOOR - (92 * part) / tallest, height: (92 * part) / tallest,
    class: edges[i] >= value ? "bar above" : "bar",
  }));
  const place = Math.min(Math.max(at(value), 2), width - 2);
  const far = value > high ? " →" : value < low ? "← " : "";
  const anchor = place > width * 0.7 ? "end" : place < width * 0.3 ? "start" : "middle";
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("aria-label", label);
  svg.replaceChildren(
    ...bars,
    drawing("line", { x1: 0, x2: width, y1: FLOOR, y2: FLOOR, class: "axis" }),
    drawing("line", { x1: place, x2: place, y1: 20, y2: FLOOR + 5, class: "mark" }),
    drawing("text", { x: place, y: 13, "text-anchor": anchor, class: "marked" }, far === "← " ? far + short(value) : short(value) + far),
    // The outer ones stand outwards: of a skewed score they would cover the median.
    ...[[1, "1 %", "end"], [50, "median", "middle"], [99, "99 %", "start"]].flatMap(([percent, name, side]) => [short(percentiles[percent]), name].map(
      (text, i) => drawing("text", { x: at(percentiles[percent]), y: FLOOR + 20 + 15 * i, "text-anchor": side }, text),
    )),
  );
}

/** A line through the newest values, the last at the right end. */
export function trace(svg, values, slots) {
  const most = Math.max(...values, 1e-9);
  const points = values.map((value, i) => {
    const x = ((slots - values.length + i) / (slots - 1)) * 200;
    return `${x.toFixed(1)},${(38 - (34 * value) / most).toFixed(1)}`;
  });
  svg.setAttribute("viewBox", "0 0 200 40");
  svg.replaceChildren(drawing("polyline", { points: points.join(" "), class: "trace" }));
}

/** A horizontal bar for a part of the largest. */
export function bar(value, most) {
  const width = most > 0 ? Math.max(0, (100 * value) / most) : 0;
  return drawing("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", class: "contribution", "aria-hidden": "true" },
    drawing("rect", { width, height: 8 }));
}

/** The share of values below a number, between percentiles in a straight line. */
function share(percentiles, number) {
  if (number <= percentiles[0]) return 0;
  const above = percentiles.findIndex((percentile) => percentile >= number);
  if (above < 0) return 1;
  const [from, to] = [percentiles[above - 1], percentiles[above]];
  return (above - 1 + (number - from) / (to - from)) / 100;
}
