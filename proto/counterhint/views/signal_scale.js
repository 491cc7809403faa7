/**
 * From a signal in nats to a place on the diverging colour scale, which is centred at 0.
 *
 * Linear: share = v / limit, where limit is the 98th percentile of |v|, so that single extremes do
 * not wash out the rest. Symmetric logarithm: share = sign(v) · ln(1 + |v|/c) / ln(1 + limit/c),
 * where limit is the largest |v| and c = limit / 100. Shares are kept within −1 and 1; the colour
 * is the paper's at 0 and goes linearly in sRGB to the end's colour at ±1.
 */

const PERCENTILE = 0.98;
const LINEAR_PART = 100;

/** The limits of a signal: `linear` and `log`, both null where no token has a number. */
export function signalLimits(values) {
  const sizes = values.filter((value) => value !== null).map(Math.abs);
  if (sizes.length === 0) return { linear: null, log: null };
  sizes.sort((a, b) => a - b);
  const largest = sizes.at(-1);
  const robust = sizes[Math.ceil(PERCENTILE * sizes.length) - 1];
  return { linear: robust || largest, log: largest };
}

export class SignalScale {
  /**
   * @param {?number} limit the |signal| of full colour; null or 0 leaves all tokens uncoloured.
   * @param {boolean} log whether the scale is the symmetric logarithm.
   */
  constructor(limit, log) {
    this.limit = limit;
    this.log = log;
  }

  /** Where a value stands, −1 to 1. */
  share(value) {
    if (!this.limit) return 0;
    const c = this.limit / LINEAR_PART;
    const size = this.log
      ? Math.log1p(Math.abs(value) / c) / Math.log1p(LINEAR_PART)
      : Math.abs(value) / this.limit;
    return Math.sign(value) * Math.min(size, 1);
  }

  /** The value at a place of the scale: the inverse of `share`. */
  value(share) {
    if (!this.limit) return 0;
    const size = this.log
      ? (this.limit / LINEAR_PART) * Math.expm1(Math.abs(share) * Math.log1p(LINEAR_PART))
      : this.limit * Math.abs(share);
    return Math.sign(share) * size;
  }
}

/** Colours an element by a place on the scale; the colours themselves are in the style sheet. */
export function colour(target, share) {
  target.classList.toggle("negative", share < 0);
  target.classList.toggle("positive", share > 0);
  target.style.setProperty("--share", `${(100 * Math.abs(share)).toFixed(1)}%`);
}
