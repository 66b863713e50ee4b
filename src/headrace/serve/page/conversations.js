/* Conversations <-> the browser's local storage: a list that stays over a reload, bounded in number and size.

   {id, title, system, updated, turns}; a turn of the user is {role, text, files: [{name, text}]}, one of the assistant is
   {role, answers: [{text, reason}], chosen}. */

import { saved } from "./dom.js";

const MOST = 100;
const MOST_TITLE = 60;

let all = readAll();
let currentId = saved.get("conversation", null);

function readAll() {
  const found = saved.get("conversations", []);
  return Array.isArray(found) ? found.filter((one) => typeof one?.id === "string" && Array.isArray(one.turns)) : [];
}

export const conversations = () => all;

/** What is stored, also by other tabs, but the open conversation as this tab has it. */
function merged() {
  const open = all.find(({ id }) => id === currentId);
  return readAll().map((one) => (open && one.id === open.id ? open : one));
}
addEventListener("storage", (event) => {
  if (event.key !== "headrace.conversations") return;
  all = merged();
  document.dispatchEvent(new Event("conversations-changed"));
});

/** The conversation that is open; a new one that is listed with its first turn. */
export function current() {
  return all.find(({ id }) => id === currentId) ?? draft;
}

let draft = fresh();
function fresh() {
  return { id: Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, "0")).join(""), title: "", system: "", updated: 0, turns: [] };
}

export function open(id) {
  currentId = id;
  saved.set("conversation", id);
}

export function begin() {
  draft = { ...fresh(), system: current().system };
  open(draft.id);
}

export function remove(id) {
  all = merged().filter((one) => one.id !== id);
  write();
  if (id === currentId) begin();
}

/** Keep the open conversation as it is now; the oldest are dropped where the browser has no more space. */
export function keep() {
  const one = current();
  if (!one.turns.length) return;
  one.updated = Date.now();
  one.title ||= one.turns[0].text.trim().replace(/\s+/g, " ").slice(0, MOST_TITLE) || one.turns[0].files[0]?.name || "Conversation";
  all = [one, ...merged().filter(({ id }) => id !== one.id)].slice(0, MOST);
  open(one.id);
  write();
}

function write() {
  let count = all.length;
  while (!saved.set("conversations", all.slice(0, count)) && count > 1) count = Math.floor(count / 2);
}

/** A turn as the model is told it. */
export function messageOf(turn) {
  if (turn.role === "assistant") return { role: "assistant", content: turn.answers[turn.chosen].text };
  const files = turn.files.map(({ name, text }) => {
    const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`{3,}/g)].map(([run]) => run.length + 1)));
    return `${name}:\n${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}`;
  });
  return { role: "user", content: [...files, turn.text].filter(Boolean).join("\n\n") };
}
