/**
 * The address that reproduces a view. It stands behind the #, which browsers send to no server:
 * `score=` (a compressed request, scored anew), `reply=` (a compressed reply) or `run=`, `step=` and
 * `rollout=`; then the settings of the view.
 */

import { DEFAULT_SETTINGS } from "./token_view.js";

/** Longer links are cut by mail and chat programs. */
export const MAX_LINK = 16_000;

const FLAGS = ["log", "oneScale", "gateOnly"];
const NUMBERS = ["response", "token"];
const PACKED = ["score", "reply"];
const PLACE = ["run", "step", "rollout"];

/** A link that cannot be read; the message says why. */
export class LinkError extends Error {}

// A compressed token, with its id, text and numbers, takes at least this many characters.
const LEAST_PER_TOKEN = 4;

/**
 * A source as parameters of a link, its request or reply compressed; null for a reply with so many
 * tokens that no link holds them.
 */
export async function packSource(source) {
  const tokens = (source.reply?.responses ?? []).reduce((sum, one) => sum + one.tokens.id.length, 0);
  if (tokens * LEAST_PER_TOKEN > MAX_LINK) return null;
  const packed = {};
  for (const [name, value] of Object.entries(source)) {
    packed[name] = PACKED.includes(name) ? await compress(JSON.stringify(value)) : String(value);
  }
  return packed;
}

/** The part of the address behind the #, for a source as `packSource` packs it. */
export function hashOf(packedSource, settings) {
  const parts = new URLSearchParams(packedSource);
  for (const name of FLAGS) if (settings[name]) parts.set(name, "1");
  for (const name of NUMBERS) {
    if (settings[name] !== DEFAULT_SETTINGS[name]) parts.set(name, settings[name]);
  }
  for (const name of settings.hidden) parts.append("hide", name);
  return `#${parts}`;
}

/**
 * What a hash says.
 *
 * @returns {Promise<?{source: Object, settings: Object}>} null when it is of no view.
 * @throws {LinkError} it was cut or changed.
 */
export async function readHash(hash) {
  const parts = new URLSearchParams(hash.slice(1));
  const source = {};
  for (const name of PACKED) if (parts.has(name)) source[name] = await unpack(parts.get(name));
  for (const name of PLACE) if (parts.has(name)) source[name] = parts.get(name);
  if (Object.keys(source).length === 0) return null;
  const settings = { hidden: parts.getAll("hide") };
  for (const name of FLAGS) settings[name] = parts.get(name) === "1";
  for (const name of NUMBERS) if (parts.has(name)) settings[name] = wholeNumber(name, parts.get(name));
  return { source, settings };
}

function wholeNumber(name, text) {
  if (!/^\d{1,9}$/.test(text)) throw new LinkError(`This link says ${name}=${text}, which is no whole number.`);
  return Number(text);
}

async function unpack(text) {
  try {
    return JSON.parse(await decompress(text));
  } catch {
    throw new LinkError("This link is damaged: it was probably cut. Ask for the JSON file instead.");
  }
}

async function compress(text) {
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

async function decompress(text) {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(binary, (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).text();
}
