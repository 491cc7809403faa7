/** The signal in few numbers: for all tokens and by token class. */

import { bar, element, table } from "./elements.js";
import { mean, number, percent } from "./numbers.js";

const ALL = "all";
const OTHER = "other";

/** The token classes of a response, `other` last; none where the reply has no classes. */
export function classNames(tokens) {
  const rank = (name) => (name === OTHER ? 1 : 0);
  return [...new Set(tokens.class ?? [])].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}

/**
 * Means of a response's signals over all tokens and over those of each class.
 *
 * @returns {{name: string, tokens: number, contrast: ?number, oneSided: ?number,
 *   selected: ?number}[]} mean |e_ctr|, mean |e_c| and the share that the gate selects; the first
 *   entry is of all tokens. Null where the response has no such numbers.
 */
export function summarise(tokens) {
  const names = [ALL, ...classNames(tokens)];
  return names.map((name) => {
    const own = (values) =>
      (values ?? []).filter((_, index) => name === ALL || tokens.class[index] === name);
    const sizes = (values) => own(values).map((value) => (value === null ? null : Math.abs(value)));
    return {
      name,
      tokens: own(tokens.id).length,
      contrast: mean(sizes(tokens.e_ctr)),
      oneSided: mean(sizes(tokens.e_c)),
      selected: mean(own(tokens.selected).map((one) => (one === null ? null : Number(one)))),
    };
  });
}

/** The figures of a response as a table. */
export function summary(tokens) {
  const rows = summarise(tokens);
  const largest = Math.max(...rows.flatMap(({ contrast, oneSided }) => [contrast, oneSided]), 1e-12);
  const size = (value) => bar(number(value, 3), (value ?? 0) / largest);
  return element(
    "div",
    { class: "summary" },
    table(
      "Mean size of the signals by token class, in nats",
      ["class", "tokens", "mean |e_ctr|", "mean |e_c|", "selected"],
      rows.map((row) => [
        row.name,
        number(row.tokens, 9),
        size(row.contrast),
        size(row.oneSided),
        bar(percent(row.selected), row.selected ?? 0),
      ]),
    ),
  );
}
