/** The gateway's API as the page calls it. Addresses are relative: it works below any path. */

/** The gateway's own address, as the page sees it: "" or "../". */
export const root = document.documentElement.dataset.root ?? "";

/** What the gateway refused, in words for the reader. */
export class ApiError extends Error {}

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

/** The JSON of an address. Throws `ApiError`. */
export function read(path, bearer) {
  return call(path, bearer, {});
}

async function call(path, bearer, options) {
  const headers = { Accept: "application/json", ...options.headers };
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  let answer;
  try {
    answer = await fetch(root + path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(`The gateway at ${location.host} does not answer: ${error.message}`);
  }
  const text = await answer.text();
  if (!answer.ok) throw new ApiError(refusal(answer, text));
  return JSON.parse(text);
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
