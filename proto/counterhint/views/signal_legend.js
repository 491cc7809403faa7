/** The colour scale with its numbers. */

import { element } from "./elements.js";
import { number, signed } from "./numbers.js";

const TICKS = [-1, -0.5, 0, 0.5, 1];

/**
 * The legend of a scale.
 *
 * @param {string} name of the signal.
 * @param {SignalScale} scale
 */
export function legend(name, scale) {
  const ticks = TICKS.map((share) => {
    const value = scale.value(share);
    const text = share === 0 ? "0" : signed(value, 2);
    const beyond = { [-1]: "≤ ", 1: "≥ " }[share] ?? "";
    return element("span", {}, scale.limit ? beyond + text : "");
  });
  const words = scale.limit
    ? `${name} in nats, from ${number(-scale.limit, 2)} (orange) over 0 to ` +
      `${signed(scale.limit, 2)} (blue), ${scale.log ? "symmetric logarithm" : "linear"}`
    : `${name}: no numbers`;
  return element(
    "div",
    { class: "legend", role: "img", "aria-label": words },
    element("div", { class: "ramp" }),
    element("div", { class: "ticks" }, ...ticks),
  );
}
