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
 * @returns {function()} looks at once, or as soon as the look under way has ended.
 */
export function poll(look, everyMs, problems) {
  let timer = null;
  let pause = everyMs;
  let looking = false;
  let wanted = false; // once more, by somebody who could not wait

  async function now() {
    wanted = looking;
    if (looking) return; // two looks at a time would each add what is new
    looking = true;
    clearTimeout(timer);
    try {
      if (!document.hidden) await look();
      problems.replaceChildren();
      pause = everyMs;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      problems.replaceChildren(element("p", { class: "notice error" }, error.message));
      pause = Math.min(2 * pause, LONGEST_MS);
    } finally {
      looking = false;
    }
    timer = setTimeout(now, wanted ? 0 : pause);
  }

  document.addEventListener("visibilitychange", () => document.hidden || now());
  now();
  return now;
}
