/**
 * The running text of a response, coloured by one signal.
 *
 * Long responses stay smooth because the text is cut into blocks: a block is one plain text, and has
 * an element a token only while it is near the panel's window.
 */

import { element } from "./elements.js";
import { signed } from "./numbers.js";
import { colour } from "./signal_scale.js";
import { visible } from "./token_text.js";

// A block ends after a line end once it has this many tokens, and at the latest at twice as many.
const BLOCK_TOKENS = 60;
const AHEAD = "300px";

// Only these need isolating from their neighbours, which costs time in every layout.
const RIGHT_TO_LEFT = /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\u0800-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/** Where the blocks of a text begin, with its length as the last entry. */
export function blockStarts(shown) {
  const starts = [0];
  for (let index = 1; index < shown.length; index += 1) {
    const length = index - starts.at(-1);
    const lineEnd = shown[index - 1].text.endsWith("\n");
    if ((lineEnd && length >= BLOCK_TOKENS) || length >= 2 * BLOCK_TOKENS) starts.push(index);
  }
  return [...starts, shown.length];
}

export class TokenPanel {
  /**
   * @param {Object} options
   * @param {string} options.name of the signal: "e_ctr" or "e_c".
   * @param {string} options.title names the panel to screen readers.
   * @param {function(number, Element)} options.onPoint a token is hovered or focused.
   * @param {function()} options.onLeave no token of this panel is any more.
   * @param {function()} options.onEscape the escape key.
   */
  constructor({ name, title, onPoint, onLeave, onEscape }) {
    this.name = name;
    this.element = element("div", {
      class: "tokens",
      role: "listbox",
      "aria-label": title,
      "aria-orientation": "horizontal",
      dir: "ltr",
      "data-signal": name,
    });
    this.blocks = [];
    this.stop = 0;
    this.nearby = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          if (isIntersecting) this.#fill(target);
          else this.#empty(target);
        }
      },
      { root: this.element, rootMargin: `${AHEAD} 0px` },
    );
    this.#listen(onPoint, onLeave, onEscape);
  }

  /**
   * @param {Object} content
   * @param {{text: string, boxed: boolean}[]} content.shown the tokens' looks.
   * @param {string[]} content.texts the tokens' own texts.
   * @param {?number[]} content.values of the signal; null where the reply has none.
   * @param {?boolean[]} content.selected by the gate.
   */
  show(content) {
    this.content = content;
    this.stop = 0;
    this.nearby.disconnect();
    this.starts = blockStarts(content.shown);
    this.blocks = this.starts.slice(0, -1).map((_, place) =>
      element("div", { class: "block", role: "presentation", dir: "ltr" }, this.#plain(place)),
    );
    this.element.replaceChildren(...this.blocks);
    this.element.scrollTop = 0;
    if (this.blocks.length) this.#fill(this.blocks[0]);
    for (const block of this.blocks) this.nearby.observe(block);
  }

  /**
   * Colours the tokens.
   *
   * @param {SignalScale} scale
   * @param {function(number): boolean} shows whether a token is shown in full, not dimmed.
   */
  paint(scale, shows) {
    this.scale = scale;
    this.shows = shows;
    for (const token of this.element.querySelectorAll(".token")) this.#paintToken(token);
  }

  /** The element of a token, made if it was not yet. */
  token(index) {
    const place = this.#placeOf(index);
    this.#fill(this.blocks[place]);
    return this.blocks[place].children[index - this.starts[place]];
  }

  #placeOf(index) {
    return this.starts.findIndex((start) => start > index) - 1;
  }

  #plain(place) {
    const tokens = this.content.shown.slice(this.starts[place], this.starts[place + 1]);
    return tokens.map(({ text }) => text).join("");
  }

  /** Marks a token as the one that is looked at; it is the panel's tab stop from now on. */
  mark(index) {
    const before = this.token(this.stop);
    before.classList.remove("current");
    before.removeAttribute("aria-selected");
    before.tabIndex = -1;
    this.stop = index;
    const token = this.token(index);
    token.classList.add("current");
    token.setAttribute("aria-selected", "true");
    token.tabIndex = 0;
  }

  /** Moves the keyboard's focus to a token and the token into the window. */
  focus(index) {
    const token = this.token(index);
    token.focus({ preventScroll: true });
    this.reveal(token);
  }

  reveal(token) {
    const box = this.element.getBoundingClientRect();
    const own = token.getBoundingClientRect();
    if (own.top < box.top || own.bottom > box.bottom) {
      this.element.scrollTop += own.top - box.top - this.element.clientHeight / 3;
    }
    this.element.scrollIntoView({ block: "nearest" });
  }

  #fill(block) {
    if (block.dataset.filled) return;
    block.dataset.filled = "yes";
    const place = this.blocks.indexOf(block);
    const made = [];
    for (let index = this.starts[place]; index < this.starts[place + 1]; index += 1) {
      made.push(this.#makeToken(index));
    }
    block.replaceChildren(...made);
  }

  /** Makes a block plain text again, unless it has the tab stop. */
  #empty(block) {
    const place = this.blocks.indexOf(block);
    if (!block.dataset.filled || place === this.#placeOf(this.stop)) return;
    delete block.dataset.filled;
    block.replaceChildren(this.#plain(place));
  }

  #makeToken(index) {
    const { shown, texts, values, selected } = this.content;
    const { text, boxed } = shown[index];
    const token = element("span", { class: "token", role: "option" }, text);
    token.dataset.index = index;
    token.ariaPosInSet = index + 1;
    token.ariaSetSize = shown.length;
    const value = values?.[index] ?? null;
    const name = boxed ? text : visible(texts[index]);
    token.ariaLabel = `${name}, ${this.name} ${value === null ? "missing" : signed(value, 3)}`;
    if (boxed) token.classList.add("boxed");
    if (RIGHT_TO_LEFT.test(text)) token.classList.add("isolated");
    if (selected?.[index]) token.classList.add("selected");
    if (values && value === null) token.classList.add("missing");
    token.tabIndex = index === this.stop ? 0 : -1;
    if (this.scale) this.#paintToken(token);
    return token;
  }

  #paintToken(token) {
    const index = Number(token.dataset.index);
    const value = this.content.values?.[index] ?? null;
    const full = this.shows(index);
    token.classList.toggle("dimmed", !full);
    colour(token, full && value !== null ? this.scale.share(value) : 0);
  }

  #listen(onPoint, onLeave, onEscape) {
    const tokenOf = (event) => event.target.closest(".token");
    const point = (event) => {
      const token = tokenOf(event);
      if (token) onPoint(Number(token.dataset.index), token, event.type === "focusin");
    };
    this.element.addEventListener("pointerover", point);
    this.element.addEventListener("focusin", point);
    this.element.addEventListener("pointerleave", () => onLeave("pointer"));
    this.element.addEventListener("focusout", () => onLeave("focus"));
    this.element.addEventListener("keydown", (event) => {
      const token = tokenOf(event);
      if (!token || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "Escape") onEscape();
      const target = this.#target(event.key, token);
      if (target === null) return;
      event.preventDefault();
      this.focus(target);
    });
  }

  /** Which token a key leads to, or null. */
  #target(key, token) {
    const index = Number(token.dataset.index);
    const last = this.content.shown.length - 1;
    switch (key) {
      case "ArrowLeft":
        return Math.max(index - 1, 0);
      case "ArrowRight":
        return Math.min(index + 1, last);
      case "Home":
        return 0;
      case "End":
        return last;
      case "ArrowUp":
        return this.#onNextLine(token, -1);
      case "ArrowDown":
        return this.#onNextLine(token, 1);
      default:
        return null;
    }
  }

  /** The token above (-1) or below (1): the first of another line that is closest to this one. */
  #onNextLine(token, direction) {
    const from = token.getClientRects()[0];
    const last = this.content.shown.length - 1;
    let found = Number(token.dataset.index);
    let line = null;
    let nearest = Infinity;
    for (let index = found + direction; index >= 0 && index <= last; index += direction) {
      const box = this.token(index).getClientRects()[0];
      if (!box || Math.abs(box.top - from.top) < from.height / 2) continue;
      line ??= box.top;
      if (Math.abs(box.top - line) > from.height / 2) break;
      const distance = Math.abs(box.left - from.left);
      if (distance < nearest) [nearest, found] = [distance, index];
    }
    return found;
  }
}
