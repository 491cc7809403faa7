/** A small line chart over steps: one drawing for a live run, a report and a comparison of runs. */

import { drawing, element } from "./elements.js";
import { number } from "./numbers.js";

const WIDTH = 340;
const HEIGHT = 170;
const LEFT = 46;
const RIGHT = WIDTH - 10;
const TOP = 10;
const BOTTOM = HEIGHT - 24;
/** Points from which on a line gets a moving average drawn over it. */
const SMOOTHED_FROM = 30;
const TICKS = 4;

/** Values that an axis from `low` to `high` is labelled with; they enclose both. */
export function ticks(low, high) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.floor(low / step);
  const last = Math.max(Math.ceil(high / step), first + 1);
  return Array.from({ length: last - first + 1 }, (_, place) =>
    Number(((first + place) * step).toPrecision(12)),
  );
}

/** Means over a window that grows with the line, each at its last step. */
export function movingAverage(points) {
  const window = Math.max(2, Math.round(points.length / 15));
  return points.map(([step], index) => {
    const part = points.slice(Math.max(0, index - window + 1), index + 1);
    return [step, part.reduce((sum, [, value]) => sum + value, 0) / part.length];
  });
}

export class LineChart {
  /**
   * @param {Object} options
   * @param {string} options.title
   * @param {string} options.note what it shows, in a few words.
   * @param {boolean} options.fromZero whether the axis begins at 0; else it spans the values.
   */
  constructor({ title, note, fromZero = true }) {
    this.fromZero = fromZero;
    this.title = title;
    this.legend = element("span", { class: "legend" });
    this.readout = element("output", { "aria-live": "off" });
    this.drawing = drawing("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.element = element(
      "figure",
      { class: "chart", tabindex: 0 },
      element("figcaption", {}, element("strong", {}, title), element("small", {}, note), this.legend),
      this.readout,
      this.drawing,
    );
    this.#listen();
  }

  /**
   * Draws.
   *
   * @param {{label: string, colour: number, dashed: boolean, points: number[][]}[]} series each
   *   point is a step, a value and perhaps its standard error; with errors it is drawn as dots.
   */
  show(series) {
    this.series = series.filter(({ points }) => points.length > 0);
    const values = this.series.flatMap(({ points }) =>
      points.flatMap(([, value, error = 0]) => [value - error, value + error]),
    );
    const low = Math.min(...values, ...(this.fromZero ? [0] : []));
    this.places = ticks(low, Math.max(...values));
    this.lastStep = Math.max(1, ...this.series.map(({ points }) => points.at(-1)[0]));
    this.cursor = drawing("g", { class: "cursor" });
    this.drawing.setAttribute("aria-label", `${this.title} over steps: ${this.#latest()}`);
    this.drawing.replaceChildren(
      ...this.#axes(),
      ...this.series.flatMap((one) => this.#course(one)),
      this.cursor,
    );
    const several = this.series.length > 1;
    this.legend.replaceChildren(
      ...(several ? this.series : []).map(({ label, colour, dashed }) =>
        element("span", { class: `key s${colour}${dashed ? " dashed" : ""}` }, label),
      ),
    );
    this.point(null);
  }

  /** Shows the values at a step; null for the latest. */
  point(step) {
    this.step = step;
    this.readout.textContent = step === null ? this.#latest() : this.#at(step);
    this.cursor.replaceChildren(
      ...(step === null
        ? []
        : [drawing("line", { x1: this.#x(step), x2: this.#x(step), y1: TOP, y2: BOTTOM })]),
    );
  }

  #x(step) {
    return LEFT + ((RIGHT - LEFT) * step) / this.lastStep;
  }

  #y(value) {
    const [low, high] = [this.places[0], this.places.at(-1)];
    return BOTTOM - ((BOTTOM - TOP) * (value - low)) / (high - low);
  }

  #axes() {
    const rows = this.places.map((value) => {
      const y = this.#y(value);
      return drawing(
        "g",
        { class: "tick" },
        drawing("line", { x1: LEFT, x2: RIGHT, y1: y, y2: y }),
        drawing("text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, number(value)),
      );
    });
    const steps = [0, this.lastStep].map((step) =>
      drawing(
        "text",
        { class: "tick", x: this.#x(step), y: HEIGHT - 8, "text-anchor": step ? "end" : "start" },
        step ? `step ${number(step, 9)}` : "0",
      ),
    );
    return [...rows, ...steps];
  }

  #course({ points, colour, dashed }) {
    const kind = `s${colour}${dashed ? " dashed" : ""}`;
    if (points.length === 1 || points.some((point) => point.length > 2)) {
      return [this.#line(points, `raw ${kind}`), ...points.map((point) => this.#dot(point, kind))];
    }
    if (points.length < SMOOTHED_FROM) return [this.#line(points, kind)];
    return [this.#line(points, `raw ${kind}`), this.#line(movingAverage(points), kind)];
  }

  #line(points, kind) {
    const places = points.map(
      ([step, value]) => `${this.#x(step).toFixed(1)},${this.#y(value).toFixed(1)}`,
    );
    return drawing("polyline", { class: `line ${kind}`, points: places.join(" ") });
  }

  #dot([step, value, error = 0], kind) {
    const x = this.#x(step);
    return drawing(
      "g",
      { class: `dot ${kind}` },
      drawing("line", { x1: x, x2: x, y1: this.#y(value - error), y2: this.#y(value + error) }),
      drawing("circle", { cx: x, cy: this.#y(value), r: 3 }),
    );
  }

  #latest() {
    return this.#words(this.series.map((one) => [one, one.points.at(-1)]));
  }

  #at(step) {
    const found = this.series.map((one) => [one, one.points.find(([at]) => at === step)]);
    return `step ${number(step, 9)}: ${this.#words(found.filter(([, point]) => point))}`;
  }

  #words(found) {
    return found
      .map(([{ label }, [, value, error]]) =>
        [label, number(value), ...(error ? [`± ${number(error, 2)}`] : [])].join(" "),
      )
      .join(" · ");
  }

  #steps() {
    const steps = new Set(this.series.flatMap(({ points }) => points.map(([step]) => step)));
    return [...steps].sort((a, b) => a - b);
  }

  #listen() {
    this.drawing.addEventListener("pointermove", (event) => {
      const { left, width } = this.drawing.getBoundingClientRect();
      const x = ((event.clientX - left) / width) * WIDTH;
      const wanted = ((x - LEFT) / (RIGHT - LEFT)) * this.lastStep;
      const nearest = this.#steps().reduce((best, step) =>
        Math.abs(step - wanted) < Math.abs(best - wanted) ? step : best,
      );
      this.point(nearest);
    });
    this.drawing.addEventListener("pointerleave", () => this.point(null));
    this.element.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") this.point(null);
      if (!move) return;
      event.preventDefault();
      const steps = this.#steps();
      const at = this.step === null ? (move > 0 ? -1 : steps.length) : steps.indexOf(this.step);
      this.point(steps[Math.min(Math.max(at + move, 0), steps.length - 1)]);
    });
  }
}
