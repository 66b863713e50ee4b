/* Text from outside reaches the document as text only: el() and textContent. The policy above forbids the rest
   (no HTML sinks, no script but this one, no request but to this server). */

// ---- small words ----------------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);

/** An element; children are nodes or plain text. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const saved = {
  get(name, otherwise) {
    try { return JSON.parse(localStorage.getItem(`headrace.${name}`)) ?? otherwise; } catch { return otherwise; }
  },
  set(name, value) {
    try { localStorage.setItem(`headrace.${name}`, JSON.stringify(value)); } catch { /* private window: forget */ }
  },
};

const whole = new Intl.NumberFormat("en").format;

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return size >= 100 || Number.isInteger(value) ? String(Math.round(value)) : String(+value.toPrecision(3));
}

function bytes(count) {
  const power = Math.min(4, Math.floor(Math.log2(Math.max(count, 1)) / 10));
  return `${+(count / 1024 ** power).toPrecision(3)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

const seconds = (s) => (s < 1 ? `${+(s * 1000).toPrecision(3)} ms` : `${+s.toPrecision(3)} s`);
const percent = (p) => (p >= 0.9995 ? "100 %" : p < 0.0005 ? "<0.1 %" : `${(100 * p).toFixed(1)} %`);

/** A token so that its spaces, control and direction characters can be seen. */
function visible(text) {
  return text.replace(/[\s\p{Cc}\p{Cf}]/gu, (c) => ({ " ": "·", "\n": "⏎", "\t": "⇥" }[c]
    ?? (c === "\u200d" || c === "\ufe0f" ? c : `\\u{${c.codePointAt(0).toString(16)}}`))) || "(empty)";
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch { // a page that did not come over https or from this machine has no clipboard
    const area = el("textarea", { "aria-hidden": "true", class: "unseen" });
    area.value = text;
    button.after(area);
    area.select();
    button.textContent = document.execCommand("copy") ? "Copied" : "Not allowed";
    area.remove();
    button.focus();
  }
  setTimeout(() => { button.textContent = before; }, 1200);
}

// ---- the server -----------------------------------------------------------------------------------------------

/** What went wrong, in words for a person. */
class Problem extends Error {
  constructor(message, { wantsKey = false, wait_s = 0 } = {}) {
    super(message);
    this.wantsKey = wantsKey;
    this.wait_s = wait_s;
  }
}

const apiKey = {
  get: () => { try { return sessionStorage.getItem("headrace.key") ?? ""; } catch { return ""; } },
  set: (key) => { try { sessionStorage.setItem("headrace.key", key); } catch { /* asked again next time */ } },
};

/** A response, or a Problem. */
async function call(path, { body, signal } = {}) {
  const headers = { ...(body && { "content-type": "application/json" }), ...(apiKey.get() && { authorization: `Bearer ${apiKey.get()}` }) };
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted && error.name === "AbortError") throw error;
    connected(false);
    throw new Problem(`The server at ${location.host} does not answer. Is it still running? Start it again with: headrace serve`);
  }
  connected(true);
  if (!response.ok) throw await inWords(response);
  return response;
}

async function inWords(response) {
  let said = "";
  try {
    const text = await response.text();
    try { said = JSON.parse(text).error.message; } catch { said = text.slice(0, 300); }
  } catch { /* no body to quote */ }
  const wait_s = Math.ceil(Number(response.headers.get("retry-after")) || 0);
  if (response.status === 401 || response.status === 403) {
    return new Problem(apiKey.get() ? "The server does not accept this API key." : "This server asks for an API key.", { wantsKey: true });
  }
  if (response.status === 429) return new Problem(`The server is busy: ${said || "its queue is full."}`, { wait_s: wait_s || 1 });
  if (response.status === 413) return new Problem(`The request is too large. ${said}`);
  if (response.status === 503) return new Problem(`The server takes no requests at the moment. ${said}`, { wait_s });
  if (response.status >= 500) return new Problem(`The server failed (${response.status}). ${said}`);
  return new Problem(said || `The server refused the request (${response.status}).`);
}

function connected(yes) {
  const text = yes ? "Connected" : "The server does not answer";
  $("dot").className = `dot ${yes ? "ok" : "bad"}`;
  $("dot").title = text;
  if ($("connection").textContent !== text) $("connection").textContent = text;
}

/** The data of server-sent events, one string each. */
async function* eventsOf(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (held + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
      held = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trimStart();
    }
  } finally {
    reader.cancel().catch(() => { /* broken or stopped already */ });
  }
}

/** Show a problem with its cure; `again` is what to do once it is cured. */
function showProblem(box, problem, again) {
  clearInterval(box.timer);
  box.hidden = !problem;
  if (!problem) return box.replaceChildren();
  const text = el("p", {}, problem.message);
  const button = problem.wantsKey
    ? el("button", { type: "button", onclick: () => askKey(again) }, "Enter API key")
    : again && el("button", { type: "button", onclick: again }, "Try again");
  box.replaceChildren(text, button ?? "");
  if (problem.wait_s && button) {
    let left = problem.wait_s;
    const tick = () => {
      button.disabled = left > 0;
      button.textContent = left > 0 ? `Wait ${left} s` : "Try again";
      if (left-- <= 0) clearInterval(box.timer);
    };
    tick();
    box.timer = setInterval(tick, 1000);
  }
}

let afterKey = null;
function askKey(again) {
  afterKey = again ?? null;
  $("key-field").value = apiKey.get();
  $("key-box").showModal();
}
$("key").onclick = () => askKey();
$("key-cancel").onclick = () => $("key-box").close();
$("key-form").onsubmit = () => {
  apiKey.set($("key-field").value.trim());
  loadModels();
  afterKey?.();
};

async function loadModels() {
  try {
    const { data } = await (await call("/v1/models")).json();
    const before = $("model").value || saved.get("model", "");
    $("model").replaceChildren(...data.map(({ id }) => el("option", { value: id }, id)));
    if (data.some(({ id }) => id === before)) $("model").value = before;
    showCurl();
    countPrompt();
  } catch (problem) {
    if (!$("model").options.length) $("model").replaceChildren(el("option", { value: "" }, "no model"));
    if (problem.wantsKey) showProblem($("write-problem"), problem);
  }
}
$("model").onchange = () => { saved.set("model", $("model").value); showCurl(); };

// ---- Write: what is asked for -----------------------------------------------------------------------------------

const SETTINGS = [
  { name: "temperature", label: "Temperature", hint: "0: greedy", start: 1, min: 0, max: 2, step: 0.05, always: true },
  { name: "top_p", label: "Top-p", start: 1, min: 0, max: 1, step: 0.01 },
  { name: "top_k", label: "Top-k", hint: "0: off", start: 0, min: 0, max: 200, step: 1, open: true },
  { name: "min_p", label: "Min-p", start: 0, min: 0, max: 1, step: 0.01 },
  { name: "repetition_penalty", label: "Repetition penalty", start: 1, min: 0.5, max: 2, step: 0.01 },
  { name: "presence_penalty", label: "Presence penalty", start: 0, min: -2, max: 2, step: 0.05 },
  { name: "frequency_penalty", label: "Frequency penalty", start: 0, min: -2, max: 2, step: 0.05 },
  { name: "max_tokens", label: "Max tokens", start: 128, min: 1, step: 1, always: true },
  { name: "seed", label: "Seed", hint: "empty: random", start: "", min: 0, step: 1 },
  { name: "n", label: "Answers (n)", start: 1, min: 1, max: 16, step: 1 },
];
const TOP = 5; // alternatives of a token: as many as OpenAI's completions allow

function buildSettings() {
  for (const { name, label, hint, start, min, max, step, open } of SETTINGS) {
    const number = el("input", { type: "number", id: name, min, max: open ? null : max, step: step === 1 ? 1 : "any", placeholder: start === "" ? "random" : start });
    const slider = max !== undefined && name !== "n"
      && el("input", { type: "range", min, max, step, tabindex: -1, "aria-hidden": "true" });
    number.value = saved.get("settings", {})[name] ?? start;
    number.addEventListener("input", () => { if (slider) slider.value = number.value || start; changed(); });
    if (slider) {
      slider.value = number.value;
      slider.addEventListener("input", () => { number.value = slider.value; changed(); });
    }
    $("settings").append(el("div", { class: "setting", "data-name": name },
      el("label", { for: name }, label, hint ? el("small", {}, hint) : null), number, slider || null));
  }
  const stop = el("textarea", { id: "stop", rows: 2, spellcheck: "false", placeholder: "\\n\\n" });
  stop.value = saved.get("settings", {}).stop ?? "";
  stop.addEventListener("input", changed);
  $("settings").append(el("div", { class: "setting", "data-name": "stop" },
    el("label", { for: "stop" }, "Stop strings", el("small", {}, "one a line; \\n is a new line")), stop));
}

function settingValue({ name, start }) {
  const text = $(name).value.trim();
  return text === "" || Number.isNaN(Number(text)) ? start : Number(text);
}

const stopStrings = () => $("stop").value.split("\n").filter(Boolean)
  .map((line) => line.replace(/\\([nrt\\])/g, (_, c) => ({ n: "\n", r: "\r", t: "\t", "\\": "\\" })[c]));

function changed() {
  for (const setting of SETTINGS) {
    document.querySelector(`[data-name="${setting.name}"]`).classList.toggle("changed", settingValue(setting) !== setting.start);
  }
  document.querySelector('[data-name="stop"]').classList.toggle("changed", stopStrings().length > 0);
  saved.set("settings", Object.fromEntries([...SETTINGS.map(({ name }) => name), "stop"].map((name) => [name, $(name).value])));
  showCurl();
}

$("reset").onclick = () => {
  for (const { name, start } of SETTINGS) { $(name).value = start; $(name).dispatchEvent(new Event("input")); }
  $("stop").value = "";
  changed();
};

const mode = () => document.querySelector("[name=mode]:checked").value;
let turns = []; // of the conversation: {role, content}

/** Path and body of the request as the page stands. */
function request() {
  const chat = mode() === "chat";
  const body = { model: $("model").value };
  if (chat) {
    const system = $("system").value;
    body.messages = [...(system ? [{ role: "system", content: system }] : []), ...turns, { role: "user", content: $("prompt").value }];
  } else body.prompt = $("prompt").value;
  for (const setting of SETTINGS) {
    const value = settingValue(setting);
    if (setting.always || value !== setting.start) body[setting.name] = value;
  }
  if (stopStrings().length) body.stop = stopStrings();
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

let counting = 0, canCount = true;
function countPrompt() {
  clearTimeout(counting);
  if (!canCount || mode() === "chat") return $("count").textContent = "";
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
$("system").oninput = () => { saved.set("system", $("system").value); showCurl(); };
$("probabilities").onchange = () => {
  saved.set("probabilities", $("probabilities").checked);
  document.querySelectorAll(".tokens").forEach((box) => box.classList.toggle("coloured", $("probabilities").checked));
  $("scale").hidden = !$("probabilities").checked;
  showCurl();
};

function setMode() {
  const chat = mode() === "chat";
  $("prompt-label").textContent = chat ? "Message" : "Prompt";
  $("system-box").hidden = $("turns").hidden = !chat;
  $("forget").hidden = !chat || !turns.length;
  $("outputs").hidden = chat;
  saved.set("mode", mode());
  countPrompt();
  showCurl();
}
document.querySelectorAll("[name=mode]").forEach((input) => { input.onchange = setMode; });
$("forget").onclick = () => { turns = []; $("turns").replaceChildren(); setMode(); $("prompt").focus(); };

// ---- Write: what comes back --------------------------------------------------------------------------------------

const SCALE = [[0.9, "≥ 90 %"], [0.5, "≥ 50 %"], [0.2, "≥ 20 %"], [0.05, "≥ 5 %"], [0, "less"]];
const shade = (logprob) => `p${SCALE.findIndex(([least]) => Math.exp(logprob) >= least)}`;
$("scale").append(...SCALE.map(([, text], i) => el("li", {}, el("i", { class: `p${i}` }), text)));

const ENDS = { stop: "ended", length: "cut at max tokens", stopped: "stopped by you", error: "failed", content_filter: "filtered" };

/** One choice of an answer: its text as it arrives, each token in an element of its own. */
class Output {
  constructor(index, title, actions) {
    this.index = index;
    this.text = "";
    this.values = []; // of the tokens, in order
    this.owed = []; // tokens whose text has not come yet: a part of a character, or held back by a stop string
    this.end = el("span", { class: "end" });
    this.box = el("div", { class: `tokens${$("probabilities").checked ? " coloured" : ""}`, tabindex: 0, dir: "auto", role: "group",
      "aria-label": `${title}; left and right arrow keys go through its tokens` });
    this.box.values = this.values;
    this.node = el("article", { class: "output", "aria-busy": "true" },
      el("header", {}, el("h3", {}, title), this.end, el("div", {}, ...actions(this))), this.box);
  }

  /** A chunk: the text is what is true; tokens are laid over it. */
  take(text, tokens) {
    this.follow();
    this.text += text;
    for (const token of tokens) {
      token.node = el("span", { class: `t ${token.logprob == null ? "" : shade(token.logprob)}`, "data-i": this.values.length });
      this.values.push(token);
      this.box.append(token.node);
    }
    const queue = [...this.owed, ...tokens];
    let rest = text, settled = 0;
    queue.forEach((token, i) => {
      const at = token.text ? rest.indexOf(token.text) : -1;
      if (at < 0 || (at > 0 && (i === settled || at > 16 * (i - settled)))) return;
      if (at > 0) queue[i - 1].node.textContent = rest.slice(0, at); // a character cut across the tokens before
      token.node.textContent = token.text;
      rest = rest.slice(at + token.text.length);
      settled = i + 1;
    });
    if (rest && queue.length > settled) {
      queue.at(-1).node.textContent = rest;
      settled = queue.length;
    } else if (rest) this.box.append(el("span", {}, rest));
    this.owed = queue.slice(settled);
  }

  /** Who reads at the end stays at the end; once a frame, since it costs a layout. */
  follow() {
    if (this.frame || this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight >= 30) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.box.scrollTop = this.box.scrollHeight;
    });
  }

  finish(reason) {
    this.reason = reason;
    this.end.textContent = `· ${ENDS[reason] ?? reason}`;
    this.node.setAttribute("aria-busy", "false");
  }
}

/** Tokens of a chunk's choice: completions and chat say it differently. */
function tokensOf(choice, at_s) {
  const said = choice.logprobs;
  if (said?.content) {
    return said.content.map(({ token, logprob, top_logprobs = [] }) => ({
      text: token, logprob, at_s, top: top_logprobs.map((top) => [top.token, top.logprob]) }));
  }
  return (said?.tokens ?? []).map((text, i) => ({
    text, logprob: said.token_logprobs?.[i], at_s, top: Object.entries(said.top_logprobs?.[i] ?? {}).sort((a, b) => b[1] - a[1]) }));
}

/** Times of one answer, in seconds since it was asked for. */
class Pace {
  constructor() { this.began = performance.now(); this.tokens = 0; this.first_s = null; this.last_s = null; this.usage = null; }
  now() { return (performance.now() - this.began) / 1000; }
  count(tokens) {
    this.last_s = this.now();
    this.first_s ??= this.last_s;
    this.tokens += tokens;
  }
  parts(running) {
    if (this.first_s === null) return running ? [["waiting", seconds(this.now())]] : [];
    const spent = (running ? this.now() : this.last_s) - this.first_s;
    const total = this.usage?.completion_tokens ?? this.tokens;
    return [["first token", seconds(this.first_s)],
      ["tokens/s", total > 1 && spent > 0 ? short((total - 1) / spent) : "–"],
      ["tokens", whole(total)], ["in", seconds(running ? this.now() : this.last_s)]];
  }
}

let running = null; // {controller, pace}

function showStats(pace) {
  $("stats").replaceChildren(...pace.parts(Boolean(running)).map(([name, value]) =>
    el("span", {}, ...(name === "tokens/s" || name === "tokens" ? [el("b", {}, value), ` ${name}`] : [`${name} `, el("b", {}, value)]))));
}

function showRun() {
  $("run").toggleAttribute("data-running", Boolean(running));
  $("run").replaceChildren(running ? "Stop" : "Run", el("kbd", {}, running ? "Esc" : /Mac|iP/.test(navigator.platform) ? "⌘↵" : "Ctrl ↵"));
}

async function run() {
  if (running) return;
  const chat = mode() === "chat", asked = $("prompt").value;
  if (chat && !asked.trim()) return $("prompt").focus();
  const wrong = [...document.querySelectorAll("#settings [type=number]")].find((input) => !input.checkValidity());
  if (wrong) {
    $("sampling").open = true;
    return wrong.reportValidity();
  }
  const { path, body } = request();
  const pace = new Pace(), controller = new AbortController();
  running = { controller, pace };
  showProblem($("write-problem"), null);
  $("said").textContent = "Writing";
  showRun();

  const place = chat ? el("div", { class: "outputs" }) : $("outputs");
  const outputs = Array.from({ length: body.n ?? 1 }, (_, i) => new Output(i,
    `${chat ? "Answer" : "Output"}${body.n > 1 ? ` ${i + 1} of ${body.n}` : ""}`, (output) => actionsOf(output, chat, place)));
  place.replaceChildren(...outputs.map((output) => output.node));
  place.toggleAttribute("data-many", outputs.length > 1);
  const said = chat && el("div", { class: "turn user" }, el("h3", {}, "You"), el("pre", { dir: "auto" }, asked));
  if (chat) {
    $("turns").append(said, place);
    turns.push({ role: "user", content: asked });
    $("prompt").value = "";
    setMode();
    place.scrollIntoView({ block: "nearest" });
  }
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
  const any = outputs.some((output) => output.text || output.values.length);
  $("said").textContent = problem ? "" : `Done: ${pace.parts(false).map(([name, value]) => `${name} ${value}`).join(", ")}; ${ENDS[outputs[0].reason] ?? outputs[0].reason}`;
  if (problem && !any) outputs.forEach((output) => output.node.remove());
  if (chat && any) turns.push({ role: "assistant", content: outputs[0].text });
  else if (chat) { // nothing was said: the message goes back to where it can be sent again
    turns.pop();
    said.remove();
    place.remove();
    $("prompt").value = asked;
    setMode();
  }
  if (problem) {
    showProblem($("write-problem"), problem, run);
    if (problem.wantsKey) askKey(run);
  }
}

function actionsOf(output, chat, place) {
  const button = (text, onclick, more = {}) => el("button", { type: "button", class: "bare", onclick, ...more }, text);
  const keep = (event) => { // of several answers, the conversation goes on with this one
    turns[[...$("turns").children].filter((node) => !node.matches(".user")).indexOf(place) * 2 + 1].content = output.text;
    place.querySelectorAll("[aria-pressed]").forEach((other) => other.setAttribute("aria-pressed", other === event.target));
  };
  const several = settingValue(SETTINGS.find(({ name }) => name === "n")) > 1;
  return [
    chat && several ? button("Go on with this", keep, { "aria-pressed": String(!output.index) }) : null,
    chat ? null : button("Add to prompt", () => { $("prompt").value += output.text; $("prompt").oninput(); $("prompt").focus(); }),
    button("Copy", (event) => copy(output.text, event.target)),
  ].filter(Boolean);
}

function stop() { running?.controller.abort(); }

$("desk").onsubmit = (event) => { event.preventDefault(); running ? stop() : run(); };
$("desk").onkeydown = $("sampling").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
};
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("key-box").open) return;
  hidePeek();
  stop();
});

// ---- a closer look at one token ------------------------------------------------------------------------------------

function showPeek(node, { spoken = false } = {}) {
  const box = node.parentElement, value = box.values?.[node.dataset.i];
  if (!value) return;
  document.querySelector(".here")?.classList.remove("here");
  node.classList.add("here");
  const chance = value.logprob == null ? null : Math.exp(value.logprob);
  const rows = [...(value.top ?? [])];
  if (rows.length && !rows.some(([text]) => text === value.text)) rows.push([value.text, value.logprob]);
  const before = box.values[node.dataset.i - 1]?.at_s;
  const lines = [
    value.id === undefined ? null : `id ${value.id}`,
    chance === null ? null : `log-probability ${value.logprob.toFixed(3)}`,
    value.at_s === undefined ? null : `at ${seconds(value.at_s)}${before === undefined ? "" : `, +${seconds(value.at_s - before)}`}`,
  ].filter(Boolean);
  $("peek").replaceChildren(
    el("p", {}, el("code", {}, value.text === undefined ? `token ${+node.dataset.i + 1}` : visible(value.text)), el("b", {}, chance === null ? "" : percent(chance))),
    ...lines.map((line) => el("div", { class: "quiet" }, line)),
    rows.length ? el("ul", { class: "alts" }, ...rows.map(([text, logprob]) => {
      const bar = el("i");
      bar.style.width = `${100 * Math.exp(logprob)}%`;
      return el("li", { class: `alt${text === value.text ? " chosen" : ""}` }, el("code", {}, visible(text)), el("span", { class: "track" }, bar), el("span", {}, percent(Math.exp(logprob))));
    })) : "");
  $("peek").hidden = false;
  const at = node.getClientRects()[0] ?? node.getBoundingClientRect(), size = $("peek").getBoundingClientRect();
  const below = at.bottom + 8 + size.height < innerHeight;
  $("peek").style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
  $("peek").style.top = `${Math.max(8, below ? at.bottom + 8 : at.top - size.height - 8)}px`;
  if (spoken) {
    $("peek-said").textContent = `${value.text === undefined ? lines[0] : visible(value.text)}, ${chance === null ? "" : percent(chance)}. ${rows.map(([text, logprob]) => `${visible(text)} ${percent(Math.exp(logprob))}`).join(", ")}`;
  }
}

function hidePeek() {
  $("peek").hidden = true;
  document.querySelector(".here")?.classList.remove("here");
}

document.addEventListener("pointerover", (event) => {
  const node = event.target.closest?.("[data-i]");
  if (node) showPeek(node);
  else if (event.pointerType === "mouse") hidePeek();
});
document.addEventListener("click", (event) => {
  const node = event.target.closest?.("[data-i]");
  node ? showPeek(node) : hidePeek();
});
document.addEventListener("scroll", hidePeek, { capture: true, passive: true });
document.addEventListener("focusout", (event) => { if (event.target.values) hidePeek(); });
document.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], box = event.target;
  if (!box.values?.length || (!step && event.key !== "Home" && event.key !== "End")) return;
  event.preventDefault();
  const here = box.querySelector(".here"), last = box.values.length - 1;
  const i = event.key === "Home" ? 0 : event.key === "End" ? last : here ? Math.max(0, Math.min(last, +here.dataset.i + step)) : 0;
  const node = box.querySelector(`[data-i="${i}"]`);
  if (!node) return;
  node.scrollIntoView({ block: "nearest" });
  requestAnimationFrame(() => showPeek(node, { spoken: true })); // after the scroll, which hides it
});

// ---- Live: /metrics -> samples ---------------------------------------------------------------------------------------

const QUANTILE_WINDOW_S = 10;

/** Prometheus text -> {name: value or [[upper bound, count]]}, labels summed; "vllm:" and other prefixes left out. */
function parseMetrics(text) {
  const found = {};
  for (const line of text.split("\n")) {
    const match = /^([A-Za-z_:][\w:]*)(\{.*\})?\s+(\S+)/.exec(line);
    if (!match) continue;
    const name = match[1].replace(/^.*:/, "").replace(/^(headrace|vllm)_/, ""), value = Number(match[3].replace("Inf", "Infinity"));
    const bound = /[{,]le="([^"]*)"/.exec(match[2] ?? "")?.[1];
    if (bound === undefined) found[name] = (found[name] ?? 0) + value;
    else {
      const buckets = (found[name] ??= new Map()), le = bound === "+Inf" ? Infinity : Number(bound);
      buckets.set(le, (buckets.get(le) ?? 0) + value);
    }
  }
  return found;
}

/** The q-quantile of what a histogram took between two moments, as Prometheus estimates it; null: nothing. */
function quantile(q, now, before) {
  if (!now) return null;
  const bounds = [...now.keys()].sort((a, b) => a - b);
  const counts = bounds.map((le) => now.get(le) - (before?.get(le) ?? 0));
  const total = counts.at(-1), rank = q * total;
  if (!(total > 0) || counts.some((count) => count < 0)) return null; // nothing new, or the server began anew
  const i = counts.findIndex((count) => count >= rank);
  if (bounds[i] === Infinity) return bounds[i - 1] ?? null;
  const low = i ? bounds[i - 1] : 0, under = i ? counts[i - 1] : 0;
  return low + (bounds[i] - low) * (rank - under) / (counts[i] - under);
}

const live = { samples: [], raw: [], paused: false, started: false, cursor: null, since: null };

function sampleOf(metrics, t) {
  live.raw.push({ t, metrics });
  while (live.raw.length > 2 && t - live.raw[1].t >= QUANTILE_WINDOW_S * 1000) live.raw.shift();
  const oldest = live.raw[0], recent = live.raw.findLast((raw) => t - raw.t >= 1900) ?? oldest;
  const rate = (name) => {
    const grown = metrics[name] - recent.metrics[name];
    return t > recent.t && grown >= 0 ? grown / ((t - recent.t) / 1000) : null;
  };
  const both = (name) => [0.5, 0.95].map((q) => (oldest.t < t ? quantile(q, metrics[name], oldest.metrics[name]) : null));
  return {
    t,
    requests: [metrics.num_requests_running ?? null, metrics.num_requests_waiting ?? null],
    tokens: [rate("generation_tokens_total"), rate("prompt_tokens_total")],
    first: both("time_to_first_token_seconds_bucket"),
    between: both("inter_token_latency_seconds_bucket"),
    queue: both("request_queue_time_seconds_bucket"),
    whole: both("e2e_request_latency_seconds_bucket"),
    total: metrics.generation_tokens_total ?? null,
  };
}

async function poll() {
  const began = Date.now();
  if (!live.paused) {
    try {
      const text = await (await call("/metrics", { signal: AbortSignal.timeout(5000) })).text();
      live.samples.push(sampleOf(parseMetrics(text), began));
      if (live.samples.length > 1000) live.samples.shift();
      live.since = null;
      $("live-state").textContent = "Read once a second";
    } catch (problem) {
      live.since ??= new Date().toLocaleTimeString();
      const text = problem instanceof Problem ? problem.message : "The server does not answer in time.";
      $("live-state").textContent = `${text} (since ${live.since}; trying again)`;
    }
    drawLive();
  }
  setTimeout(poll, Math.max(100, 1000 - (Date.now() - began)));
}

$("pause").onclick = () => {
  live.paused = !live.paused;
  $("pause").setAttribute("aria-pressed", live.paused);
  $("pause").textContent = live.paused ? "Go on" : "Pause";
  $("live-state").textContent = live.paused ? `Paused at ${new Date().toLocaleTimeString()}` : "";
};
$("span").onchange = () => { saved.set("span", $("span").value); drawLive(); };

// ---- Live: samples -> plots -----------------------------------------------------------------------------------------

const LEFT = 54, RIGHT = 8, TOP_EDGE = 8, FLOOR = 22;
const CHARTS = [
  { key: "requests", title: "Requests", unit: "at this moment", names: ["running", "waiting"], write: short, least: 4 },
  { key: "tokens", title: "Throughput", unit: "tokens/s", names: ["generated", "prompt"], write: short, least: 10 },
  { key: "first", title: "Time to first token", unit: "over 10 s", names: ["median", "95th percentile"], write: seconds, time: true },
  { key: "between", title: "Between two tokens", unit: "over 10 s", names: ["median", "95th percentile"], write: seconds, time: true },
  { key: "queue", title: "Wait in the queue", unit: "over 10 s", names: ["median", "95th percentile"], write: seconds, time: true },
  { key: "whole", title: "Whole request", unit: "over 10 s", names: ["median", "95th percentile"], write: seconds, time: true },
];

function ticksUpTo(top, about = 4) {
  const rough = top / about, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  return Array.from({ length: Math.ceil(top / step - 1e-9) + 1 }, (_, i) => i * step);
}

function buildCharts() {
  for (const chart of CHARTS) {
    chart.plot = el("div", { class: "plot", tabindex: 0, role: "img" });
    chart.values = chart.names.map(() => el("b", {}, "–"));
    $("charts").append(el("figure", {}, el("h2", {}, chart.title, el("span", { class: "quiet small" }, ` · ${chart.unit}`)),
      el("ul", { class: "legend" }, ...chart.names.map((name, i) => el("li", {},
        svg("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, svg("path", { class: `s${i}`, d: "M1 4H21" })), name, chart.values[i]))),
      chart.plot));
    chart.plot.onpointermove = (event) => {
      const box = chart.plot.getBoundingClientRect(), part = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
      live.cursor = part < 0 || part > 1 ? null : 1 - part;
      drawLive();
    };
    chart.plot.onpointerleave = chart.plot.onblur = () => { live.cursor = null; drawLive(); };
    chart.plot.onkeydown = (event) => {
      const step = { ArrowLeft: 0.01, ArrowRight: -0.01 }[event.key];
      if (!step) return;
      event.preventDefault();
      live.cursor = Math.max(0, Math.min(1, (live.cursor ?? 0) + step));
      drawLive();
    };
  }
  new ResizeObserver(drawLive).observe($("charts"));
}

function drawLive() {
  if ($("view-live").hidden) return;
  const span_s = Number($("span").value), now = live.samples.at(-1)?.t ?? Date.now();
  const shown = live.samples.filter(({ t }) => now - t <= span_s * 1000);
  const at = live.cursor === null ? null : now - live.cursor * span_s * 1000;
  const near = at === null ? shown.at(-1) : shown.reduce((best, s) => (!best || Math.abs(s.t - at) < Math.abs(best.t - at) ? s : best), null);
  for (const chart of CHARTS) drawChart(chart, { shown, now, span_s, near, cursor: live.cursor !== null });
  drawTiles(live.samples.at(-1));
}

function drawChart(chart, { shown, now, span_s, near, cursor }) {
  const width = chart.plot.clientWidth, height = chart.plot.clientHeight;
  const known = shown.flatMap((s) => s[chart.key]).filter((v) => v !== null);
  const highest = Math.max(...known, chart.least ?? 0) || (chart.time ? 0.01 : 1);
  const ticks = ticksUpTo(highest * 1.06), top = ticks.at(-1), inMs = chart.time && top < 1;
  const x = (t) => LEFT + (1 - (now - t) / (span_s * 1000)) * (width - LEFT - RIGHT);
  const y = (v) => height - FLOOR - (v / top) * (height - FLOOR - TOP_EDGE);
  const picture = svg("svg", { "aria-hidden": "true" });
  for (const tick of ticks) {
    const name = inMs ? `${+(tick * 1000).toPrecision(3)} ms` : chart.time ? `${+tick.toPrecision(3)} s` : short(tick);
    picture.append(svg("path", { class: tick ? "gridline" : "axis", d: `M${LEFT} ${y(tick)}H${width - RIGHT}` }),
      svg("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, name));
  }
  const steps = width < 380 ? 2 : span_s === 120 ? 4 : 5;
  for (let i = 0; i <= steps; i++) {
    const ago = Math.round(span_s * (steps - i) / steps), name = ago === 0 ? "now" : ago < 60 || span_s === 120 ? `−${ago} s` : `−${ago / 60} min`;
    picture.append(svg("text", { x: x(now - ago * 1000), y: height - 5, "text-anchor": i === 0 ? "start" : i === steps ? "end" : "middle" }, name));
  }
  chart.names.forEach((_, i) => {
    for (const piece of pieces(shown, (s) => s[chart.key][i])) {
      picture.append(piece.length === 1
        ? svg("circle", { class: `s${i}`, cx: x(piece[0][0]), cy: y(piece[0][1]), r: 1.6 })
        : svg("path", { class: `s${i}`, d: `M${piece.map(([t, v]) => `${x(t).toFixed(1)} ${y(v).toFixed(1)}`).join("L")}` }));
    }
    const value = near?.[chart.key][i];
    chart.values[i].textContent = value == null ? "–" : chart.write(value);
    if (cursor && value != null) picture.append(svg("circle", { class: `s${i}`, cx: x(near.t), cy: y(value), r: 3 }));
  });
  if (cursor && near) {
    const ago = Math.round((now - near.t) / 1000);
    picture.append(svg("path", { class: "cross", d: `M${x(near.t)} ${TOP_EDGE}V${height - FLOOR}` }),
      svg("text", { x: Math.min(Math.max(x(near.t), LEFT + 26), width - 34), y: TOP_EDGE + 8, "text-anchor": "middle", class: "over" }, ago ? `${ago} s ago` : "now"));
  }
  chart.plot.replaceChildren(picture, ...(known.length ? [] : [el("p", {}, shown.length > 3 ? "Nothing in this time" : "Waiting for the first values")]));
  chart.plot.setAttribute("aria-label", `${chart.title}, last ${span_s / 60} minutes: ${chart.names.map((name, i) =>
    `${name} ${chart.values[i].textContent}`).join(", ")}`);
}

/** Runs of [time, value] without a hole: where nothing was read or nothing happened, the line ends. */
function pieces(samples, valueOf) {
  const found = [];
  let last = null;
  for (const sample of samples) {
    const value = valueOf(sample);
    if (value === null) { last = null; continue; }
    if (last === null || sample.t - last > 3500) found.push([]);
    found.at(-1).push([sample.t, value]);
    last = sample.t;
  }
  return found;
}

function drawTiles(sample) {
  const tiles = [
    ["Running", sample?.requests[0], short, ""], ["Waiting", sample?.requests[1], short, ""],
    ["Generated", sample?.tokens[0], short, "tokens/s"], ["First token", sample?.first[0], seconds, "median"],
    ["Between tokens", sample?.between[0], seconds, "median"], ["Generated so far", sample?.total, short, "tokens"],
  ];
  $("tiles").replaceChildren(...tiles.map(([name, value, write, unit]) => el("div", {}, el("dt", {}, name),
    el("dd", {}, value == null ? "–" : write(value), " ", el("small", {}, value == null ? "" : unit)))));
}

// ---- Predictions --------------------------------------------------------------------------------------------------

const PAGE_ROWS = 50, EXCERPT = 160, MOST_CHIPS = 2000;
const book = { stores: [], view: null, page: null, trail: [], row: null, timer: 0, serial: 0 };

/** The view as it stands in the address: #predictions/NAME?query=...&errors=1&offset=...&row=... */
function viewOf(hash) {
  const [path, search = ""] = hash.replace(/^#predictions\/?/, "").split("?"), params = new URLSearchParams(search);
  const number = (name) => (/^\d{1,15}$/.test(params.get(name) ?? "") ? Number(params.get(name)) : null);
  let name = "";
  try { name = decodeURIComponent(path); } catch { /* an address that someone broke */ }
  return { name, query: params.get("query") ?? "", errors: params.get("errors") === "1", offset: number("offset") ?? 0, row: number("row") };
}

function hashOf({ name, query, errors, offset, row }) {
  const params = new URLSearchParams();
  if (query) params.set("query", query);
  if (errors) params.set("errors", "1");
  if (offset) params.set("offset", offset);
  if (row !== null) params.set("row", row);
  return `#predictions${name ? `/${encodeURIComponent(name)}` : ""}${params.size ? `?${params}` : ""}`;
}

function look(change, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", hashOf({ ...book.view, ...change }));
  showTab();
}

async function loadStores() {
  try {
    book.stores = (await (await call("/predictions")).json()).data;
    showProblem($("rows-problem"), null);
  } catch (problem) {
    showProblem($("rows-problem"), problem, () => openBook(viewOf(location.hash)));
    return;
  }
  const focused = document.activeElement?.dataset?.store;
  $("stores").replaceChildren(...book.stores.map((store) => {
    const { name, rows, rows_expected, errors, error } = store;
    const runs = rows_expected && rows < rows_expected;
    return el("li", {}, el("button", { type: "button", "data-store": name, "aria-current": name === book.view?.name, title: error ?? "",
      onclick: () => look({ name, query: "", errors: false, offset: 0, row: null }) },
    el("b", {}, name),
    error ? el("span", { class: "small" }, error.includes("job.json") ? "nothing stored yet" : "cannot be read")
      : el("span", { class: "small quiet number" }, `${whole(rows)}${runs ? ` of ${whole(rows_expected)}` : ""} rows · ${bytes(store.bytes)}`),
    errors ? el("span", { class: "small bad number" }, `${whole(errors)} error${errors === 1 ? "" : "s"}`) : null,
    runs ? el("progress", { max: rows_expected, value: rows, "aria-label": `${name}: rows committed` }) : null,
    store.model ? el("span", { class: "small quiet", title: `Fingerprint of the model: ${store.model}` }, [String(store.model).slice(0, 8), store.request?.engine, store.request?.dtype].filter(Boolean).join(" · ")) : null));
  }));
  if (focused !== undefined) $("stores").querySelector(`[data-store="${CSS.escape(focused)}"]`)?.focus();
}

async function openBook(view) {
  const before = book.view;
  book.view = view;
  await loadStores();
  follow();
  if (!view.name && book.stores.length) return look({ name: book.stores[0].name }, { replace: true });
  $("finder").hidden = !view.name;
  if (!view.name) {
    const unknown = !$("rows-problem").hidden; // what it shows cannot be said while it does not answer
    $("list").replaceChildren(unknown ? "" : el("p", { class: "empty" }, "This server shows no prediction store. Start it with one: ", el("code", {}, "headrace serve --predictions DIR")));
    return;
  }
  if ($("query") !== document.activeElement) $("query").value = view.query;
  $("only-errors").checked = view.errors;
  const same = before && book.page && ["name", "query", "errors", "offset"].every((field) => before[field] === view[field]);
  if (!same) {
    if (!before || ["name", "query", "errors"].some((field) => before[field] !== view[field])) book.trail = [];
    await loadRows();
  }
  await openRow();
}

const pathOf = ({ name }, params) => `/predictions/${encodeURIComponent(name)}?${new URLSearchParams(params)}`;

/** Rows of the view; a search that finds little is many short answers, shown as they come. */
async function loadRows() {
  const view = book.view, serial = ++book.serial, rows = [];
  let next = view.offset, page = null;
  $("list").setAttribute("aria-busy", "true");
  try {
    do {
      page = await (await call(pathOf(view, { offset: next, limit: PAGE_ROWS - rows.length, excerpt: EXCERPT, errors: view.errors, ...(view.query && { query: view.query }) }))).json();
      if (serial !== book.serial) return;
      rows.push(...page.data);
      next = page.next_offset;
      book.page = { ...page, data: rows };
      showRows(next !== null && rows.length < PAGE_ROWS);
    } while (next !== null && rows.length < PAGE_ROWS);
    showProblem($("rows-problem"), null);
  } catch (problem) {
    if (serial !== book.serial) return;
    book.page = { data: [], next_offset: null, rows: 0 };
    showRows(false);
    showProblem($("rows-problem"), problem, loadRows);
  } finally {
    if (serial === book.serial) $("list").removeAttribute("aria-busy");
  }
}

function showRows(searching) {
  const { data, next_offset, rows } = book.page, { query, errors, offset } = book.view;
  const last = data.at(-1)?.position ?? offset;
  $("place").textContent = searching ? `${whole(data.length)} found; looking at row ${whole(next_offset)} of ${whole(rows)}`
    : query || errors ? `${data.length ? whole(data.length) : "none"} found${next_offset !== null || offset ? `, rows ${whole(offset + 1)} to ${whole(next_offset ?? rows)}` : ""} of ${whole(rows)}`
    : data.length ? `${whole(offset + 1)} to ${whole(last + 1)} of ${whole(rows)}` : `${whole(rows)} rows`;
  $("before").disabled = offset === 0;
  $("after").disabled = searching || next_offset === null;
  if (!data.length) {
    $("list").replaceChildren(el("p", { class: "empty" }, searching ? "Searching…" : query || errors ? "No row matches." : "No row is committed yet; they come in parts."));
    return;
  }
  const head = el("tr", {}, el("th", { scope: "col", class: "c-id" }, "Row"), el("th", { scope: "col", class: "wide" }, "Prompt"), el("th", { scope: "col" }, "Text"),
    el("th", { scope: "col", class: "c-end wide" }, "End"), el("th", { scope: "col", class: "c-tokens number wide" }, "Tokens"));
  $("list").replaceChildren(el("table", { "aria-label": "Rows" }, el("thead", {}, head), el("tbody", {}, ...data.map(rowOf))));
  markRow();
}

function rowOf(row) {
  const open = () => look({ row: row.position });
  const said = row.error ? row.error.message : row.text, query = book.view.query.toLowerCase();
  const elsewhere = query && !said.toLowerCase().includes(query) && row.prompt.toLowerCase().includes(query);
  const name = `${row.prompt_id}${row.sample_index ? ` #${row.sample_index}` : ""}`;
  return el("tr", { "data-row": row.position, class: row.error ? "failed" : "", onclick: open },
    el("td", {}, el("button", { type: "button", class: "link" }, name)),
    el("td", { class: "text wide" }, marked("div", row.prompt)), el("td", { class: "text" }, marked("div", said), elsewhere ? el("p", { class: "also" }, "in the prompt: ", marked("span", row.prompt)) : null),
    el("td", { class: "end wide" }, row.finish_reason), el("td", { class: "number wide" }, whole(row.completion_tokens)));
}

/** Text with what is searched for marked. */
function marked(tag, text) {
  const node = el(tag, { dir: "auto" }), query = book.view.query.toLowerCase(), lower = text.toLowerCase();
  if (!query || lower.length !== text.length) { node.textContent = text; return node; }
  let from = 0;
  for (let at = lower.indexOf(query); at >= 0; at = lower.indexOf(query, from)) {
    node.append(text.slice(from, at), el("mark", {}, text.slice(at, at + query.length)));
    from = at + query.length;
  }
  node.append(text.slice(from));
  return node;
}

function markRow() {
  $("list").querySelectorAll("tr[data-row]").forEach((tr) => tr.setAttribute("aria-selected", Number(tr.dataset.row) === book.view.row));
}

async function openRow() {
  const { row, name } = book.view, closes = row === null && $("detail").contains(document.activeElement);
  markRow();
  $("shelf").toggleAttribute("data-open", row !== null);
  if ($("detail").hidden) $("detail").replaceChildren(); // never another row's values while this one's come
  $("detail").hidden = row === null;
  if (closes) $("list").querySelector(`[data-row="${$("detail").dataset.row}"] button`)?.focus();
  if (row === null) return;
  try {
    const { data } = await (await call(pathOf(book.view, { offset: row, limit: 1 }))).json();
    if (book.view.row !== row || book.view.name !== name) return;
    if (data.length) showRow(data[0]);
    else showProblem($("rows-problem"), new Problem(`There is no row ${whole(row + 1)} in ${name}.`));
  } catch (problem) {
    showProblem($("rows-problem"), problem, openRow);
  }
}

function showRow(row) {
  const logprobs = row.logprobs ?? [], sum = logprobs.reduce((a, b) => a + b, 0), mean = sum / logprobs.length;
  const fact = (name, value) => (value == null ? null : el("div", {}, el("dt", {}, name), el("dd", {}, String(value))));
  const places = book.page.data.map(({ position }) => position), here = places.indexOf(row.position);
  const step = (text, to) => el("button", { type: "button", class: "bare", disabled: to === undefined, onclick: () => look({ row: to }, { replace: true }) }, text);
  const part = (title, content) => el("section", {}, el("h3", {}, title), content);
  const focused = $("detail").contains(document.activeElement) ? document.activeElement.textContent : null;
  $("detail").dataset.row = row.position;
  $("detail").replaceChildren(
    el("div", { class: "row" }, el("h2", {}, `${row.prompt_id} #${row.sample_index}`),
      el("span", { class: "push row" }, step("Previous row", here > 0 ? places[here - 1] : undefined), step("Next row", here >= 0 ? places[here + 1] : undefined),
        el("button", { type: "button", onclick: () => look({ row: null }) }, "Close"))),
    row.error ? el("div", { class: "problem" }, el("p", {}, `${row.error.type}: ${row.error.message}`)) : "",
    el("dl", { class: "facts" }, ...[
      fact("finish reason", row.finish_reason), fact("prompt tokens", whole(row.prompt_tokens)), fact("completion tokens", whole(row.completion_tokens)),
      logprobs.length ? fact("mean log-probability", mean.toFixed(3)) : null, logprobs.length ? fact("perplexity", (+Math.exp(-mean).toPrecision(4))) : null,
      fact("position", whole(row.position))].filter(Boolean)),
    part("Prompt", marked("pre", row.prompt)), part("Text", marked("pre", row.text)),
    row.token_ids.length ? part(`Token ids${logprobs.length ? ", coloured by probability" : ""}`, chips(row.token_ids.map((id, i) => ({ id, logprob: logprobs[i] })))) : "",
    row.prompt_logprobs ? el("details", {}, el("summary", { class: "small quiet" }, "Log-probabilities of the prompt's tokens"),
      chips(row.prompt_logprobs.map((logprob) => ({ logprob })))) : "",
    el("div", { class: "row" },
      el("button", { type: "button", onclick: () => { $("prompt").value = row.prompt; document.querySelector("[value=completion]").checked = true; setMode(); $("prompt").oninput(); location.hash = "#write"; $("prompt").focus(); } }, "Use prompt in Write"),
      el("button", { type: "button", onclick: (event) => copy(row.text, event.target) }, "Copy text"),
      el("button", { type: "button", onclick: (event) => copy(JSON.stringify(row, null, 2), event.target) }, "Copy as JSON")));
  // What had the focus was replaced, or lies hidden behind the row on a small screen.
  const heir = [...$("detail").querySelectorAll("button:enabled")].find((button) => button.textContent === focused);
  if (heir) heir.focus();
  else if (focused !== null || !$("list").checkVisibility()) $("detail").focus();
}

function chips(values) {
  const box = el("div", { class: "chips coloured", tabindex: 0, role: "group", "aria-label": "Tokens; left and right arrow keys go through them" });
  box.values = values;
  const add = (from, to) => box.append(...values.slice(from, to).map(({ id, logprob }, i) =>
    el("span", { class: `chip ${logprob == null ? "" : shade(logprob)}`, "data-i": from + i }, String(id ?? (logprob == null ? "–" : logprob.toFixed(2))))));
  add(0, MOST_CHIPS);
  if (values.length > MOST_CHIPS) {
    box.append(el("button", { type: "button", onclick: (event) => { event.target.remove(); add(MOST_CHIPS); } }, `${whole(values.length - MOST_CHIPS)} more`));
  }
  return box;
}

/** A job that runs is followed: counts always, rows where the last page has room. */
function follow() {
  clearTimeout(book.timer);
  book.timer = setTimeout(async () => {
    if ($("view-predictions").hidden) return;
    if (!document.hidden && !$("list").hasAttribute("aria-busy")) {
      await loadStores();
      const rows = book.stores.find(({ name }) => name === book.view.name)?.rows;
      if (rows !== undefined && rows !== book.page?.rows) {
        if (book.page?.next_offset === null && book.page.data.length < PAGE_ROWS) await loadRows();
        else if (book.page) { book.page.rows = rows; showRows(false); }
      }
    }
    follow();
  }, 3000);
}

let typing = 0;
function find() {
  clearTimeout(typing);
  const query = $("query").value, errors = $("only-errors").checked;
  if (query !== book.view.query || errors !== book.view.errors) look({ query, errors, offset: 0, row: null }, { replace: true });
}
$("query").oninput = () => { clearTimeout(typing); typing = setTimeout(find, 250); };
$("only-errors").onchange = find;
$("finder").onsubmit = (event) => { event.preventDefault(); find(); };
$("after").onclick = () => { book.trail.push(book.view.offset); look({ offset: book.page.next_offset, row: null }); };
$("before").onclick = () => {
  const back = book.trail.pop() ?? (book.view.query || book.view.errors ? 0 : Math.max(0, book.view.offset - PAGE_ROWS));
  look({ offset: back, row: null });
};
$("list").onkeydown = (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], links = [...$("list").querySelectorAll(".link")];
  if (!step || !links.includes(document.activeElement)) return;
  event.preventDefault();
  links[links.indexOf(document.activeElement) + step]?.focus();
};
$("detail").onkeydown = (event) => { if (event.key === "Escape" && !running) look({ row: null }); };

// ---- frame -----------------------------------------------------------------------------------------------------------

const TABS = ["write", "live", "predictions"];

function showTab() {
  const name = TABS.find((tab) => location.hash.slice(1).split(/[/?]/)[0] === tab) ?? "write";
  for (const tab of TABS) {
    $(`view-${tab}`).hidden = tab !== name; // no id is a fragment: the browser would move the focus there
    $(`tab-${tab}`).setAttribute("aria-selected", tab === name);
    $(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
  }
  hidePeek();
  if (name === "live") {
    if (!live.started) { live.started = true; poll(); }
    drawLive();
  }
  if (name === "predictions") openBook(viewOf(location.hash));
}

for (const tab of TABS) {
  $(`tab-${tab}`).onclick = () => {
    if ($(`view-${tab}`).hidden) location.hash = tab === "predictions" && book.view ? hashOf(book.view) : `#${tab}`;
  };
  $(`tab-${tab}`).onkeydown = (event) => {
    const to = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!to && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    const next = event.key === "Home" ? TABS[0] : event.key === "End" ? TABS.at(-1) : TABS[(TABS.indexOf(tab) + to + TABS.length) % TABS.length];
    $(`tab-${next}`).focus();
    $(`tab-${next}`).click();
  };
}
addEventListener("hashchange", showTab);

const THEMES = { auto: "◐", light: "○", dark: "●" };
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = THEMES[name];
  $("theme").title = `Theme: ${name}`;
  $("theme").setAttribute("aria-label", `Theme: ${name}`);
  saved.set("theme", name);
}
$("theme").onclick = () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
};

setTheme(saved.get("theme", "auto") in THEMES ? saved.get("theme", "auto") : "auto");
$("prompt").value = saved.get("prompt", "");
$("system").value = saved.get("system", "");
$("probabilities").checked = saved.get("probabilities", true);
$("span").value = saved.get("span", "300");
if (saved.get("mode", "completion") === "chat") document.querySelector("[value=chat]").checked = true;
if (matchMedia("(max-width: 820px)").matches) $("sampling").open = false;
buildSettings();
buildCharts();
changed();
setMode();
showRun();
$("scale").hidden = !$("probabilities").checked;
loadModels();
showTab();
