/** Picks a logged rollout of a live run. */

import { element } from "./elements.js";
import { ApiError, read } from "./scoring_api.js";

// As many of the latest steps with rollouts as are listed; the API gives no more.
const STEPS = 1000;

export class RunPicker {
  /**
   * @param {HTMLFormElement} form with the selects `run` and `rollout`.
   * @param {function(): string} bearer gives the token to call with.
   * @param {function(Object, Object)} onPick is given a reply with the rollout alone, and the
   *   rollout's place: `run`, `step`, and `rollout`, which counts from 0 within the step.
   * @param {function(Error)} onProblem
   */
  constructor(form, bearer, onPick, onProblem) {
    this.runs = form.querySelector("#run");
    this.rollouts = form.querySelector("#rollout");
    this.bearer = bearer;
    this.onPick = onPick;
    this.runs.addEventListener("change", () => this.#list(this.runs.value).catch(onProblem));
    this.rollouts.addEventListener("change", () => this.#pick(this.rollouts.selectedIndex));
  }

  /** Lists the runs. False where the gateway shows none. */
  async load() {
    let found;
    try {
      found = await read("v1/training-runs", this.bearer());
    } catch (error) {
      if (error instanceof ApiError) return false;
      throw error;
    }
    this.runs.replaceChildren(
      element("option", { value: "" }, "choose a run"),
      ...found.map(({ run }) => element("option", { value: run }, run)),
    );
    return found.length > 0;
  }

  /** Picks the rollout at a place. Throws `ApiError` when the run or the rollout is not there. */
  async pick({ run, step, rollout }) {
    this.runs.value = run;
    await this.#list(run);
    const index = this.places.findIndex(
      (place) => String(place.step) === step && String(place.rollout) === rollout,
    );
    if (index < 0) throw new ApiError(`Run ${run} has no rollout ${rollout} of step ${step}.`);
    this.rollouts.selectedIndex = index;
    return this.#pick(index);
  }

  async #list(run) {
    this.rollouts.replaceChildren();
    if (run === "") return;
    const path = `v1/runs/${encodeURIComponent(run)}/rollouts?last_steps=${STEPS}`;
    this.reply = await read(path, this.bearer());
    this.places = placesOf(run, this.reply.responses);
    this.rollouts.replaceChildren(
      ...this.reply.responses.map((response) => element("option", {}, label(response))),
    );
  }

  #pick(index) {
    return this.onPick(
      { ...this.reply, responses: [this.reply.responses[index]] },
      this.places[index],
    );
  }
}

function placesOf(run, responses) {
  const seen = new Map();
  return responses.map(({ step }) => {
    const rollout = seen.get(step) ?? 0;
    seen.set(step, rollout + 1);
    return { run, step, rollout };
  });
}

function label({ correct, step, problem, text }) {
  return `${correct ? "✓" : "✗"} step ${step}: ${problem ?? text}`.slice(0, 90);
}
