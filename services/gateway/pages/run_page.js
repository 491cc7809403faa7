/** The page of one run: asks for what is new every few seconds, and draws it. */

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
const bearer = () => byId("bearer").value;
const charts = new RunCharts(byId("charts"));
const groups = new RunGroups(byId("groups"));
let rows = [];
let before = null;

async function look() {
  const after = rows.at(-1)?.step ?? -1;
  const found = await read(`v1/training-runs/${path}?after_step=${after}`, bearer());
  if (rows.length && found.step !== null && found.step < after) {
    rows = []; // it went back to a checkpoint
    return look();
  }
  rows = [...rows, ...found.rows];
  byId("tiles").replaceChildren(tiles([...runFacts({ ...found, rows }), ...queueFacts(found.queue, share(found))]));
  byId("state").textContent = state(found);
  if (found.rows.length || after < 0) charts.show([{ name: run, rows }]);
  if (found.rows.length || after < 0) groups.show(await read(`v1/runs/${path}/rollouts`, bearer()));
}

/** The run's part of what teachers were charged for between two looks. */
function share({ queue, tokens_of_all_runs: all }) {
  const now = { own: queue?.tokens ?? 0, all };
  const spent = before ? now.all - before.all : 0;
  const part = spent > 0 ? (now.own - before.own) / spent : (before?.part ?? null);
  before = { ...now, part };
  return part;
}

function state({ finished, idle_seconds: idle }) {
  if (finished) return "finished";
  if (idle === null) return "has not begun";
  if (idle < IDLE_SECONDS) return "running";
  return `no news for ${number(Math.round(idle / 60), 9)} minutes: stopped, or in a long step`;
}

byId("name").textContent = run;
document.title = `${run} · Counterhint`;
const lookNow = poll(look, EVERY_MS, byId("problems"));
byId("bearer").addEventListener("change", lookNow);
byId("access").addEventListener("submit", (event) => event.preventDefault());
