/* A pointer, a tap or the arrow keys on a token -> its alternatives and its time. */

import { $, el, percent, seconds, visible } from "./dom.js";

export function showPeek(node, { announce = false } = {}) {
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
  if (announce) {
    $("peek-announcement").textContent = `${value.text === undefined ? lines[0] : visible(value.text)}, ${chance === null ? "" : percent(chance)}. ${rows.map(([text, logprob]) => `${visible(text)} ${percent(Math.exp(logprob))}`).join(", ")}`;
  }
}

export function hidePeek() {
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
  requestAnimationFrame(() => showPeek(node, { announce: true })); // after the scroll, which hides it
});
