/** Asking again and again, while somebody looks. */

import { element } from "./elements.js";
import { ApiError } from "./scoring_api.js";

const LONGEST_MS = 30000;

/**
 * Calls `look` every so often; after a failure less and less often, and not in a hidden page.
 *
 * @param {function(): Promise} look
 * @param {number} everyMs
 * @param {Element} problems is filled with what went wrong.
 * @returns {function()} looks at once.
 */
export function poll(look, everyMs, problems) {
  let timer = null;
  let pause = everyMs;

  async function now() {
    clearTimeout(timer);
    try {
      if (!document.hidden) await look();
      problems.replaceChildren();
      pause = everyMs;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      problems.replaceChildren(element("p", { class: "notice error" }, error.message));
      pause = Math.min(2 * pause, LONGEST_MS);
    }
    timer = setTimeout(now, pause);
  }

  document.addEventListener("visibilitychange", () => document.hidden || now());
  now();
  return now;
}
