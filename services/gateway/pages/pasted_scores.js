/** What a reader pastes, as a score reply: a reply, its NDJSON lines, or rows of rollouts.jsonl. */

import { isRolloutRow, replyOfRows } from "./rollout_rows.js";

/** What was pasted cannot be shown; the message says why. */
export class PasteError extends Error {}

const COLUMNS = ["text", "bytes", "class", "student", "e_c", "e_ctr", "selected", "residual", "modulated"];

/**
 * The reply that a text holds.
 *
 * @param {string} text JSON, or JSON a line.
 * @throws {PasteError} it is neither, holds something else, or its columns differ in length.
 */
export function replyOfText(text) {
  return checked(assemble(parse(text.trim())));
}

/** A reply from outside, once it is known to have the shape of one. Throws `PasteError`. */
export function checked(reply) {
  if (!reply.responses?.length) throw new PasteError("There is no response in it.");
  reply.responses.forEach(check);
  return { contexts: [], ...reply };
}

function parse(text) {
  if (text === "") throw new PasteError("There is nothing to show: paste a score reply or rows of rollouts.jsonl.");
  try {
    const value = JSON.parse(text);
    return Array.isArray(value) ? value : [value];
  } catch {
    return text.split("\n").flatMap((line, index) => {
      if (line.trim() === "") return [];
      try {
        return [JSON.parse(line)];
      } catch (error) {
        throw new PasteError(`Line ${index + 1} is not JSON: ${error.message}`);
      }
    });
  }
}

function assemble(values) {
  if (values.length && values.every(isRolloutRow)) return replyOfRows(values);
  if (values.length === 1 && Array.isArray(values[0]?.responses)) {
    return values[0];
  }
  const failed = values.find((value) => value?.error);
  if (failed) throw new PasteError(`The scoring failed: ${failed.error.message}`);
  const head = values.find((value) => value?.head)?.head;
  const responses = values.flatMap((value) => (value?.response ? [value.response] : []));
  if (head || responses.length) {
    responses.sort((a, b) => a.index - b.index);
    return { ...head, responses };
  }
  throw new PasteError(
    "This is neither a reply of POST /v1/distill/score (with \"responses\") nor rows of rollouts.jsonl " +
      '(with "tokens" and "token_ids").',
  );
}

function check(response, index) {
  const where = `Response ${index + 1}`;
  const { tokens, text } = response ?? {};
  if (!Array.isArray(tokens?.id)) throw new PasteError(`${where} has no list "tokens.id".`);
  if (tokens.text && typeof text !== "string") throw new PasteError(`${where} has no "text".`);
  const count = tokens.id.length;
  if (count === 0) throw new PasteError(`${where} has no tokens.`);
  tokens.log_probs ??= {};
  const columns = [
    ...COLUMNS.map((name) => [name, tokens[name]]),
    ...Object.entries(tokens.log_probs).map(([name, values]) => [`log_probs.${name}`, values]),
    ...Object.entries(tokens.top_k ?? {}).map(([name, values]) => [`top_k.${name}`, values]),
  ];
  for (const [name, values] of columns) {
    if (values === null || values === undefined) continue;
    if (!Array.isArray(values) || values.length !== count) {
      throw new PasteError(
        `${where}: "${name}" has ${values.length ?? "no"} entries, but there are ${count} token ids.`,
      );
    }
  }
}
