/** The figures of a run that one looks at first. */

import { element } from "./elements.js";
import { number, percent } from "./numbers.js";

/** Tiles: name, value, and a note below it. */
export function tiles(facts) {
  return element(
    "dl",
    { class: "tiles" },
    ...facts.map(([name, value, note]) =>
      element(
        "div",
        {},
        element("dt", {}, name),
        element("dd", {}, value, ...(note ? [element("small", {}, note)] : [])),
      ),
    ),
  );
}

/** What a run's own rows say, as tiles. */
export function runFacts({ rows, step, steps, method }) {
  const last = (key) => rows.findLast((row) => row[key] !== undefined)?.[key];
  const first = (key) => rows.find((row) => row[key] !== undefined)?.[key];
  const facts = [["Step", steps ? `${number(step, 9)} of ${number(steps, 9)}` : number(step, 9), method]];
  const shares = [
    ["Accuracy", "eval/accuracy"],
    ["Reward", "rollout/reward"],
    ["Selected", "signal/selected_share"],
    ["Hint coverage", "hints/coverage"],
    ["Scoring wait", "scoring/wait_share"],
  ];
  for (const [name, key] of shares) {
    if (last(key) !== undefined) facts.push([name, percent(last(key)), `began at ${percent(first(key))}`]);
  }
  for (const [name, key] of [["Length", "rollout/length"], ["Entropy", "rollout/entropy"]]) {
    if (last(key) !== undefined) facts.push([name, number(last(key), 3), `began at ${number(first(key), 3)}`]);
  }
  return facts;
}

/**
 * What the queue knows of a run, as tiles.
 *
 * @param {?Object} queue as `/v1/runs/{run}`.
 * @param {?number} share of the teacher's tokens since the last look; null when nothing was scored.
 */
export function queueFacts(queue, share) {
  if (!queue) return [];
  const dead = queue.dead
    ? [["Put aside", number(queue.dead, 9), "failed too often: counterhint queue dead"]]
    : [];
  return [
    ["In the queue", number(queue.queued, 9), `${number(queue.claimed, 9)} at teachers`],
    ["Oldest job", `${number(queue.oldest_seconds ?? 0, 2)} s`, "waiting"],
    ["Share of the teacher", share === null ? "–" : percent(share), `weight ${number(queue.weight)}`],
    ["Tokens", number(queue.tokens, 4), `${number(queue.tokens_cached, 4)} spared by caches`],
    ...dead,
  ];
}
