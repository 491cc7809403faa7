/** The page of one run: asks for what is new every few seconds, and draws it. */

import { Access } from "./access.js";
import { poll } from "./polling.js";
import { number } from "./numbers.js";
import { RunCharts } from "./run_charts.js";
import { RunGroups } from "./run_groups.js";
import { queueFacts, runFacts, tiles } from "./run_tiles.js";
import { read } from "./scoring_api.js";

const EVERY_MS = 3000;
/** Without news for longer, a run is said to be idle. */
const IDLE_SECONDS = 120;

const byId = (id) => document.getElementById(id);
const run = decodeURIComponent(location.pathname.split("/").at(-1));
const path = encodeURIComponent(run);
const access = new Access(byId("access"), () => lookNow());
const charts = new RunCharts(byId("charts"));
const groups = new RunGroups(byId("groups"));
let rows = [];
let runId = null;
let before = null;

async function look() {
  const after = rows.at(-1)?.step ?? -1;
  const found = await read(`v1/training-runs/${path}?after_step=${after}`, access.bearer);
  const another = found.run_id !== runId; // has begun in this folder
  if (rows.length && (another || found.step < after)) {
    rows = []; // it may also have gone back to a checkpoint
    return look();
  }
  runId = found.run_id;
  const news = found.rows.length > 0 || after < 0;
  const rollouts = news ? await read(`v1/runs/${path}/rollouts`, access.bearer) : null;
  rows = [...rows, ...found.rows]; // now that nothing is left to fail
  byId("tiles").replaceChildren(tiles([...runFacts({ ...found, rows }), ...queueFacts(found.queue, share(found))]));
  byId("state").textContent = state(found);
  if (!news) return;
  charts.show([{ name: run, rows }]);
  groups.show(rollouts);
}

/** The run's part of what teachers were charged for between two looks. */
function share({ queue, tokens_of_all_runs: all }) {
  const now = { own: queue?.tokens ?? 0, all };
  const spent = before ? now.all - before.all : 0;
  const part = spent > 0 ? (now.own - before.own) / spent : (before?.part ?? null);
  before = { ...now, part };
  return part;
}

function state(found) {
  return found.queue?.paused ? `${progress(found)}; its jobs are paused` : progress(found);
}

function progress({ finished, idle_seconds: idle }) {
  if (finished) return "finished";
  if (idle === null) return "has not begun";
  if (idle < IDLE_SECONDS) return "running";
  return `no news for ${number(Math.round(idle / 60), 9)} minutes: stopped, or in a long step`;
}

byId("name").textContent = run;
document.title = `${run} · Counterhint`;
const lookNow = poll(look, EVERY_MS, byId("problems"), access);
