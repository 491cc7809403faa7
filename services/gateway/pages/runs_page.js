/** The page with all runs: those whose folders are shown, and others that the queue knows. */

import { Access } from "./access.js";
import { element, table } from "./elements.js";
import { number, percent } from "./numbers.js";
import { poll } from "./polling.js";
import { read, root } from "./scoring_api.js";

const EVERY_MS = 5000;
const byId = (id) => document.getElementById(id);
const access = new Access(byId("access"), () => lookNow());

async function look() {
  const [folders, queued] = await Promise.all([
    read("v1/training-runs", access.bearer),
    read("v1/runs", access.bearer),
  ]);
  const byRun = new Map(queued.map((facts) => [facts.run_id, facts]));
  const known = new Set(folders.map(({ queue_run: id }) => id));
  const others = queued.filter(({ run_id: id }) => !known.has(id)).map((facts) => ({ queue: facts }));
  const all = [...folders.map((run) => ({ ...run, queue: byRun.get(run.queue_run) })), ...others];
  byId("runs").replaceChildren(
    all.length
      ? table("The runs, the latest first", HEADINGS, all.map(row))
      : element("p", {}, "No run yet: start one with counterhint train, and the gateway with --runs-dir."),
  );
}

const HEADINGS = ["Run", "State", "Method", "Step", "Reward", "Accuracy", "Length", "Queued", "At teachers", "Tokens"];

function row({ run, queue, method, step, steps, finished, idle_seconds: idle, figures = {} }) {
  const name = run
    ? element("a", { href: `${root}runs/${encodeURIComponent(run)}` }, run)
    : element("span", {}, queue.run_id);
  const state = !run ? "in the queue only" : finished ? "finished" : idle < 120 ? "running" : "quiet";
  return [
    name,
    queue?.paused ? `${state}, paused` : state,
    method ?? "–",
    step === undefined ? "–" : `${number(step, 9)}${steps ? ` of ${number(steps, 9)}` : ""}`,
    percent(figures["rollout/reward"]),
    percent(figures["eval/accuracy"]),
    number(figures["rollout/length"], 3),
    number(queue?.queued, 9),
    number(queue?.claimed, 9),
    number(queue?.tokens, 4),
  ];
}

const lookNow = poll(look, EVERY_MS, byId("problems"), access);
