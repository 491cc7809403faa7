/** The groups of a run's last steps: problem, verdicts and hints, each rollout in the token view. */

import { element } from "./elements.js";
import { number, signed } from "./numbers.js";
import { TokenView } from "./token_view.js";

export class RunGroups {
  /** @param {Element} root is filled with the groups and, below them, the token view. */
  constructor(root) {
    this.list = element("div", { class: "groups" });
    this.hints = element("div", { class: "hints" });
    this.tokens = element("div");
    this.view = new TokenView(this.tokens, ({ response }) => this.#follow(response));
    root.classList.add("run-groups");
    root.replaceChildren(this.list, element("div", {}, this.hints, this.tokens));
  }

  /**
   * Shows rollouts; the one that was picked stays picked while it is among them.
   *
   * @param {Object} reply of `GET /v1/runs/{run}/rollouts`.
   */
  show(reply) {
    const content = JSON.stringify(reply);
    if (content === this.content) return;
    this.content = content;
    this.reply = reply;
    const { responses } = reply;
    if (!responses.length) {
      this.list.replaceChildren(element("p", {}, "No rollouts yet."));
      return;
    }
    const groups = new Map();
    for (const response of [...responses].reverse()) {
      const key = JSON.stringify([response.step, response.problem_id]);
      groups.set(key, [response, ...(groups.get(key) ?? [])]);
    }
    this.list.replaceChildren(...[...groups.values()].map((group) => this.#group(group)));
    const kept = responses.findIndex((response) => this.picked && same(response, this.picked));
    const contrasted = responses.findLastIndex(({ tokens }) => tokens.e_ctr);
    const first = contrasted < 0 ? responses.length - 1 : contrasted;
    this.#pick(kept < 0 ? first : kept, kept >= 0);
  }

  #group(group) {
    const [first] = group;
    const title = first.problem_id ?? "a problem";
    return element(
      "article",
      { class: "group" },
      element("h3", {}, title, element("small", {}, `step ${number(first.step, 9)}`)),
      element("p", { class: "problem", dir: "auto" }, first.problem ?? ""),
      element("ul", { class: "rollouts" }, ...group.map((rollout) => this.#button(rollout))),
    );
  }

  #button(rollout) {
    const { correct, response_answer: answer, advantage, tokens, index } = rollout;
    const verdict = correct ? "right" : "wrong";
    const button = element(
      "button",
      { type: "button", "aria-pressed": "false", "data-rollout": index },
      element("span", { class: "verdict" }, `${correct ? "✓" : "✗"} ${verdict}`),
      element("bdi", {}, answer === null || answer === undefined ? "no answer" : String(answer)),
      element("small", {}, `${number(tokens.id.length, 9)} tokens, advantage ${signed(advantage, 3)}`),
    );
    button.addEventListener("click", () => {
      this.#pick(index);
      if (this.tokens.getBoundingClientRect().top > window.innerHeight) this.hints.scrollIntoView();
    });
    return element("li", {}, button);
  }

  #pick(index, quietly = false) {
    const unchanged = quietly && this.picked && same(this.reply.responses[index], this.picked);
    this.#mark(index, unchanged);
    if (!unchanged) this.view.show(this.reply, { response: index }); // else the reader may be in it
  }

  /** Marks a rollout as the one that is shown, with its hints unless they are there. */
  #mark(index, withHints = false) {
    this.picked = this.reply.responses[index];
    for (const button of this.list.querySelectorAll("[data-rollout]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.rollout) === index));
    }
    if (withHints) return;
    this.hints.replaceChildren(
      ...Object.entries(this.picked.hints ?? {}).map(([name, text]) =>
        element(
          "details",
          {},
          element("summary", {}, `Hint: ${name}`),
          element("pre", { dir: "auto" }, text),
        ),
      ),
    );
  }

  /** Follows the token view, which has a choice of the rollout as well. */
  #follow(index) {
    if (this.reply.responses[index] !== this.picked) this.#mark(index);
  }
}

function same(one, other) {
  return (
    one.step === other.step &&
    one.problem_id === other.problem_id &&
    one.text === other.text &&
    one.advantage === other.advantage
  );
}
