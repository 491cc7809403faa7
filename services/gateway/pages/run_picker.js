/** Picks a logged rollout of a live run. */

import { element } from "./elements.js";
import { ApiError, read } from "./scoring_api.js";

export class RunPicker {
  /**
   * @param {HTMLFormElement} form with the selects `run` and `rollout`.
   * @param {function(): string} bearer gives the token to call with.
   * @param {function(Object, {run: string, rollout: number})} onPick is given a run's reply and
   *   which rollout of it was picked.
   * @param {function(Error)} onProblem
   */
  constructor(form, bearer, onPick, onProblem) {
    this.form = form;
    this.runs = form.querySelector("#run");
    this.rollouts = form.querySelector("#rollout");
    this.bearer = bearer;
    this.onPick = onPick;
    this.runs.addEventListener("change", () => this.#list(this.runs.value).catch(onProblem));
    this.rollouts.addEventListener("change", () => this.#picked());
  }

  /** Lists the runs. False where the gateway shows none. */
  async load() {
    let runs;
    try {
      runs = await read("v1/runs", this.bearer());
    } catch (error) {
      if (error instanceof ApiError) return false;
      throw error;
    }
    const names = runs.map(({ run_id: name }) => name);
    this.runs.replaceChildren(
      element("option", { value: "" }, names.length ? "choose a run" : "no run yet"),
      ...names.map((name) => element("option", { value: name }, name)),
    );
    return names.length > 0;
  }

  /** Shows a rollout of a run as if it had been picked. Throws `ApiError`. */
  async pick(run, rollout) {
    this.runs.value = run;
    await this.#list(run);
    this.rollouts.selectedIndex = rollout;
    this.#picked();
  }

  async #list(run) {
    this.rollouts.replaceChildren();
    if (run === "") return;
    this.reply = await read(`v1/runs/${encodeURIComponent(run)}/rollouts`, this.bearer());
    const options = this.reply.responses.map((response, index) =>
      element("option", { value: index }, label(response)),
    );
    this.rollouts.replaceChildren(...options);
  }

  #picked() {
    const rollout = this.rollouts.selectedIndex;
    if (rollout >= 0) this.onPick(this.reply, { run: this.runs.value, rollout });
  }
}

function label(response) {
  const verdict = { true: "✓ ", false: "✗ " }[response.correct] ?? "";
  const step = response.step === undefined ? "" : `step ${response.step}: `;
  return `${verdict}${step}${response.problem ?? response.text}`.slice(0, 90);
}
