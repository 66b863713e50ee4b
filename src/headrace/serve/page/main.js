/* The address -> one of the three views; the theme; how far the model is. */

import { clientId } from "./api.js";
import { $, bytes, saved } from "./dom.js";
import { openLive } from "./live.js";
import { lastHash, openPredictions } from "./predictions.js";
import { hidePeek } from "./token_details.js";
import { loadModels } from "./write.js";

const TABS = ["write", "live", "predictions"];
const THEMES = { auto: "◐", light: "○", dark: "●" };

function showTab() {
  const name = TABS.find((tab) => location.hash.slice(1).split(/[/?]/)[0] === tab) ?? "write";
  for (const tab of TABS) {
    $(`view-${tab}`).hidden = tab !== name; // no id is a fragment: the browser would move the focus there
    $(`tab-${tab}`).setAttribute("aria-selected", tab === name);
    $(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
  }
  hidePeek();
  if (name === "live") openLive();
  if (name === "predictions") openPredictions(location.hash);
}

for (const tab of TABS) {
  $(`tab-${tab}`).onclick = () => {
    if ($(`view-${tab}`).hidden) location.hash = tab === "predictions" ? lastHash() : `#${tab}`;
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
document.addEventListener("view-changed", showTab);

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

const LOADING_MS = 500;

/** Shows how far the model is, until it is there; requests that are sent meanwhile wait for it. */
async function showLoading() {
  let state = {};
  try { state = await (await fetch(`/health?client=${clientId}`, { cache: "no-store" })).json(); } catch { /* the server is gone: call() says so */ }
  $("loading").hidden = state.status !== "loading";
  if ($("loading").hidden) return;
  const parts = [
    state.bytes_total && `${Math.floor(state.share * 100)} % of ${bytes(state.bytes_total)}`,
    state.rate,
    state.place ? `your request is number ${state.place} of ${state.waiting} that wait`
      : state.waiting && `${state.waiting} ${state.waiting === 1 ? "request waits" : "requests wait"}`,
  ].filter(Boolean);
  $("loading").textContent = `The model is loading${parts.length ? `: ${parts.join("; ")}` : ""}.`;
  setTimeout(showLoading, LOADING_MS);
}

setTheme(saved.get("theme", "auto") in THEMES ? saved.get("theme", "auto") : "auto");
loadModels();
showLoading();
showTab();
