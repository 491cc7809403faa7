/** The report's views: tiles, charts and rollouts of the runs whose data the page holds. */

import { element } from "./elements.js";
import { RunCharts } from "./run_charts.js";
import { RunGroups } from "./run_groups.js";
import { runFacts, tiles } from "./run_tiles.js";

/** There are as many colours; of more runs, the others are drawn when the reader wants them. */
const COLOURS = 6;

const byId = (id) => document.getElementById(id);
const { runs } = JSON.parse(byId("data").textContent);
const several = runs.length > 1;
const drawn = runs.map(({ name, figures }, place) => ({
  name,
  rows: rowsOf(figures),
  colour: several ? place % COLOURS : null,
}));

/** Rows of metrics.jsonl from columns, in which null stands for what a row does not have. */
function rowsOf(columns) {
  const entries = Object.entries(columns);
  return columns.step.map((_, row) =>
    Object.fromEntries(entries.map(([key, values]) => [key, values[row]]).filter(([, value]) => value !== null)),
  );
}

function showTiles() {
  for (const place of document.querySelectorAll("[data-tiles]")) {
    const { step, steps, method } = runs[place.dataset.tiles];
    place.replaceChildren(tiles(runFacts({ rows: drawn[place.dataset.tiles].rows, step, steps, method })));
  }
}

/** The charts and, for several runs, the boxes by which the reader says which of them are drawn. */
function showCharts() {
  const charts = new RunCharts(byId("charts"));
  const boxes = drawn.map((_, place) => element("input", { type: "checkbox", checked: place < COLOURS }));
  const draw = () => charts.show(drawn.filter((_, place) => boxes[place].checked));
  if (several) {
    byId("drawn").append(
      ...drawn.map(({ name, colour }, place) =>
        element("label", { class: "toggle" }, boxes[place], element("bdi", { class: `key s${colour}` }, name)),
      ),
    );
    byId("drawn").addEventListener("change", draw);
  } else boxes[0].checked = true;
  draw();
}

/** The groups of one run at a time, with a choice of the run where several have rollouts. */
function showRollouts() {
  const root = byId("rollouts");
  const kept = [...runs.keys()].filter((place) => runs[place].rollouts.responses.length);
  if (!kept.length) return;
  const scored = ({ rollouts }) => rollouts.responses.some(({ tokens }) => tokens.e_c);
  const first = kept.find((place) => scored(runs[place])) ?? kept[0];
  const views = new Map();
  const show = (place) => {
    if (!views.has(place)) {
      const made = element("div");
      root.append(made);
      new RunGroups(made).show(runs[place].rollouts);
      views.set(place, made);
    }
    for (const [other, view] of views) view.hidden = other !== place;
  };
  if (several) {
    const select = element("select", {}, ...kept.map((place) => element("option", { value: place, selected: place === first }, runs[place].name)));
    select.addEventListener("change", () => show(Number(select.value)));
    root.append(element("label", { class: "field run-choice" }, "Run", select));
  }
  show(first);
}

showTiles();
showCharts();
showRollouts();
