/** Rows of a run's `rollouts.jsonl` in the shape of a score reply. */

/** Whether a parsed JSON value is such a row. */
export function isRolloutRow(value) {
  return Array.isArray(value?.tokens) && Array.isArray(value.token_ids);
}

/** The reply that shows rows, one response a row. */
export function replyOfRows(rows) {
  const responses = rows.map(responseOf);
  const names = new Set(responses.flatMap(({ tokens }) => Object.keys(tokens.log_probs)));
  return { contexts: [...names].map((name) => ({ name })), responses };
}

function responseOf(row, index) {
  const logProbs = {};
  if (row.correct_hint) logProbs.correct = row.correct_hint;
  (row.wrong_hints ?? []).forEach((values, place) => {
    logProbs[`wrong ${place + 1}`] = values;
  });
  return {
    index,
    advantage: row.advantage,
    text: row.tokens.join(""),
    e_c_from: row.e_c ? "student" : null,
    missing: row.correct_hint
      ? []
      : [{ context: "correct", reason: "NOT_SCORED" }],
    tokens: {
      id: row.token_ids,
      text: row.tokens,
      bytes: byteRanges(row.tokens),
      class: row.token_classes ?? null,
      student: row.student ?? null,
      log_probs: logProbs,
      e_c: row.e_c ?? null,
      e_ctr: row.e_ctr ?? null,
      selected: row.selected ?? null,
      residual: null,
      modulated: row.modulated ?? null,
    },
  };
}

/** Where each text stands in the UTF-8 of all; null for the tokens that share a character. */
function byteRanges(texts) {
  const encoder = new TextEncoder();
  const shared = texts.map((text) => text === "" || text.includes("\ufffd"));
  let end = 0;
  return texts.map((text, index) => {
    const start = end;
    end += encoder.encode(text).length;
    return shared[index] || shared[index - 1] ? null : [start, end];
  });
}
