/** Asking again and again, while somebody looks. */

import { element } from "./elements.js";
import { number } from "./numbers.js";
import { ApiError } from "./scoring_api.js";

const LONGEST_MS = 30000;
/** What no later try with the same token would change. */
const REFUSED = [401, 403];

/**
 * Calls `look` every so often; after a failure, whatever it is, less and less often. A hidden page
 * does not look, and neither does one whose token was refused until it is told to.
 *
 * @param {function(): Promise} look
 * @param {number} everyMs
 * @param {Element} problems is filled with what went wrong.
 * @param {Access} access is opened where a token is asked for.
 * @returns {function()} looks at once, or as soon as the look under way has ended.
 */
export function poll(look, everyMs, problems, access) {
  let timer = null;
  let pause = everyMs;
  let looking = false;
  let wanted = false; // once more, by somebody who could not wait
  let latest = null;

  async function now() {
    wanted = looking;
    if (looking || document.hidden) return; // two looks at a time would each add what is new
    looking = true;
    clearTimeout(timer);
    try {
      await look();
      latest = new Date();
      problems.replaceChildren();
      pause = everyMs;
    } catch (error) {
      pause = REFUSED.includes(error.status) ? Infinity : Math.min(2 * pause, LONGEST_MS);
      tell(error);
    }
    looking = false;
    if (wanted || pause < Infinity) timer = setTimeout(now, wanted ? 0 : pause);
  }

  function tell(error) {
    if (error.status === 401) access.ask();
    const known = error instanceof ApiError;
    if (!known) console.error(error);
    const lines = [known ? error.message : `This page failed: ${error.message}`];
    if (pause < Infinity) lines.push(`Trying again in ${number(Math.round(pause / 1000), 9)} s.`);
    if (latest) lines.push(`What is shown is of ${latest.toLocaleTimeString()}.`);
    problems.replaceChildren(element("p", { class: "notice error" }, lines.join("\n")));
  }

  document.addEventListener("visibilitychange", now);
  window.addEventListener("online", now);
  now();
  return now;
}
