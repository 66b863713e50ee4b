/* Markdown as models write it -> elements. No HTML is parsed: tags in the text stay text, so nothing needs to be removed.

   CommonMark's blocks and spans that answers have: headings, paragraphs, lists, quotes, fenced code, tables, rules; code,
   emphasis, links. Links lead to http, https and mailto only; images are links, never loaded. */

import { copy, el } from "./dom.js";

const MOST_DEPTH = 12; // of quotes, lists and emphasis inside each other
const MOST_INLINE = 20_000; // characters of a paragraph whose spans are looked for
const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const ITEM = /^(\s*)(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const SAFE_LINK = /^(?:https?:\/\/|mailto:)[^\s]+$/i;

/** Elements for a text. */
export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function blocks(lines, depth) {
  const nodes = [];
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    if (!line.trim()) { i++; continue; }
    const take = depth < MOST_DEPTH && (fenced(lines, i) ?? heading(line, i) ?? rule(line, i) ?? quote(lines, i, depth) ?? list(lines, i, depth) ?? table(lines, i));
    const [node, next] = take || paragraph(lines, i, depth);
    nodes.push(node);
    i = next;
  }
  return nodes;
}

function fenced(lines, start) {
  const open = FENCE.exec(lines[start]);
  if (!open) return null;
  const [, indent, fence, language] = open, content = [];
  let i = start + 1;
  for (; i < lines.length; i++) {
    const close = /^ {0,3}(`{3,}|~{3,})\s*$/.exec(lines[i]);
    if (close && close[1][0] === fence[0] && close[1].length >= fence.length) break;
    content.push(lines[i].startsWith(indent) ? lines[i].slice(indent.length) : lines[i].trimStart());
  }
  return [codeBlock(content.join("\n"), language.trim().split(/\s/)[0]), i + 1];
}

/** Code with its language and a button that copies it. */
export function codeBlock(text, language) {
  return el("figure", { class: "code" },
    el("figcaption", {}, el("span", { class: "quiet small" }, language.slice(0, 40) || "text"),
      el("button", { type: "button", class: "bare", "aria-label": "Copy code", onclick: (event) => copy(text, event.currentTarget) }, "Copy")),
    el("pre", { dir: "ltr", tabindex: 0 }, el("code", {}, text)));
}

function heading(line, i) {
  const found = HEADING.exec(line);
  // The page has headings of its own: the answer's begin below them.
  return found && [el(`h${Math.min(6, found[1].length + 3)}`, { dir: "auto", class: `h${found[1].length}` }, ...spans(found[2] ?? "", 0)), i + 1];
}

const rule = (line, i) => (RULE.test(line) ? [el("hr"), i + 1] : null);

function quote(lines, start, depth) {
  if (!QUOTE.test(lines[start])) return null;
  const inner = [];
  let i = start;
  for (; i < lines.length && lines[i].trim() && (QUOTE.test(lines[i]) || !startsBlock(lines[i])); i++) inner.push(QUOTE.exec(lines[i])?.[1] ?? lines[i]);
  return [el("blockquote", { dir: "auto" }, ...blocks(inner, depth + 1)), i];
}

function list(lines, start, depth) {
  const first = ITEM.exec(lines[start]);
  if (!first) return null;
  const ordered = first[3] !== undefined, indent = first[1].length, items = [];
  let i = start, loose = false;
  while (i < lines.length) {
    const item = ITEM.exec(lines[i]);
    if (!item || (item[3] !== undefined) !== ordered || item[1].length > indent + 3 || item[1].length < indent) break;
    const inner = [item[4]], width = lines[i].length - item[4].length;
    for (i++; i < lines.length; i++) {
      const blank = !lines[i].trim(), deeper = /^\s*/.exec(lines[i])[0].length > indent + 1;
      if (blank) {
        const next = lines.slice(i + 1).find((line) => line.trim());
        if (next === undefined || !(/^\s*/.exec(next)[0].length > indent + 1)) break;
        inner.push("");
      } else if (deeper) inner.push(lines[i].slice(Math.min(width, /^\s*/.exec(lines[i])[0].length)));
      else if (!ITEM.test(lines[i]) && !startsBlock(lines[i]) && inner.at(-1) !== "") inner.push(lines[i].trim());
      else break;
    }
    items.push(itemOf(inner, depth));
    let ahead = i;
    while (ahead < lines.length && !lines[ahead].trim()) ahead++;
    const again = ahead > i && ahead < lines.length ? ITEM.exec(lines[ahead]) : null;
    if (again && (again[3] !== undefined) === ordered && again[1].length >= indent && again[1].length <= indent + 3) { i = ahead; loose = true; }
  }
  const begin = ordered && first[3] !== "1" ? { start: Number(first[3]) } : {};
  return [el(ordered ? "ol" : "ul", { dir: "auto", class: loose ? "loose" : null, ...begin }, ...items), i];
}

function itemOf(lines, depth) {
  const task = /^\[([ xX])\]\s+(.*)$/.exec(lines[0]);
  if (task) lines = [task[2], ...lines.slice(1)];
  const nodes = blocks(lines, depth + 1);
  // The text of a plain item is no paragraph of its own.
  if (nodes[0]?.tagName === "P") nodes.splice(0, 1, ...nodes[0].childNodes);
  if (task) nodes.unshift(el("input", { type: "checkbox", disabled: true, checked: task[1] !== " ", "aria-label": "Task" }), " ");
  return el("li", { class: task ? "task" : null }, ...nodes);
}

function table(lines, start) {
  if (!lines[start].includes("|") || !DIVIDER.test(lines[start + 1] ?? "") || !(lines[start + 1].includes("|") || lines[start + 1].includes("-"))) return null;
  const head = cells(lines[start]), sides = cells(lines[start + 1]).map((cell) => (/^:.*:$/.test(cell) ? "center" : /:$/.test(cell) ? "end" : "start"));
  if (head.length !== sides.length) return null;
  const row = (tag, texts) => el("tr", {}, ...head.map((_, i) => el(tag, { class: `to-${sides[i]}`, dir: "auto" }, ...spans(texts[i] ?? "", 0))));
  const rows = [];
  let i = start + 2;
  for (; i < lines.length && lines[i].includes("|") && lines[i].trim(); i++) rows.push(row("td", cells(lines[i])));
  return [el("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Table" }, el("table", {}, el("thead", {}, row("th", head)), el("tbody", {}, ...rows))), i];
}

const cells = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

function paragraph(lines, start, depth) {
  let i = start + 1;
  while (i < lines.length && lines[i].trim() && !(startsBlock(lines[i]) && depth < MOST_DEPTH)) i++;
  return [el("p", { dir: "auto" }, ...spans(lines.slice(start, i).map((line) => line.trim()).join("\n"), 0)), i];
}

// ---- spans ----------------------------------------------------------------------------------------------------------

const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

/** Text with code, emphasis and links, as nodes. */
function spans(text, depth) {
  if (text.length > MOST_INLINE || depth > MOST_DEPTH) return [text];
  const nodes = [];
  let plain = "", i = 0;
  const push = (node, to) => {
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(node);
    i = to;
  };
  while (i < text.length) {
    const c = text[i];
    const found = c === "`" ? code(text, i) : c === "[" || c === "!" ? link(text, i, depth) : c === "<" || c === "h" ? bareLink(text, i)
      : c === "*" || c === "_" || c === "~" ? emphasis(text, i, depth) : null;
    if (found) push(...found);
    else if (c === "\\" && /[!-/:-@[-`{-~]/.test(text[i + 1] ?? "")) { plain += text[i + 1]; i += 2; }
    else if (c === "\n") push(el("br"), i + 1);
    else { plain += c; i++; }
  }
  if (plain) nodes.push(plain);
  return nodes;
}

function code(text, start) {
  const fence = /^`+/.exec(text.slice(start))[0];
  for (let at = text.indexOf(fence, start + fence.length); at >= 0; at = text.indexOf(fence, at)) {
    const run = /^`+/.exec(text.slice(at))[0];
    if (run.length === fence.length) {
      const inner = text.slice(start + fence.length, at).replaceAll("\n", " ");
      return [el("code", {}, inner.trim() ? inner.replace(/^ (.*) $/, "$1") : inner), at + fence.length];
    }
    at += run.length;
  }
  return null;
}

function emphasis(text, start, depth) {
  const mark = MARKS.find(([sign]) => text.startsWith(sign, start));
  if (!mark) return null;
  const [sign, tag] = mark, from = start + sign.length, word = /[\p{L}\p{N}]/u;
  if (/^\s|^$/.test(text.slice(from, from + 1)) || (sign[0] === "_" && word.test(text[start - 1] ?? ""))) return null;
  for (let at = text.indexOf(sign, from + 1); at >= 0; at = text.indexOf(sign, at + 1)) {
    if (/\s/.test(text[at - 1]) || text[at - 1] === "\\" || (sign[0] === "_" && word.test(text[at + sign.length] ?? ""))) continue;
    if (sign.length === 1 && (text[at + 1] === sign || text[at - 1] === sign)) { // a part of a longer mark
      if (text[at + 1] === sign) at++;
      continue;
    }
    return [el(tag, {}, ...spans(text.slice(from, at), depth + 1)), at + sign.length];
  }
  return null;
}

function link(text, start, depth) {
  const open = text[start] === "!" ? start + 1 : start;
  if (text[open] !== "[") return null;
  let close = -1;
  for (let at = open + 1, level = 1; at < text.length && at - open < 2000; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === "[") level++;
    else if (text[at] === "]" && --level === 0) { close = at; break; }
  }
  if (close < 0 || text[close + 1] !== "(") return null;
  const end = text.indexOf(")", close);
  if (end < 0) return null;
  const [target] = text.slice(close + 2, end).trim().split(/\s+/);
  const to = target.replace(/^<(.*)>$/, "$1"), inner = text.slice(open + 1, close);
  if (!SAFE_LINK.test(to)) return null;
  return [anchor(to, open > start ? [inner || "image"] : spans(inner, depth + 1)), end + 1];
}

function bareLink(text, start) {
  const found = /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/i.exec(text.slice(start, start + 2000)) ?? /^(https?:\/\/[^\s<>"'`]*[^\s<>"'`.,;:!?)\]}*_])/i.exec(text.slice(start, start + 2000));
  if (!found || /[\p{L}\p{N}]/u.test(text[start - 1] ?? "")) return null;
  return [anchor(found[1], [found[1]]), start + found[0].length];
}

const anchor = (href, children) => el("a", { href, rel: "noopener noreferrer nofollow", target: "_blank", title: href }, ...children);
