/** The form of `/`: what it holds as the body of `POST /v1/distill/score`, and back. */

import { element } from "./elements.js";

const GATE = ["tau", "beta", "lam", "delta", "clip_low", "clip_high"];

export const EXAMPLE = Object.freeze({
  problem: "Anna has 3 boxes of 4 apples and eats 2 apples. How many apples are left?",
  correct_hint: "3 boxes of 4 apples are 3 * 4 = 12 apples. 12 - 2 = 10.",
  correct_answer: "10",
  wrong_hints: [
    { hint: "3 boxes and 4 apples are 3 + 4 = 7. 7 - 2 = 5.", answer: "5" },
    { hint: "3 * 4 = 12 apples, and she eats 2 boxes: 12 - 8 = 4.", answer: "4" },
  ],
  template: "neutral",
  unhinted: true,
  responses: [
    { text: "First, 3 boxes of 4 apples make 3 * 4 = 12. Then 12 - 2 = 10. The answer is 10.", advantage: 1 },
    { text: "So 3 + 4 = 7 apples in all. Then 7 - 2 = 5. The answer is 5.", advantage: -1 },
  ],
  top_k: 5,
});

export class ScoreForm {
  /** @param {HTMLFormElement} form with the fields of index.html. */
  constructor(form) {
    this.form = form;
    this.wrongHints = form.querySelector("#wrong-hints");
    this.responses = form.querySelector("#responses");
    form.querySelector("#add-wrong-hint").addEventListener("click", () => {
      this.#addWrongHint().querySelector("textarea").focus();
    });
    form.querySelector("#add-response").addEventListener("click", () => {
      this.#addResponse().querySelector("textarea").focus();
    });
    form.querySelector("#example").addEventListener("click", () => this.fill(EXAMPLE));
    this.#addWrongHint();
    this.#addResponse();
  }

  /** The request that the form describes. */
  request() {
    const fields = this.form.elements;
    const request = {
      problem: fields.problem.value,
      correct_hint: fields.correct_hint.value,
      correct_answer: fields.correct_answer.value,
      wrong_hints: [...this.wrongHints.children].map((box) => ({
        hint: part(box, "hint").value,
        answer: part(box, "answer").value,
      })),
      template: fields.template.value,
      answer_format: fields.answer_format.value,
      unhinted: fields.unhinted.checked,
      responses: [...this.responses.children].map(responseOf),
      top_k: Number(fields.top_k.value),
      gate: Object.fromEntries(GATE.map((name) => [name, Number(fields[name].value)])),
    };
    return request;
  }

  /** Fills the form in. What a request leaves out keeps the form's default. */
  fill(request) {
    this.form.reset();
    const fields = this.form.elements;
    for (const name of ["problem", "correct_hint", "correct_answer", "template", "answer_format"]) {
      if (request[name] !== undefined) fields[name].value = request[name];
    }
    fields.unhinted.checked = request.unhinted ?? true;
    if (request.top_k !== undefined) fields.top_k.value = request.top_k;
    for (const name of GATE) if (request.gate?.[name] !== undefined) fields[name].value = request.gate[name];
    this.wrongHints.replaceChildren();
    for (const { hint, answer } of request.wrong_hints ?? []) {
      const box = this.#addWrongHint();
      part(box, "hint").value = hint;
      part(box, "answer").value = answer ?? "";
    }
    this.responses.replaceChildren();
    for (const response of request.responses ?? []) {
      const box = this.#addResponse();
      part(box, "response").value = response.text ?? response;
      part(box, "advantage").value = response.advantage ?? "";
    }
  }

  #addWrongHint() {
    return this.#add(
      this.wrongHints,
      "Wrong hint",
      area("Solution", "hint", 2),
      line("Final answer", "answer", "text", false),
    );
  }

  #addResponse() {
    return this.#add(
      this.responses,
      "Response",
      area("Text", "response", 4),
      line("Advantage, for the modulated one", "advantage", "number", false),
    );
  }

  #add(list, title, ...fields) {
    const remove = element("button", { type: "button" }, "Remove");
    const last = fields.pop();
    const box = element(
      "fieldset",
      {},
      element("legend", {}, title),
      ...fields,
      element("div", { class: "with-remove" }, last, remove),
    );
    remove.addEventListener("click", () => {
      const next = box.nextElementSibling ?? box.previousElementSibling;
      box.remove();
      numberBoxes(list, title);
      (next ? next.querySelector("textarea") : list.nextElementSibling.querySelector("button")).focus();
    });
    list.append(box);
    numberBoxes(list, title);
    return box;
  }
}

function numberBoxes(list, title) {
  [...list.children].forEach((box, index) => {
    box.querySelector("legend").textContent = `${title} ${index + 1}`;
    box.querySelector("button").setAttribute("aria-label", `Remove ${title.toLowerCase()} ${index + 1}`);
  });
}

function area(label, name, rows) {
  return element("label", { class: "field" }, label, element("textarea", { "data-part": name, rows, required: true }));
}

function line(label, name, type, required) {
  const attributes = { "data-part": name, type, required, step: type === "number" ? "any" : null };
  return element("label", { class: "field" }, label, element("input", attributes));
}

function part(box, name) {
  return box.querySelector(`[data-part="${name}"]`);
}

function responseOf(box) {
  const response = { text: part(box, "response").value };
  const advantage = part(box, "advantage").value;
  if (advantage !== "") response.advantage = Number(advantage);
  return response;
}
