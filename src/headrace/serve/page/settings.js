/* Sampling parameters: the panel's fields <-> the fields of a request. */

import { $, el, saved } from "./dom.js";

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
const LIMITS = { completion: 128, chat: 1024 }; // max_tokens, until it is changed
let onChange = () => {};

/** Build the panel; `changed` is called after every change. */
export function buildSettings(changed) {
  onChange = changed;
  for (const { name, label, hint, start, min, max, step, open } of SETTINGS) {
    const number = el("input", { type: "number", id: name, min, max: open ? null : max, step: step === 1 ? 1 : "any", placeholder: start === "" ? "random" : start });
    const slider = max !== undefined && name !== "n"
      && el("input", { type: "range", min, max, step, tabindex: -1, "aria-hidden": "true" });
    number.value = saved.get("settings", {})[name] ?? start;
    number.addEventListener("input", () => { if (slider) slider.value = number.value || start; update(); });
    if (slider) {
      slider.value = number.value;
      slider.addEventListener("input", () => { number.value = slider.value; update(); });
    }
    $("settings").append(el("div", { class: "setting", "data-name": name },
      el("label", { for: name }, label, hint ? el("small", {}, hint) : null), number, slider || null));
  }
  const stop = el("textarea", { id: "stop", rows: 2, spellcheck: "false", placeholder: "\\n\\n" });
  stop.value = saved.get("settings", {}).stop ?? "";
  stop.addEventListener("input", update);
  $("settings").append(el("div", { class: "setting", "data-name": "stop" },
    el("label", { for: "stop" }, "Stop strings", el("small", {}, "one a line; \\n is a new line")), stop));
  update();
}

/** An answer to a message may be longer than a completion, unless somebody set the limit. */
export function setDefaultLimit(mode) {
  const setting = SETTINGS.find(({ name }) => name === "max_tokens"), untouched = valueOf(setting) === setting.start;
  setting.start = LIMITS[mode];
  $("max_tokens").placeholder = setting.start;
  if (untouched) {
    $("max_tokens").value = setting.start;
    update();
  }
}

function valueOf({ name, start }) {
  const text = $(name).value.trim();
  return text === "" || Number.isNaN(Number(text)) ? start : Number(text);
}

const stopStrings = () => $("stop").value.split("\n").filter(Boolean)
  .map((line) => line.replace(/\\([nrt\\])/g, (_, c) => ({ n: "\n", r: "\r", t: "\t", "\\": "\\" })[c]));

/** The fields of a request that the panel sets. */
export function samplingFields() {
  const fields = {};
  for (const setting of SETTINGS) {
    const value = valueOf(setting);
    if (setting.always || value !== setting.start) fields[setting.name] = value;
  }
  if (stopStrings().length) fields.stop = stopStrings();
  return fields;
}

/** Whether all values can be sent; if not, the first wrong one is shown. */
export function settingsAreValid() {
  const wrong = [...document.querySelectorAll("#settings [type=number]")].find((input) => !input.checkValidity());
  if (wrong) {
    $("sampling").open = true;
    wrong.reportValidity();
  }
  return !wrong;
}

function update() {
  for (const setting of SETTINGS) {
    document.querySelector(`[data-name="${setting.name}"]`).classList.toggle("changed", valueOf(setting) !== setting.start);
  }
  document.querySelector('[data-name="stop"]').classList.toggle("changed", stopStrings().length > 0);
  saved.set("settings", Object.fromEntries([...SETTINGS.map(({ name }) => name), "stop"].map((name) => [name, $(name).value])));
  onChange();
}

$("reset").onclick = () => {
  for (const { name, start } of SETTINGS) { $(name).value = start; $(name).dispatchEvent(new Event("input")); }
  $("stop").value = "";
  update();
};
