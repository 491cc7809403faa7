/**
 * What a token looks like: blanks and line ends to be seen, invisible and direction-changing
 * characters by their code points, pieces of a character by their bytes.
 */

const NAMED = { "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u007f": "␡" };
// Zero width, bidirectional control, soft hyphen, byte order mark: they hide or reorder text.
const INVISIBLE =
  /[\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
// A token that has no shape of its own: it joins or varies characters of its neighbours.
const SHAPELESS = /^[\u200c\u200d\ufe00-\ufe0f]+$/;

function codePoints(text) {
  return [...text]
    .map((one) => `U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`)
    .join(" ");
}

function withoutControls(text) {
  return text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, (one) =>
      String.fromCharCode(0x2400 + one.charCodeAt(0)),
    )
    .replace(/[\r\u00a0\u007f]/g, (one) => NAMED[one])
    .replace(INVISIBLE, (one) => `[${codePoints(one)}]`);
}

/** Text in which every blank, line end and control character is to be seen, on one line. */
export function visible(text) {
  return withoutControls(text)
    .replaceAll(" ", "·")
    .replace(/[\n\t]/g, (one) => NAMED[one]);
}

/** Bytes as two hexadecimal digits each. */
export function hexBytes(bytes) {
  return [...bytes].map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
}

const bytesOf = new WeakMap();

/** The bytes of each token of a response: its slice of the response's UTF-8, or null. */
export function tokenBytes(response) {
  if (!bytesOf.has(response)) bytesOf.set(response, sliceBytes(response));
  return bytesOf.get(response);
}

function sliceBytes(response) {
  const all = new TextEncoder().encode(response.text ?? "");
  return (response.tokens.bytes ?? response.tokens.id.map(() => null)).map((range) =>
    range === null ? null : all.subarray(range[0], range[1]),
  );
}

/**
 * How each token of a response stands in the running text.
 *
 * @returns {{text: string, boxed: boolean}[]} `boxed`: the token has no text of its own, and
 *   `text` are its bytes or code points, or its id where the reply has no texts at all.
 */
export function shownTokens(response) {
  const bytes = tokenBytes(response);
  const { id, text: texts } = response.tokens;
  return id.map((one, index) => {
    const text = texts?.[index] ?? null;
    if (text === null) return { text: `#${one}`, boxed: true };
    if (text === "") return { text: bytes[index]?.length ? hexBytes(bytes[index]) : "∅", boxed: true };
    if (SHAPELESS.test(text)) return { text: codePoints(text), boxed: true };
    const shown = withoutControls(text).replace(/[\n\t]/g, (one) => NAMED[one] + one);
    return { text: /^\p{M}/u.test(shown) ? `◌${shown}` : shown, boxed: false };
  });
}
