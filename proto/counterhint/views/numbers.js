/** How numbers are written: a real minus sign, and a dash for what is missing. */

const MISSING = "–";

/** Up to `digits` significant digits. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return MISSING;
  const tiny = value !== 0 && Math.abs(value) < 1e-4;
  const text = tiny
    ? value.toExponential(Math.max(digits - 2, 0))
    : value.toLocaleString("en", { maximumSignificantDigits: digits });
  return text.replaceAll("-", "−");
}

/** As `number`, with a plus sign before what is above 0. */
export function signed(value, digits = 4) {
  return value > 0 ? `+${number(value, digits)}` : number(value, digits);
}

/** A share of 1 as per cent. */
export function percent(share) {
  if (share === null || share === undefined) return MISSING;
  const value = 100 * share;
  return `${value !== 0 && value < 0.1 ? "<0.1" : value.toFixed(value < 10 ? 1 : 0)}%`;
}

/** The mean of the numbers in a list; null without any. */
export function mean(values) {
  const found = values.filter((value) => value !== null && value !== undefined);
  return found.length ? found.reduce((sum, value) => sum + value, 0) / found.length : null;
}
