/** How a signal is spread over the tokens of each class: a small histogram a class, one axis. */

import { drawing, element, table } from "./elements.js";
import { number, percent, signed } from "./numbers.js";
import { colour } from "./signal_scale.js";

const BINS = 41;
const WIDTH = 410;
const ROW = 46;
const LABELS = 14;
const AXIS = 18;

/** Which bin a share of the scale (−1 to 1) falls into; the middle one is centred at 0. */
export function binOf(share) {
  return Math.min(Math.floor(((share + 1) / 2) * BINS), BINS - 1);
}

function counts(values, scale) {
  const found = new Array(BINS).fill(0);
  for (const value of values) found[binOf(scale.share(value))] += 1;
  return found;
}

/**
 * The histograms of a signal, with the same numbers as a table that can be opened.
 *
 * @param {string} name of the signal.
 * @param {Object<string, number[]>} byClass the signal's numbers by token class.
 * @param {SignalScale} scale of the colours: its axis is that of the histograms.
 */
export function histogram(name, byClass, scale) {
  const rows = Object.entries(byClass)
    .filter(([, values]) => values.length)
    .map(([kind, values]) => ({ kind, total: values.length, bins: counts(values, scale) }));
  const height = rows.length * ROW + AXIS;
  const words = rows.map(({ kind, total }) => `${kind}, ${total} tokens`).join("; ");
  const picture = drawing("svg", {
    viewBox: `0 0 ${WIDTH} ${height}`,
    role: "img",
    "aria-label": `Histogram of ${name} by token class: ${words}. The table below has the numbers.`,
  });
  rows.forEach((row, place) => drawRow(picture, row, place * ROW));
  drawAxis(picture, scale, height);
  return element(
    "figure",
    { class: "histogram" },
    element("figcaption", {}, element("b", {}, name), " by token class, in nats"),
    picture,
    element("details", {}, element("summary", {}, `Numbers of ${name}`), numbers(name, rows, scale)),
  );
}

function drawRow(picture, { kind, total, bins }, top) {
  const base = top + ROW;
  const highest = Math.max(...bins);
  const room = ROW - LABELS - 4;
  const step = WIDTH / BINS;
  bins.forEach((count, bin) => {
    if (count === 0) return;
    const tall = Math.max((count / highest) * room, 1);
    const box = drawing("rect", {
      class: "bin",
      x: (bin * step + 0.75).toFixed(2),
      y: (base - tall).toFixed(2),
      width: (step - 1.5).toFixed(2),
      height: tall.toFixed(2),
    });
    colour(box, ((bin + 0.5) / BINS) * 2 - 1);
    picture.append(box);
  });
  picture.append(
    drawing("line", { class: "base", x1: 0, x2: WIDTH, y1: base, y2: base }),
    drawing("text", { class: "label", x: 0, y: top + LABELS }, kind),
    drawing(
      "text",
      { class: "note", x: WIDTH, y: top + LABELS, "text-anchor": "end" },
      `${number(total, 9)} tokens, tallest bar ${percent(highest / total)}`,
    ),
  );
}

function drawAxis(picture, scale, height) {
  const ticks = [
    [-1, "start"],
    [-0.5, "middle"],
    [0, "middle"],
    [0.5, "middle"],
    [1, "end"],
  ];
  for (const [share, anchor] of ticks) {
    const text = share === 0 ? "0" : signed(scale.value(share), 2);
    const x = ((share + 1) / 2) * WIDTH;
    picture.append(
      drawing("text", { class: "note", x, y: height - 4, "text-anchor": anchor }, text),
    );
  }
}

function numbers(name, rows, scale) {
  const used = [...Array(BINS).keys()].filter((bin) => rows.some(({ bins }) => bins[bin]));
  const edge = (bin) => signed(scale.value((bin / BINS) * 2 - 1), 2);
  const range = (bin) => {
    if (bin === 0) return `below ${edge(1)}`;
    if (bin === BINS - 1) return `above ${edge(BINS - 1)}`;
    return `${edge(bin)} to ${edge(bin + 1)}`;
  };
  return table(
    `Tokens by ${name}`,
    [name, ...rows.map(({ kind }) => kind)],
    used.map((bin) => [range(bin), ...rows.map(({ bins }) => String(bins[bin]))]),
  );
}
