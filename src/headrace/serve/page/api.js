/* Requests to this server -> responses, or problems in words for a person. */

import { $, el } from "./dom.js";

/** What went wrong, in words for a person. */
export class Problem extends Error {
  constructor(message, { wantsKey = false, wait_s = 0 } = {}) {
    super(message);
    this.wantsKey = wantsKey;
    this.wait_s = wait_s;
  }
}

export const apiKey = {
  get: () => { try { return sessionStorage.getItem("headrace.key") ?? ""; } catch { return ""; } },
  set: (key) => { try { sessionStorage.setItem("headrace.key", key); } catch { /* asked again next time */ } },
};

/** This page, to the server: it asks for its place among those that wait for the model. */
export const clientId = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** A response, or a Problem. */
export async function call(path, { body, signal } = {}) {
  const headers = { ...(body && { "content-type": "application/json", "x-client-id": clientId }), ...(apiKey.get() && { authorization: `Bearer ${apiKey.get()}` }) };
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted && error.name === "AbortError") throw error;
    connected(false);
    throw new Problem(`The server at ${location.host} does not answer. Is it still running? Start it again with: headrace serve`);
  }
  connected(true);
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  let message = "";
  try {
    const text = await response.text();
    try { message = JSON.parse(text).error.message; } catch { message = text.slice(0, 300); }
  } catch { /* no body to quote */ }
  const wait_s = Math.ceil(Number(response.headers.get("retry-after")) || 0);
  if (response.status === 401) {
    return new Problem(apiKey.get() ? "The server does not accept this API key." : "This server asks for an API key.", { wantsKey: true });
  }
  if (response.status === 429) return new Problem(`The server is busy: ${message || "its queue is full."}`, { wait_s: wait_s || 1 });
  if (response.status === 413) return new Problem(`The request is too large. ${message}`);
  if (response.status === 503) return new Problem(`The server takes no requests at the moment. ${message}`, { wait_s });
  if (response.status >= 500) return new Problem(`The server failed (${response.status}). ${message}`);
  return new Problem(message || `The server refused the request (${response.status}).`);
}

function connected(yes) {
  const text = yes ? "Connected" : "The server does not answer";
  $("dot").className = `dot ${yes ? "ok" : "bad"}`;
  $("dot").title = text;
  if ($("connection").textContent !== text) $("connection").textContent = text;
}

/** The data of server-sent events, one string each. */
export async function* eventsOf(response) {
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
export function showProblem(box, problem, again) {
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
export function askKey(again) {
  afterKey = again ?? null;
  $("key-field").value = apiKey.get();
  $("key-box").showModal();
}
$("key").onclick = () => askKey();
$("key-cancel").onclick = () => $("key-box").close();
$("key-form").onsubmit = () => {
  apiKey.set($("key-field").value.trim());
  document.dispatchEvent(new Event("key-changed"));
  afterKey?.();
};
