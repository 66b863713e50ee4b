/* Chunks of a stream -> one answer on the page: its text, its tokens, its times. */

import { $, el, seconds, short, whole } from "./dom.js";
import { markdown } from "./markdown.js";

const SCALE = [[0.9, "≥ 90 %"], [0.5, "≥ 50 %"], [0.2, "≥ 20 %"], [0.05, "≥ 5 %"], [0, "less"]];
const SLOW_TEXT = 20_000; // from this length on, Markdown is drawn a few times a second only

/** The class that colours a token by its probability. */
export const shade = (logprob) => `p${SCALE.findIndex(([least]) => Math.exp(logprob) >= least)}`;
$("scale").append(...SCALE.map(([, text], i) => el("li", {}, el("i", { class: `p${i}` }), text)));

export const ENDS = { stop: "ended", length: "cut at max tokens", stopped: "stopped by you", error: "failed", content_filter: "filtered" };

/** One choice of an answer: its text as it arrives, each token in an element of its own; a chat's also as Markdown. */
export class Output {
  /**
   * @param title - above the text
   * @param actions - function of the output that returns its buttons
   * @param formatted - whether the text is shown as Markdown, with the tokens on demand
   */
  constructor(title, actions, { formatted = false } = {}) {
    this.text = "";
    this.values = []; // of the tokens, in order
    this.pending = []; // tokens whose text has not come yet: a part of a character, or held back by a stop string
    this.formatted = formatted;
    this.end = el("span", { class: "end" });
    this.tokens = el("div", { class: `tokens${$("probabilities").checked ? " coloured" : ""}`, tabindex: 0, dir: "auto", role: "group",
      "aria-label": `${title}; left and right arrow keys go through its tokens` });
    this.tokens.values = this.values;
    this.page = el("div", { class: "markdown" });
    this.switch = formatted ? el("button", { type: "button", class: "bare", "aria-pressed": "false", hidden: true, onclick: () => this.showTokens(this.tokens.hidden) }, "Tokens") : null;
    this.tokens.hidden = formatted;
    this.page.hidden = !formatted;
    this.node = el("article", { class: "output", "aria-busy": "true" },
      el("header", {}, el("h3", {}, title), this.end, el("div", {}, this.switch, ...actions(this))), this.page, this.tokens);
  }

  /** An answer that was kept, without its tokens. */
  static stored(title, actions, text, reason) {
    const output = new Output(title, actions, { formatted: true });
    output.text = text;
    output.draw();
    output.finish(reason);
    return output;
  }

  showTokens(yes) {
    this.tokens.hidden = !yes;
    this.page.hidden = yes;
    this.switch.setAttribute("aria-pressed", yes);
  }

  /** A chunk: the text is what is true; tokens are laid over it. */
  take(text, tokens) {
    this.follow();
    this.text += text;
    for (const token of tokens) {
      token.node = el("span", { class: `t ${token.logprob == null ? "" : shade(token.logprob)}`, "data-i": this.values.length });
      this.values.push(token);
      this.tokens.append(token.node);
    }
    const queue = [...this.pending, ...tokens];
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
    } else if (rest) this.tokens.append(el("span", {}, rest));
    this.pending = queue.slice(settled);
    if (this.formatted) {
      if (this.values.length) this.switch.hidden = false;
      this.drawSoon();
    }
  }

  /** Once a frame, since drawing costs as much as the text is long. */
  drawSoon() {
    if (this.drawing) return;
    this.drawing = this.text.length < SLOW_TEXT ? requestAnimationFrame(() => this.draw()) : setTimeout(() => this.draw(), 400);
  }

  draw() {
    this.drawing = 0;
    this.page.replaceChildren(...markdown(this.text));
  }

  /** Who reads at the end stays at the end; once a frame, since it costs a layout. */
  follow() {
    const box = this.formatted ? document.scrollingElement : this.tokens;
    if (this.frame || box.scrollHeight - box.scrollTop - box.clientHeight >= 60) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      box.scrollTop = box.scrollHeight;
    });
  }

  finish(reason) {
    this.reason = reason;
    this.end.textContent = reason ? `· ${ENDS[reason] ?? reason}` : "";
    this.node.setAttribute("aria-busy", "false");
    if (this.formatted) this.draw();
  }
}

/** Tokens of a chunk's choice: completions and chat have different forms. */
export function tokensOf(choice, at_s) {
  const logprobs = choice.logprobs;
  if (logprobs?.content) {
    return logprobs.content.map(({ token, logprob, top_logprobs = [] }) => ({
      text: token, logprob, at_s, top: top_logprobs.map((top) => [top.token, top.logprob]) }));
  }
  return (logprobs?.tokens ?? []).map((text, i) => ({
    text, logprob: logprobs.token_logprobs?.[i], at_s, top: Object.entries(logprobs.top_logprobs?.[i] ?? {}).sort((a, b) => b[1] - a[1]) }));
}

/** Times of one answer, in seconds since the request. */
export class Pace {
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
