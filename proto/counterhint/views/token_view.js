/**
 * The token view: a score reply as text coloured by its signals, side by side.
 *
 * Its only input is the JSON of a reply of `POST /v1/distill/score`; it fetches nothing. The run
 * pages and the report use the same component.
 */

import { element } from "./elements.js";
import { number } from "./numbers.js";
import { SignalScale, signalLimits } from "./signal_scale.js";
import { TokenCard } from "./token_card.js";
import { TokenPanel } from "./token_panel.js";
import { histogram } from "./signal_histogram.js";
import { legend } from "./signal_legend.js";
import { classNames, summary } from "./signal_summary.js";
import { shownTokens } from "./token_text.js";

const SIGNALS = {
  e_ctr: {
    title: "Contrast e_ctr",
    meaning: () => "correct hint − mean of the wrong hints",
    absent: "No e_ctr: it needs the response under at least one wrong hint.",
  },
  e_c: {
    title: "One-sided e_c",
    meaning: ({ e_c_from: from }) => `correct hint − ${from === "student" ? "student" : "no hint"}`,
    absent: "No e_c: it needs the student's log probs, or the response scored without a hint.",
  },
};
const UNCLASSED = "all tokens";
/** What the stable reasons of missing numbers say; other reasons are told as they are. */
const REASONS = { NOT_SCORED: "the rollout was logged without the teacher's scores" };

/** What a link keeps of a view. */
export const DEFAULT_SETTINGS = Object.freeze({
  /** Index of the response shown. */
  response: 0,
  /** Index of the token that the card shows, or null. */
  token: null,
  /** Symmetric logarithm in place of the linear scale. */
  log: false,
  /** One limit for both signals. */
  oneScale: false,
  /** Whether tokens that the gate does not select are dimmed. */
  gateOnly: false,
  /** Token classes that are dimmed. */
  hidden: Object.freeze([]),
});

export class TokenView {
  /**
   * @param {Element} root is filled with the view.
   * @param {function(Object)} onChange is told the settings when the reader changes one.
   */
  constructor(root, onChange = () => {}) {
    this.onChange = onChange;
    this.settings = { ...DEFAULT_SETTINGS };
    this.card = new TokenCard();
    this.panels = Object.entries(SIGNALS).map(([name, { title }]) => this.#makePanel(name, title));
    this.root = root;
    root.hidden = true;
    this.head = element("div", { class: "view-head" });
    this.controls = element("div", { class: "controls", role: "group", "aria-label": "View" });
    this.notices = element("div", { class: "notices", role: "status" });
    this.figures = element("div", { class: "figures" });
    const panels = element("div", { class: "panels" }, ...this.panels.map(({ frame }) => frame));
    root.classList.add("token-view");
    root.replaceChildren(this.head, this.controls, this.notices, panels, this.card.element, this.figures);
    this.#scrollTogether();
    this.#keepCard();
  }

  /**
   * Shows a reply.
   *
   * @param {Object} reply of `POST /v1/distill/score`.
   * @param {Object} settings see `DEFAULT_SETTINGS`; those left out are the defaults.
   */
  show(reply, settings = {}) {
    this.root.hidden = false;
    this.reply = reply;
    this.settings = { ...DEFAULT_SETTINGS, ...settings };
    this.settings.response = Math.min(this.settings.response, reply.responses.length - 1);
    this.limits = Object.fromEntries(
      Object.keys(SIGNALS).map((name) => [
        name,
        signalLimits(reply.responses.flatMap(({ tokens }) => tokens[name] ?? [])),
      ]),
    );
    this.#showResponse();
  }

  get response() {
    return this.reply.responses[this.settings.response];
  }

  #makePanel(name, title) {
    const panel = new TokenPanel({
      name,
      title: `${title}: tokens of the response`,
      onPoint: (index, token, focused) => this.#point(index, token, focused),
      onLeave: (how) => this.#leave(how),
      onEscape: () => this.card.hide(),
    });
    const meaning = element("small");
    const heading = element("h2", {}, title, " ", meaning);
    const scaleBar = element("div", { class: "scale" });
    const absent = element("p", { class: "absent", hidden: true }, SIGNALS[name].absent);
    const frame = element("article", {}, heading, scaleBar, absent, panel.element);
    return { name, panel, frame, meaning, scaleBar, absent };
  }

  #showResponse() {
    const { response } = this;
    this.card.hide();
    this.#showHead();
    this.#showControls();
    this.notices.replaceChildren(...missingReasons(response));
    const shown = shownTokens(response);
    for (const { name, panel, absent, frame, meaning } of this.panels) {
      meaning.textContent = SIGNALS[name].meaning(response);
      const values = response.tokens[name] ?? null;
      absent.hidden = values !== null;
      frame.classList.toggle("uncoloured", values === null);
      panel.show({ shown, texts: response.tokens.text, values, selected: response.tokens.selected });
    }
    this.#paint();
    const { token } = this.settings;
    if (token !== null && token < shown.length) this.#reveal(token);
  }

  /** The card of one token, with the token in the middle of the window. */
  #reveal(index) {
    const [{ panel }] = this.panels;
    for (const one of this.panels) one.panel.mark(index);
    panel.reveal(panel.token(index));
    this.card.show(this.response, index, panel.token(index), true);
  }

  #scales() {
    const kind = this.settings.log ? "log" : "linear";
    const found = Object.entries(this.limits).map(([name, limits]) => [name, limits[kind]]);
    const common = Math.max(...found.map(([, limit]) => limit ?? 0));
    const limit = (own) => (this.settings.oneScale && own !== null ? common : own);
    return Object.fromEntries(
      found.map(([name, own]) => [name, new SignalScale(limit(own), this.settings.log)]),
    );
  }

  /** Draws all that depends on scales and filters. */
  #paint() {
    const scales = this.#scales();
    const { tokens } = this.response;
    const shows = (index) =>
      !(this.settings.gateOnly && !tokens.selected?.[index]) &&
      !this.settings.hidden.includes(tokens.class?.[index]);
    for (const { name, panel, scaleBar } of this.panels) {
      scaleBar.replaceChildren(legend(name, scales[name]));
      panel.paint(scales[name], shows);
    }
    const histograms = this.panels
      .filter(({ name }) => tokens[name])
      .map(({ name }) => histogram(name, byClass(tokens, name), scales[name]));
    this.figures.replaceChildren(summary(tokens), ...histograms);
  }

  #set(changes) {
    Object.assign(this.settings, changes);
    this.onChange({ ...this.settings });
  }

  #showHead() {
    const { reply, response } = this;
    const own = reply.contexts.filter(({ name }) => name in response.tokens.log_probs);
    const contexts = own.map(({ name, tokens }) =>
      tokens === undefined ? name : `${name} (${number(tokens, 9)})`,
    );
    const facts = [
      ["Model", reply.model],
      ["Weights", reply.weights_revision?.slice(0, 12)],
      ["Engine", reply.engine],
      ["Tokens", number(response.tokens.id.length, 9)],
      ["Advantage", typeof response.advantage === "number" ? number(response.advantage) : null],
      ["Contexts (tokens)", contexts.join(", ")],
    ].filter(([, value]) => value);
    const list = element(
      "dl",
      { class: "facts" },
      ...facts.map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)),
      ),
    );
    this.head.replaceChildren(list, ...this.#responsePicker());
  }

  #responsePicker() {
    const { responses } = this.reply;
    if (responses.length < 2) return [];
    const options = responses.map((response, index) => {
      const name = `${index + 1} of ${responses.length}: ${(response.text ?? "").trim().slice(0, 60)}`;
      return element("option", { value: index, selected: index === this.settings.response }, name);
    });
    const select = element("select", {}, ...options);
    select.addEventListener("change", () => {
      this.#set({ response: Number(select.value), token: null });
      this.#showResponse();
      this.head.querySelector("select").focus();
    });
    return [element("label", { class: "field" }, "Response", select)];
  }

  #showControls() {
    const { tokens } = this.response;
    const setting = (name, label, disabled = false) =>
      toggle(label, this.settings[name], disabled, (on) => {
        this.#set({ [name]: on });
        this.#paint();
      });
    const classes = classNames(tokens);
    const gated = tokens.selected !== null && tokens.selected !== undefined;
    this.controls.replaceChildren(
      setting("log", "Log scale"),
      setting("oneScale", "One scale"),
      setting("gateOnly", "Gate only", !gated),
      ...classes.map((name) => this.#classToggle(name, tokens.class)),
      element("p", { class: "marks" }, ...marks(tokens, gated)),
    );
  }

  #classToggle(name, all) {
    const count = all.filter((one) => one === name).length;
    const shown = !this.settings.hidden.includes(name);
    const made = toggle(`${name} ${number(count, 9)}`, shown, false, (on) => {
      const others = this.settings.hidden.filter((one) => one !== name);
      this.#set({ hidden: on ? others : [...others, name] });
      this.#paint();
    });
    made.classList.add("class");
    return made;
  }

  #point(index, token, focused) {
    for (const { panel } of this.panels) panel.mark(index);
    this.card.show(this.response, index, token, focused);
    if (focused) this.#set({ token: index });
  }

  /** The card stays for the token that has the focus, and while it is itself pointed at. */
  #leave(how) {
    clearTimeout(this.leaving);
    this.leaving = setTimeout(() => {
      const kept = this.card.element.matches(":hover, :focus-within");
      const focused = this.panels.find(({ panel }) => panel.element.matches(":focus-within"));
      if (kept) return;
      if (how === "pointer" && focused) {
        const token = document.activeElement;
        if (this.card.shown && token.dataset.index) this.#point(Number(token.dataset.index), token, true);
      } else if (!focused && !this.panels.some(({ panel }) => panel.element.matches(":hover"))) {
        this.card.hide();
      }
    }, 120);
  }

  #keepCard() {
    const card = this.card.element;
    card.addEventListener("pointerleave", () => this.#leave("pointer"));
    card.addEventListener("focusout", () => this.#leave("focus"));
    card.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      const [{ panel }] = this.panels;
      panel.focus(panel.stop);
      this.card.hide();
    });
  }

  /** Both panels break their lines at the same places, so they scroll as one. */
  #scrollTogether() {
    for (const { panel } of this.panels) {
      panel.element.addEventListener("scroll", () => {
        for (const other of this.panels) other.panel.element.scrollTop = panel.element.scrollTop;
      }, { passive: true });
    }
  }
}

function byClass(tokens, name) {
  const found = Object.fromEntries(classNames(tokens).map((kind) => [kind, []]));
  tokens[name].forEach((value, index) => {
    const kind = tokens.class?.[index] ?? UNCLASSED;
    found[kind] ??= [];
    if (value !== null) found[kind].push(value);
  });
  return found;
}

/** Why numbers of a context are missing. Whole columns that are missing show where they would be. */
function missingReasons({ missing, tokens }) {
  const notices = (missing ?? [])
    .filter(({ context }) => context)
    .map(({ context, reason }) => `No log probs under ${context}: ${REASONS[reason] ?? reason}`);
  if (!tokens.text) notices.push("The gateway has no tokenizer: tokens are shown by their ids.");
  return notices.map((text) => element("p", { class: "notice" }, text));
}

/** What the marks in the text mean, of those that the response has. */
function marks(tokens, gated) {
  const has = (test) => Object.keys(SIGNALS).some((name) => tokens[name]?.some(test));
  const found = [];
  if (gated) found.push(["selected", "text", "selected by the gate"]);
  if (has((value) => value === null)) found.push(["missing", "\u00a0\u00a0\u00a0", "no number"]);
  if (tokens.text?.includes("")) found.push(["boxed", "E2 82", "bytes of a split character"]);
  return found.map(([kind, sample, meaning]) =>
    element("span", {}, element("span", { class: `sample ${kind}` }, sample), ` ${meaning}`),
  );
}

function toggle(label, on, disabled, onChange) {
  const box = element("input", { type: "checkbox", checked: on, disabled });
  box.addEventListener("change", () => onChange(box.checked));
  return element("label", { class: "toggle" }, box, label);
}
