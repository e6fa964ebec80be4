/** Numbers as text. */

const MINUS = "\u2212";

/** With so many digits after the point, and a true minus sign. */
export function fixed(value, digits = 1) {
  if (value == null || Number.isNaN(value)) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", MINUS);
}

/** With so many significant digits, at most. */
export function short(value, digits = 4) {
  if (value == null || Number.isNaN(value)) return "–";
  return value.toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", MINUS);
}

/** A p-value: never rounded to nothing. */
export function probability(value) {
  return value < 0.1 ? short(value, 2) : fixed(value, 3);
}

/** A name of a manifest, as words. */
export function words(name) {
  return name.replaceAll("_", " ");
}
