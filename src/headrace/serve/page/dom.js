/* Text and numbers -> elements and words: the helpers of all other files.

   Text from outside reaches the document as text only: el() and textContent. The server's policy forbids the rest (no HTML
   sinks, no script but this server's, no request but to this server). */

export const $ = (id) => document.getElementById(id);

/** An element; children are nodes or plain text. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const saved = {
  get(name, otherwise) {
    try { return JSON.parse(localStorage.getItem(`headrace.${name}`)) ?? otherwise; } catch { return otherwise; }
  },
  set(name, value) {
    try {
      localStorage.setItem(`headrace.${name}`, JSON.stringify(value));
      return true;
    } catch { // a private window, or the browser's limit
      return false;
    }
  },
};

export const whole = new Intl.NumberFormat("en").format;

export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return size >= 100 || Number.isInteger(value) ? String(Math.round(value)) : String(+value.toPrecision(3));
}

export function bytes(count) {
  const power = Math.min(4, Math.floor(Math.log2(Math.max(count, 1)) / 10));
  return `${+(count / 1024 ** power).toPrecision(3)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

export const seconds = (s) => (s < 1 ? `${+(s * 1000).toPrecision(3)} ms` : `${+s.toPrecision(3)} s`);
export const percent = (p) => (p >= 0.9995 ? "100 %" : p < 0.0005 ? "<0.1 %" : `${(100 * p).toFixed(1)} %`);

/** A token so that its spaces, control and direction characters can be seen. */
export function visible(text) {
  return text.replace(/[\s\p{Cc}\p{Cf}]/gu, (c) => ({ " ": "·", "\n": "⏎", "\t": "⇥" }[c]
    ?? (c === "\u200d" || c === "\ufe0f" ? c : `\\u{${c.codePointAt(0).toString(16)}}`))) || "(empty)";
}

export async function copy(text, button) {
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

/** A name that somebody chose, on one line: invisible characters are spelled out, the middle of a long one is left out. */
export function label(name, most = 60) {
  const shown = visible(name).replaceAll("·", " ");
  if (!shown.trim() || shown === "(empty)") return "(blank)";
  const letters = [...shown];
  return letters.length <= most ? shown : `${letters.slice(0, most - 21).join("")}…${letters.slice(-20).join("")}`;
}
