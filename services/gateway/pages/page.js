/** The page at `/`: joins the sources (form, paste, live runs), the token view and the link. */

import { Access } from "./access.js";
import { element } from "./elements.js";
import { number } from "./numbers.js";
import { PasteError, checked, replyOfText } from "./pasted_scores.js";
import { RunPicker } from "./run_picker.js";
import { ScoreForm } from "./score_form.js";
import { ApiError, score } from "./scoring_api.js";
import { makeTabs, selectTab } from "./tabs.js";
import { TokenView } from "./token_view.js";
import { LinkError, MAX_LINK, hashOf, packSource, readHash } from "./view_link.js";

const byId = (id) => document.getElementById(id);
const SETTLED_MS = 300;

const view = new TokenView(byId("token-view"), keepAddress);
const form = new ScoreForm(byId("score-form"));
const access = new Access(byId("access"), useToken);
const picker = new RunPicker(
  byId("runs-form"),
  access,
  (reply, source) => show(reply, source),
  tell,
);
/** The source of what is shown, as parameters of a link. */
let packed = null;
let calling = null;
let settling = null;

/** Shows a reply, and makes the address reproduce it. */
async function show(reply, source, settings = {}) {
  tell(null);
  document.querySelector(".empty").hidden = true;
  document.querySelector(".share").hidden = false;
  byId("link-note").textContent = "";
  view.show(reply, settings);
  bringIntoWindow(byId("view"));
  packed = null;
  const made = await packSource(source);
  if (view.reply !== reply) return; // another one is shown by now
  packed = made;
  keepAddress();
}

/** Below the sources on a narrow window, the tokens would come up unseen. */
function bringIntoWindow(part) {
  if (part.getBoundingClientRect().top > window.innerHeight / 2) part.scrollIntoView();
}

/** Says what went wrong; an error that nobody expects is thrown on, for the console. */
function tell(error) {
  const known = [ApiError, PasteError, LinkError].some((kind) => error instanceof kind);
  const text = error && (known ? error.message : `This page failed: ${error.message}`);
  byId("problems").replaceChildren(...(text ? [element("p", { class: "notice error" }, text)] : []));
  if (error?.status === 401) access.ask();
  if (error && !known) throw error;
}

/** The link to what is shown, or null when it would be too long. */
function link() {
  const made = packed && location.href.split("#")[0] + hashOf(packed, view.settings);
  return made && made.length <= MAX_LINK ? made : null;
}

function keepAddress() {
  clearTimeout(settling);
  settling = setTimeout(() => {
    history.replaceState(null, "", link() ?? location.href.split("#")[0]);
  }, SETTLED_MS);
}

async function runScore(settings = {}) {
  calling?.abort();
  const own = new AbortController();
  calling = own;
  const request = form.request();
  setBusy(true);
  try {
    const reply = await score(request, access.bearer, own.signal);
    await show(reply, { score: request }, settings);
  } catch (error) {
    if (error.name !== "AbortError") tell(error);
  } finally {
    if (calling === own) setBusy(false);
  }
}

function setBusy(busy) {
  byId("score").disabled = busy;
  byId("score").textContent = busy ? "Scoring …" : "Score";
  byId("cancel").hidden = !busy;
  byId("view").setAttribute("aria-busy", String(busy));
}

async function showPasted(text) {
  try {
    const reply = replyOfText(text);
    await show(reply, { reply });
  } catch (error) {
    tell(error);
  }
}

/** Shows what the address says. A link to a request scores it anew. */
async function openAddress() {
  try {
    const wanted = await readHash(location.hash);
    if (wanted === null) return;
    const { source, settings } = wanted;
    if (source.score) {
      selectTab(byId("tab-score"));
      form.fill(source.score);
      await runScore(settings);
    } else if (source.reply) {
      await show(checked(source.reply), source, settings);
    } else {
      selectTab(byId("tab-runs"));
      if (await picker.pick(source)) view.show(view.reply, settings);
    }
  } catch (error) {
    tell(error);
  }
}

async function copyLink() {
  const made = link();
  const note = byId("link-note");
  if (made === null) {
    note.textContent =
      `This view does not fit a link: many programs cut links longer than ${number(MAX_LINK, 9)} ` +
      "characters. Download the JSON and share that: it can be opened under Paste.";
    return;
  }
  history.replaceState(null, "", made);
  try {
    await navigator.clipboard.writeText(made);
    note.textContent = "Copied.";
  } catch {
    note.textContent = "The browser does not let this page copy: take the link from the address bar.";
  }
}

function download() {
  const address = URL.createObjectURL(new Blob([JSON.stringify(view.reply)]));
  element("a", { href: address, download: "scores.json" }).click();
  URL.revokeObjectURL(address);
}

async function listRuns() {
  try {
    byId("tab-runs").hidden = !(await picker.load());
  } catch (error) {
    if (error.status === 401 && !access.bearer) access.ask();
    else tell(error);
  }
}

/** With another token there may be runs to list, and a link may open that did not. */
async function useToken() {
  tell(null);
  await listRuns();
  if (!view.reply) await openAddress();
}

makeTabs(document.querySelector('[role="tablist"]'));
byId("score-form").addEventListener("submit", (event) => {
  event.preventDefault();
  runScore();
});
byId("cancel").addEventListener("click", () => calling?.abort());
byId("paste-form").addEventListener("submit", (event) => {
  event.preventDefault();
  showPasted(byId("pasted").value);
});
byId("opened").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) showPasted(await file.text());
});
byId("copy-link").addEventListener("click", copyLink);
byId("download").addEventListener("click", download);
window.addEventListener("hashchange", openAddress);
await listRuns();
await openAddress();
