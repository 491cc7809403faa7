/** What a run measures, as small charts; several runs are drawn over one another. */

import { element } from "./elements.js";
import { LineChart } from "./line_chart.js";

/**
 * The charts: title, note, lines (key in metrics.jsonl, label, key of the standard error), whether
 * the axis begins at 0. Those that no run has figures for are left out.
 */
export const CHARTS = [
  ["Held-out accuracy", "sampled answers, ± 1 standard error", [["eval/accuracy", "accuracy", "eval/stderr"]], false],
  ["Reward", "share of sampled rollouts that are right", [["rollout/reward", "reward"]]],
  ["Response length", "tokens per rollout", [["rollout/length", "tokens"]], false],
  ["Entropy", "nats per token", [["rollout/entropy", "nats"]]],
  ["Selected tokens", "share whose advantage the signal changes", [["signal/selected_share", "selected"]]],
  ["Hint coverage", "share of rollouts with hints on both sides", [["hints/coverage", "coverage"]]],
  ["Scoring wait", "share of the step that waited for scores", [["scoring/wait_share", "waiting"]]],
  ["Size of the signals", "mean per token", [["signal/contrast_abs", "|e_ctr|"], ["signal/one_sided_abs", "|e_c|"]]],
  ["Contrast by token class", "mean |e_ctr| per token", [["signal/contrast_abs/task", "task"], ["signal/contrast_abs/style", "style"]]],
  ["One-sided by token class", "mean |e_c| per token", [["signal/one_sided_abs/task", "task"], ["signal/one_sided_abs/style", "style"]]],
  ["Style’s share of the signals", "of the sum over all tokens", [["signal/contrast_share/style", "|e_ctr|"], ["signal/one_sided_share/style", "|e_c|"]]],
  ["Right from wrong", "AUC of the signals; 0.5 is chance", [["signal/auc_contrast", "e_ctr"], ["signal/auc_one_sided", "e_c"]], false],
  ["Mixed groups", "share of groups with right and wrong rollouts", [["rollout/mixed_groups", "mixed"]]],
  ["Length by outcome", "tokens per rollout", [["rollout/length_right", "right"], ["rollout/length_wrong", "wrong"]], false],
  ["Truncated", "share of rollouts at the length limit", [["rollout/truncated_share", "truncated"]]],
  ["Drift", "as multiples of the first step’s", [["drift/length", "length"], ["drift/entropy", "entropy"]], false],
  ["KL to the start", "nats per token from the first weights", [["drift/kl_to_start", "nats"]]],
  ["Gradient norm", "before clipping", [["optim/grad_norm", "norm"]]],
  ["Clipped tokens", "share whose ratio left the clip range", [["optim/clip_fraction", "clipped"]]],
  ["Staleness", "steps between sampling and learning weights", [["staleness/mean", "mean"], ["staleness/max", "largest"]]],
  ["Importance weights", "share cut to the threshold or masked", [["importance/changed_share", "changed"]]],
  ["Shortened hints", "share cut to fit the teacher’s context", [["hints/cut_share", "shortened"]]],
  ["Throughput", "response tokens per second", [["time/tokens_per_second", "tokens/s"]]],
  ["GPU utilisation", "model FLOPs over the GPUs’ peak", [["time/mfu", "utilisation"]]],
  ["Step time", "seconds per step", [["time/step_seconds", "seconds"]]],
];

export class RunCharts {
  /** @param {Element} root is filled with the charts. */
  constructor(root) {
    this.root = root;
    root.classList.add("charts");
    this.charts = CHARTS.map(([title, note, lines, fromZero]) => ({
      lines,
      chart: new LineChart({ title, note, fromZero }),
    }));
  }

  /**
   * Draws the figures of runs.
   *
   * @param {{name: string, rows: Object[], colour: ?number}[]} runs `rows` are those of
   *   metrics.jsonl. A run with a colour has all its lines in it; without, each line has its own.
   */
  show(runs) {
    const drawn = this.charts.filter(({ lines, chart }) => {
      const series = runs.flatMap((run) => seriesOf(run, lines));
      const found = series.some(({ points }) => points.some(([, value]) => value !== 0));
      if (found) chart.show(series);
      return found;
    });
    const shown = drawn.map(({ chart }) => chart.element);
    if (shown.length !== this.root.children.length || shown.some((one, at) => this.root.children[at] !== one)) {
      this.root.replaceChildren(...shown);
    }
    if (!shown.length) this.root.replaceChildren(element("p", {}, "No figures."));
  }
}

/** A run's lines of one chart. */
function seriesOf({ name, rows, colour = null }, lines) {
  const own = colour !== null;
  return lines.map(([key, label, errorKey], line) => ({
    label: own ? (lines.length > 1 ? `${name}: ${label}` : name) : label,
    colour: own ? colour : line,
    dashed: own && line > 0,
    points: rows
      .filter((row) => row[key] !== undefined)
      .map((row) => [row.step, row[key], ...(errorKey && row[errorKey] !== undefined ? [row[errorKey]] : [])]),
  }));
}
