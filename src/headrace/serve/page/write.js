/* The Write view: a prompt or a message, the request, the stream of the answer. */

import { Problem, apiKey, askKey, call, eventsOf, showProblem } from "./api.js";
import * as chats from "./conversations.js";
import { $, bytes, copy, el, label, saved, whole } from "./dom.js";
import { ENDS, Output, Pace, tokensOf } from "./output.js";
import { buildSettings, samplingFields, setDefaultLimit, settingsAreValid } from "./settings.js";
import { hidePeek } from "./token_details.js";

const TOP = 5; // alternatives of a token: as many as OpenAI's completions allow
const MOST_FILE_BYTES = 2 << 20;

let running = null; // {controller, pace}
let files = []; // of the message that is being written: {name, text}
let canCount = true, counting = 0;

const mode = () => document.querySelector("[name=mode]:checked").value;
const isChat = () => mode() === "chat";

// ---- the model --------------------------------------------------------------------------------------------------

export async function loadModels() {
  try {
    const { data } = await (await call("/v1/models")).json();
    const before = $("model").value || saved.get("model", "");
    $("model").replaceChildren(...data.map(({ id }) => el("option", { value: id }, label(id))));
    if (data.some(({ id }) => id === before)) $("model").value = before;
    const model = data.find(({ id }) => id === $("model").value);
    // A model that was made for conversations opens with one, until somebody chooses otherwise.
    const chosen = saved.get(`mode.${$("model").value}`, model?.has_chat_template ? "chat" : saved.get("mode", "completion"));
    setMode(chosen === "chat" ? "chat" : "completion");
    showCurl();
    countPrompt();
  } catch (problem) {
    if (!$("model").options.length) $("model").replaceChildren(el("option", { value: "" }, "no model"));
    if (problem.wantsKey) showProblem($("write-problem"), problem);
  }
}
$("model").onchange = () => { saved.set("model", $("model").value); showCurl(); };
document.addEventListener("key-changed", loadModels);

function setMode(name) {
  document.querySelector(`[value=${name}]`).checked = true;
  const chat = name === "chat";
  $("view-write").classList.toggle("is-chat", chat);
  $("prompt-label").textContent = chat ? "Message" : "Prompt";
  for (const id of ["system-box", "turns", "conversations", "show-conversations"]) $(id).hidden = !chat;
  $("outputs").hidden = chat;
  setDefaultLimit(name);
  if (chat) showConversation();
  showRun();
  showAttachments();
  countPrompt();
  showCurl();
}
document.querySelectorAll("[name=mode]").forEach((input) => {
  input.onchange = () => {
    saved.set("mode", input.value);
    saved.set(`mode.${$("model").value}`, input.value);
    setMode(input.value);
  };
});

// ---- the request ------------------------------------------------------------------------------------------------

/** Path and body of the request for the open conversation, or the prompt. */
function request({ turns = null } = {}) {
  const chat = isChat();
  const body = $("model").value ? { model: $("model").value } : {}; // none is known yet while it loads
  if (chat) {
    const system = $("system").value, open = chats.current().turns;
    const asked = turns ?? [...open, { role: "user", text: $("prompt").value, files }];
    body.messages = [...(system ? [{ role: "system", content: system }] : []), ...asked.map(chats.messageOf)];
  } else body.prompt = $("prompt").value;
  Object.assign(body, samplingFields());
  if ($("probabilities").checked) Object.assign(body, chat ? { logprobs: true, top_logprobs: TOP } : { logprobs: TOP });
  return { path: chat ? "/v1/chat/completions" : "/v1/completions", body: { ...body, stream: true, stream_options: { include_usage: true } } };
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
function curlCommand() {
  const { path, body } = request();
  const key = apiKey.get() ? "  -H \"Authorization: Bearer $API_KEY\" \\\n" : "";
  return `curl -N ${location.origin}${path} \\\n  -H 'Content-Type: application/json' \\\n${key}  -d ${quoted(JSON.stringify(body))}`;
}
function showCurl() { if ($("curl-box").open) $("curl").textContent = curlCommand(); }
$("curl-box").ontoggle = showCurl;
$("copy-curl").onclick = (event) => copy(curlCommand(), event.target);

function countPrompt() {
  clearTimeout(counting);
  if (!canCount || isChat()) return $("count").textContent = "";
  counting = setTimeout(async () => {
    const prompt = $("prompt").value;
    if (!prompt || !$("model").value) return $("count").textContent = "";
    try {
      const { count, max_model_len } = await (await call("/tokenize", { body: { model: $("model").value, prompt } })).json();
      if (prompt === $("prompt").value) $("count").textContent = `${whole(count)}${max_model_len ? ` of ${whole(max_model_len)}` : ""} tokens`;
    } catch (problem) {
      $("count").textContent = "";
      if (problem.message.includes("Not Found")) canCount = false;
    }
  }, 250);
}

$("prompt").oninput = () => { saved.set("prompt", $("prompt").value); countPrompt(); showCurl(); };
$("system").oninput = () => {
  chats.current().system = $("system").value;
  chats.keep();
  saved.set("system", $("system").value);
  showCurl();
};
$("probabilities").onchange = () => {
  saved.set("probabilities", $("probabilities").checked);
  document.querySelectorAll(".tokens").forEach((box) => box.classList.toggle("coloured", $("probabilities").checked));
  $("scale").hidden = !$("probabilities").checked;
  showCurl();
};

/** Another view's text as the prompt. */
export function usePrompt(text) {
  setMode("completion");
  $("prompt").value = text;
  $("prompt").oninput();
  location.hash = "#write";
  $("prompt").focus();
}

// ---- files ------------------------------------------------------------------------------------------------------

async function attach(list) {
  showProblem($("write-problem"), null);
  for (const file of list) {
    if (file.size > MOST_FILE_BYTES) {
      showProblem($("write-problem"), new Problem(`${label(file.name)} has ${bytes(file.size)}; the page takes text files up to ${bytes(MOST_FILE_BYTES)}.`));
      continue;
    }
    let text;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer()).replace(/\r\n?/g, "\n");
    } catch { /* not UTF-8 */ }
    if (text === undefined || text.includes("\0")) showProblem($("write-problem"), new Problem(`${label(file.name)} is not a text in UTF-8.`));
    else if (isChat()) files = [...files, { name: file.name, text }];
    else insertIntoPrompt(text);
  }
  showAttachments();
  showCurl();
}

function insertIntoPrompt(text) {
  const box = $("prompt");
  box.setRangeText(text, box.selectionStart, box.selectionEnd, "end");
  box.oninput();
  box.focus();
}

function showAttachments() {
  $("attachments").hidden = !isChat() || !files.length;
  $("attachments").replaceChildren(...files.map((file, i) => el("li", {}, label(file.name, 40), " ", el("span", { class: "quiet" }, bytes(new Blob([file.text]).size)),
    el("button", { type: "button", class: "bare", "aria-label": `Remove ${label(file.name, 40)}`, onclick: () => { files = files.filter((_, j) => j !== i); showAttachments(); showCurl(); } }, "×"))));
}

$("attach").onclick = () => $("file").click();
$("file").onchange = async () => { await attach($("file").files); $("file").value = ""; };
$("composer").ondragover = (event) => { if (event.dataTransfer.types.includes("Files")) event.preventDefault(); };
$("composer").ondrop = (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  attach(event.dataTransfer.files);
};

// ---- the answer -------------------------------------------------------------------------------------------------

function showStats(pace) {
  $("stats").replaceChildren(...pace.parts(Boolean(running)).map(([name, value]) =>
    el("span", {}, ...(name === "tokens/s" || name === "tokens" ? [el("b", {}, value), ` ${name}`] : [`${name} `, el("b", {}, value)]))));
}

function showRun() {
  $("run").toggleAttribute("data-running", Boolean(running));
  $("run").replaceChildren(running ? "Stop" : isChat() ? "Send" : "Run", el("kbd", {}, running ? "Esc" : isChat() && matchMedia("(pointer: fine)").matches ? "↵" : /Mac|iP/.test(navigator.platform) ? "⌘↵" : "Ctrl ↵"));
}

/** Send a body and give the chunks to the outputs; a Problem, or null when it ended or was stopped. */
async function stream(path, body, outputs) {
  const pace = new Pace(), controller = new AbortController();
  running = { controller, pace };
  showProblem($("write-problem"), null);
  $("progress").textContent = "Writing";
  showRun();
  const timer = setInterval(() => showStats(pace), 100);
  let problem = null;
  try {
    let complete = false;
    for await (const data of eventsOf(await call(path, { body, signal: controller.signal }))) {
      if (data === "[DONE]") { complete = true; break; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem(`The server failed while it was writing: ${chunk.error.message}`);
      if (chunk.usage) pace.usage = chunk.usage;
      for (const choice of chunk.choices ?? []) {
        const text = choice.text ?? choice.delta?.content ?? "", tokens = tokensOf(choice, pace.now());
        if (text || tokens.length) {
          outputs[choice.index].take(text, tokens);
          pace.count(Math.max(tokens.length, text ? 1 : 0));
        }
        if (choice.finish_reason) outputs[choice.index].finish(choice.finish_reason);
      }
    }
    if (!complete) throw new Problem("The answer broke off before its end. Was the server stopped?");
  } catch (error) {
    if (!controller.signal.aborted) {
      problem = error instanceof Problem ? error
        : new Problem(error instanceof SyntaxError ? `The server sent something that is not JSON: ${error.message}` : "The answer broke off before its end. Was the server stopped?");
    }
  }
  clearInterval(timer);
  for (const output of outputs) if (!output.reason) output.finish(problem ? "error" : "stopped");
  running = null;
  showRun();
  showStats(pace);
  $("progress").textContent = problem ? "" : `Done: ${pace.parts(false).map(([name, value]) => `${name} ${value}`).join(", ")}; ${ENDS[outputs[0].reason] ?? outputs[0].reason}`;
  return problem;
}

function report(problem, again) {
  if (!problem) return;
  showProblem($("write-problem"), problem, again);
  if (problem.wantsKey) askKey(again);
}

const some = (output) => output.text || output.values.length;
const button = (text, onclick, more = {}) => el("button", { type: "button", class: "bare", onclick, ...more }, text);
const titleOf = (i, count, name) => `${name}${count > 1 ? ` ${i + 1} of ${count}` : ""}`;

async function run() {
  if (running || !settingsAreValid()) return;
  if (isChat()) return send();
  const { path, body } = request(), count = body.n ?? 1;
  const outputs = Array.from({ length: count }, (_, i) => new Output(titleOf(i, count, "Output"), (output) => [
    button("Add to prompt", () => { $("prompt").value += output.text; $("prompt").oninput(); $("prompt").focus(); }),
    button("Copy", (event) => copy(output.text, event.target))]));
  $("outputs").replaceChildren(...outputs.map((output) => output.node));
  $("outputs").toggleAttribute("data-many", count > 1);
  const problem = await stream(path, body, outputs);
  if (problem && !outputs.some(some)) outputs.forEach((output) => output.node.remove());
  report(problem, run);
}

// ---- conversations ----------------------------------------------------------------------------------------------

function send() {
  const text = $("prompt").value;
  if (!text.trim() && !files.length) return $("prompt").focus();
  const turn = { role: "user", text, files };
  files = [];
  $("prompt").value = "";
  $("prompt").oninput();
  showAttachments();
  return answer([...chats.current().turns, turn], { giveBack: turn });
}

/** Let the model answer the last of these turns, which become the conversation. */
async function answer(turns, { giveBack = null, earlier = [] } = {}) {
  const conversation = chats.current(), before = conversation.turns;
  conversation.turns = turns;
  conversation.system = $("system").value;
  const { path, body } = request({ turns }), count = body.n ?? 1;
  const reply = { role: "assistant", answers: [...earlier, ...Array.from({ length: count }, () => ({ text: "", reason: "" }))], chosen: earlier.length };
  turns.push(reply);
  chats.keep();
  showConversation();
  const boxes = $("turns").lastElementChild;
  const outputs = Array.from({ length: count }, (_, i) => answerOf(reply, earlier.length + i, turns.length - 1, { live: true }));
  [...boxes.children].slice(earlier.length).forEach((node, i) => node.replaceWith(outputs[i].node));
  boxes.scrollIntoView({ block: "nearest" });
  const problem = await stream(path, body, outputs);
  outputs.forEach((output, i) => { reply.answers[earlier.length + i] = { text: output.text, reason: output.reason }; });
  if (!outputs.some(some)) { // without an answer, all is as it was before
    conversation.turns = giveBack ? before : earlier.length ? [...turns.slice(0, -1), { ...reply, answers: earlier, chosen: earlier.length - 1 }] : turns.slice(0, -1);
    if (giveBack && chats.current() === conversation) {
      $("prompt").value = giveBack.text;
      files = giveBack.files;
      $("prompt").oninput();
    }
    if (!conversation.turns.length) chats.remove(conversation.id);
    showAttachments();
  }
  if (chats.current() === conversation) chats.keep();
  if (problem || !outputs.some(some)) showConversation();
  else showList();
  report(problem, giveBack ? run : () => answer(turns.slice(0, -1), { earlier }));
}

function answerOf(reply, i, place, { live = false } = {}) {
  const count = reply.answers.length, title = titleOf(i, count, "Answer"), { text, reason } = reply.answers[i];
  const choose = (event) => { // of several answers, the conversation goes on with this one
    reply.chosen = i;
    event.target.closest(".outputs").querySelectorAll("[data-choose]").forEach((other) => other.setAttribute("aria-pressed", other === event.target));
    chats.keep();
  };
  const actions = (output) => [
    count > 1 ? button("Go on with this", choose, { "data-choose": i, "aria-pressed": String(i === reply.chosen) }) : null,
    i === count - 1 ? button("Regenerate", () => regenerate(place)) : null,
    button("Copy", (event) => copy(output.text, event.target)),
  ].filter(Boolean);
  return live ? new Output(title, actions, { formatted: true }) : Output.stored(title, actions, text, reason);
}

function regenerate(place) {
  if (running || !settingsAreValid()) return;
  const { turns } = chats.current();
  answer(turns.slice(0, place), { earlier: turns[place].answers.filter(({ text }) => text) });
}

function userTurn(turn, place) {
  const text = el("pre", { dir: "auto" }, turn.text);
  const edit = () => {
    if (running) return;
    const field = el("textarea", { rows: 4, "aria-label": "Edited message", dir: "auto" });
    field.value = turn.text;
    const back = () => showConversation();
    const save = () => {
      if (running || !settingsAreValid() || (!field.value.trim() && !turn.files.length)) return;
      answer([...chats.current().turns.slice(0, place), { ...turn, text: field.value }]);
    };
    field.onkeydown = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); event.stopPropagation(); save(); }
      if (event.key === "Escape") { event.stopPropagation(); back(); }
    };
    node.replaceChildren(el("h3", {}, "You"), field, el("div", { class: "row" }, el("button", { type: "button", onclick: save }, "Send edited"), button("Cancel", back)));
    field.focus();
  };
  const node = el("div", { class: "turn user" },
    el("header", {}, el("h3", {}, "You"), el("div", { class: "push" }, button("Edit", edit), button("Copy", (event) => copy(turn.text, event.target)))),
    turn.files.length ? el("ul", { class: "attachments" }, ...turn.files.map((file) => el("li", { title: file.name }, label(file.name, 40), " ", el("span", { class: "quiet" }, bytes(new Blob([file.text]).size))))) : null,
    turn.text ? text : null);
  return node;
}

function showConversation() {
  const conversation = chats.current();
  $("system").value = conversation.system;
  $("turns").replaceChildren(...conversation.turns.map((turn, place) => {
    if (turn.role === "user") return userTurn(turn, place);
    const box = el("div", { class: "outputs" }, ...turn.answers.map((_, i) => answerOf(turn, i, place).node));
    box.toggleAttribute("data-many", turn.answers.length > 1);
    return box;
  }));
  showList();
}

function showList() {
  const open = chats.current().id;
  $("conversation-list").replaceChildren(...chats.conversations().map((one) => el("li", {},
    el("button", { type: "button", class: "bare", "aria-current": String(one.id === open), title: label(one.title, 200),
      onclick: () => { if (running) stop(); chats.open(one.id); showConversation(); showCurl(); setListOpen(false); } }, label(one.title, 100)),
    el("button", { type: "button", class: "bare delete", "aria-label": `Delete ${label(one.title, 40)}`, title: "Delete",
      onclick: () => { if (running) stop(); chats.remove(one.id); showConversation(); showCurl(); } }, "×"))));
}

document.addEventListener("conversations-changed", showList);

function setListOpen(yes) {
  $("conversations").toggleAttribute("data-open", yes);
  $("show-conversations").setAttribute("aria-expanded", yes);
}
$("show-conversations").onclick = () => setListOpen(!$("conversations").hasAttribute("data-open"));
$("new-conversation").onclick = () => {
  if (running) stop();
  chats.begin();
  showConversation();
  showCurl();
  setListOpen(false);
  $("prompt").focus();
};

// ---- keys -------------------------------------------------------------------------------------------------------

/** Stop what is being written; the server stops too. */
export function stop() { running?.controller.abort(); }
export const isRunning = () => Boolean(running);

$("desk").onsubmit = (event) => { event.preventDefault(); running ? stop() : run(); };
$("desk").onkeydown = $("sampling").onkeydown = (event) => {
  const sends = event.key === "Enter" && (event.ctrlKey || event.metaKey || (isChat() && event.target === $("prompt") && !event.shiftKey && !event.isComposing && matchMedia("(pointer: fine)").matches));
  if (sends) { event.preventDefault(); run(); }
};
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("key-box").open) return;
  hidePeek();
  stop();
});

$("prompt").value = saved.get("prompt", "");
if (!chats.current().system) chats.current().system = saved.get("system", "");
$("probabilities").checked = saved.get("probabilities", true);
$("scale").hidden = !$("probabilities").checked;
if (matchMedia("(max-width: 820px)").matches) $("sampling").open = false;
buildSettings(showCurl);
setMode(saved.get("mode", "completion"));
