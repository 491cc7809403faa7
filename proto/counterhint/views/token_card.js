/** The card of one token: what it is, its log probs under each context, the gate, the top-k. */

import { bar, element, table } from "./elements.js";
import { number, percent, signed } from "./numbers.js";
import { hexBytes, tokenBytes, visible } from "./token_text.js";

const GAP = 2;
const MARGIN = 8;

export class TokenCard {
  constructor() {
    this.element = element("section", {
      class: "card",
      "aria-label": "Token details",
      tabindex: "0",
      hidden: true,
    });
  }

  get shown() {
    return !this.element.hidden;
  }

  hide() {
    this.element.hidden = true;
  }

  /**
   * Shows a token's numbers beside it; on a narrow window the style sheet docks the card below.
   *
   * @param {Object} response of a score reply.
   * @param {number} index of the token.
   * @param {Element} token the element to stand beside.
   * @param {boolean} pinned whether the card can be pointed at; else the text under it can.
   */
  show(response, index, token, pinned) {
    this.element.classList.toggle("pinned", pinned);
    this.element.replaceChildren(
      heading(response, index),
      signals(response, index),
      logProbs(response, index),
      ...topK(response, index),
    );
    this.element.hidden = false;
    this.#place(token);
  }

  /** Scrolls the page when the docked card lies on the token that was tapped. */
  #uncover(token) {
    const docked = getComputedStyle(this.element).bottom === "0px";
    const covered = token.getBoundingClientRect().bottom - this.element.getBoundingClientRect().top;
    if (docked && covered > 0) window.scrollBy({ top: covered + MARGIN });
  }

  /** Below the token, or above it where there is more room. */
  #place(token) {
    const beside = token.getClientRects()[0] ?? token.getBoundingClientRect();
    const { width, height } = this.element.getBoundingClientRect();
    const left = Math.min(beside.left, document.documentElement.clientWidth - width - MARGIN);
    const roomBelow = window.innerHeight - beside.bottom - GAP - MARGIN;
    const roomAbove = beside.top - GAP - MARGIN;
    const above = height > roomBelow && roomAbove > roomBelow;
    const room = above ? roomAbove : roomBelow;
    const top = above ? beside.top - GAP - Math.min(height, room) : beside.bottom + GAP;
    this.element.style.setProperty("--left", `${Math.max(left, MARGIN)}px`);
    this.element.style.setProperty("--top", `${top}px`);
    this.element.style.setProperty("--room", `${room}px`);
    this.#uncover(token);
  }
}

function glyph(text) {
  return element("bdi", { class: "glyph" }, text);
}

function heading(response, index) {
  const { tokens } = response;
  const bytes = tokenBytes(response)[index];
  const text = tokens.text?.[index] ?? "";
  const hex = bytes?.length ? hexBytes(bytes) : null;
  const facts = [`id ${tokens.id[index]}`, `token ${index + 1} of ${tokens.id.length}`];
  if (tokens.class) facts.push(tokens.class[index]);
  if (hex) facts.push(element("span", { class: "bytes" }, `bytes ${hex}`));
  if (text === "" && hex) facts.push("part of a character that a later token completes");
  else if (hex && new TextEncoder().encode(text).length > bytes.length) {
    facts.push("completes a character that an earlier token began");
  }
  return element(
    "header",
    {},
    element("h3", {}, glyph(text === "" ? (hex ?? `#${tokens.id[index]}`) : visible(text))),
    element(
      "p",
      { class: "facts" },
      ...facts.flatMap((fact, place) => (place ? [" · ", fact] : [fact])),
    ),
  );
}

function signals(response, index) {
  const { tokens } = response;
  const from = response.e_c_from ? `correct − ${response.e_c_from}` : "";
  return element(
    "dl",
    { class: "signals" },
    signal("e_ctr", "correct − wrong", tokens.e_ctr?.[index]),
    signal("e_c", from, tokens.e_c?.[index]),
    ...modulation(response, index),
  );
}

function signal(name, meaning, value) {
  return fact(name, signed(value ?? null), meaning);
}

function fact(name, value, note) {
  return element(
    "div",
    {},
    element("dt", {}, name),
    element("dd", {}, value),
    element("dd", { class: "note" }, note),
  );
}

/** What the gate makes of the token's advantage. */
function modulation(response, index) {
  const { selected, residual, modulated } = response.tokens;
  const change = residual?.[index] ?? null;
  const gate = { true: "selected", false: "not selected" }[selected?.[index]];
  const found = [];
  if (gate) found.push(fact("gate", gate, change === null ? "" : `residual ${signed(change)}`));
  if (modulated) {
    const before = typeof response.advantage !== "number" ? "" : `from ${signed(response.advantage)}`;
    found.push(fact("advantage", signed(modulated[index]), before));
  }
  return found;
}

/** The token's log prob under each context. */
function logProbs(response, index) {
  const { tokens } = response;
  const found = Object.entries(tokens.log_probs).map(([name, values]) => [name, values[index]]);
  if (tokens.student) found.unshift(["student", tokens.student[index]]);
  return table(
    "Log prob of the token under each context",
    ["context", "log prob", "probability"],
    found.map(([name, value]) => [
      name,
      number(value),
      value === null ? "–" : bar(percent(Math.exp(value)), Math.exp(value)),
    ]),
  );
}

/** A table of the likeliest tokens for each context that has them. */
function topK(response, index) {
  const { tokens } = response;
  const found = Object.entries(tokens.top_k ?? {}).filter(([, positions]) => positions[index]?.length);
  if (found.length === 0) return [];
  const tables = found.map(([name, positions]) => {
    const rows = positions[index].map(({ id, text, log_prob: logProb }) => [
      element(
        "span",
        { class: id === tokens.id[index] ? "sampled" : "" },
        glyph(text ? visible(text) : `#${id}`),
      ),
      bar(percent(Math.exp(logProb)), Math.exp(logProb)),
    ]);
    return table(`Top ${rows.length}, ${name}`, ["token", "probability"], rows);
  });
  return [element("div", { class: "top-k" }, ...tables)];
}
