/** The gateway's API as the page calls it. Addresses are relative: it works below any path. */

/** The gateway's own address, as the page sees it: "" or "../". */
export const root = document.documentElement.dataset.root ?? "";

/** After how long without the whole answer a read is given up. */
const READ_MS = 60_000;

/** What the gateway refused, in words for the reader. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} status of the answer; 0 when there was none.
   */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/**
 * Scores responses: `POST /v1/distill/score`.
 *
 * @param {Object} request the body.
 * @param {string} bearer token, or "".
 * @param {AbortSignal} signal ends the call.
 * @returns {Promise<Object>} the reply.
 * @throws {ApiError} what the gateway answered in place of scores.
 */
export function score(request, bearer, signal) {
  return call("v1/distill/score", bearer, {
    method: "POST",
    body: JSON.stringify(request),
    signal,
    headers: { "Content-Type": "application/json" },
  });
}

/**
 * The JSON of an address.
 *
 * @param {string} path
 * @param {string} bearer token, or "".
 * @param {?AbortSignal} signal ends the call.
 * @throws {ApiError} there is none, or not in time.
 */
export function read(path, bearer, signal = null) {
  const late = AbortSignal.timeout(READ_MS);
  return call(path, bearer, { signal: signal ? AbortSignal.any([signal, late]) : late });
}

async function call(path, bearer, options) {
  const headers = { Accept: "application/json", ...options.headers };
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  let answer, text;
  try {
    answer = await fetch(root + path, { ...options, headers });
    text = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(`The gateway at ${location.host} is not reachable: ${error.message}.`);
  }
  if (!answer.ok) throw new ApiError(refusal(answer, text), answer.status);
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(`What ${location.host} answered is not the gateway's: it is no JSON.`);
  }
}

function refusal(answer, text) {
  const lines = [];
  try {
    const { error, request_id: requestId } = JSON.parse(text);
    lines.push(error.param ? `${error.param}: ${error.message}` : error.message);
    if (requestId) lines.push(`Request ${requestId}`);
  } catch {
    lines.push(`The server answered ${answer.status} ${answer.statusText}`);
  }
  if (answer.status === 401) lines.unshift("This gateway asks for a bearer token: see Access.");
  return lines.join("\n");
}
