/** Picks a logged rollout of a live run. */

import { element } from "./elements.js";
import { ApiError, read } from "./scoring_api.js";

// As many of the latest steps with rollouts as are listed; the API gives no more.
const STEPS = 1000;

export class RunPicker {
  /**
   * @param {HTMLFormElement} form with the selects `run` and `rollout`.
   * @param {Access} access has the token to call with.
   * @param {function(Object, Object)} onPick is given a reply with the rollout alone, and the
   *   rollout's place: `run`, `step`, and `rollout`, which counts from 0 within the step.
   * @param {function(Error)} onProblem
   */
  constructor(form, access, onPick, onProblem) {
    this.runs = form.querySelector("#run");
    this.rollouts = form.querySelector("#rollout");
    this.access = access;
    this.onPick = onPick;
    this.runs.addEventListener("change", () => this.#list(this.runs.value).catch(onProblem));
    this.rollouts.addEventListener("change", () => this.#pick(this.rollouts.selectedIndex));
  }

  /** Lists the runs. False where the gateway shows none. Throws `ApiError`. */
  async load() {
    const found = await read("v1/training-runs", this.access.bearer);
    const chosen = this.runs.value;
    this.runs.replaceChildren(
      element("option", { value: "" }, "choose a run"),
      ...found.map(({ run }) => element("option", { value: run, selected: run === chosen }, run)),
    );
    return found.length > 0;
  }

  /**
   * Picks the rollout at a place; false when another run was chosen meanwhile.
   *
   * @throws {ApiError} the run or the rollout is not there.
   */
  async pick({ run, step, rollout }) {
    this.runs.value = run;
    if (!(await this.#list(run))) return false;
    const index = this.places.findIndex(
      (place) => String(place.step) === step && String(place.rollout) === rollout,
    );
    if (index < 0) throw new ApiError(`Run ${run} has no rollout ${rollout} of step ${step}.`);
    this.rollouts.selectedIndex = index;
    await this.#pick(index);
    return true;
  }

  /** Lists a run's rollouts; false when another run was chosen before they came. */
  async #list(run) {
    this.listing?.abort();
    const own = new AbortController();
    this.listing = own;
    this.rollouts.replaceChildren();
    if (run === "") return true;
    const path = `v1/runs/${encodeURIComponent(run)}/rollouts?last_steps=${STEPS}`;
    try {
      this.reply = await read(path, this.access.bearer, own.signal);
    } catch (error) {
      if (own.signal.aborted) return false;
      throw error;
    }
    this.places = placesOf(run, this.reply.responses);
    this.rollouts.replaceChildren(
      ...this.reply.responses.map((response) => element("option", {}, label(response))),
    );
    return true;
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
