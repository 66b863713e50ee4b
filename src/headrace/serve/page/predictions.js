/* /predictions -> stores, their rows page by page, one row in full, and two stores row by row. */

import { Problem, call, showProblem } from "./api.js";
import { $, bytes, copy, el, label, whole } from "./dom.js";
import { shade } from "./output.js";
import { isRunning, usePrompt } from "./write.js";

const PAGE_ROWS = 50, EXCERPT = 160, MOST_CHIPS = 2000;
const FILTERS = ["name", "query", "errors", "compare", "different"];
const browser = { stores: [], view: null, page: null, trail: [], row: null, timer: 0, serial: 0 };

/** The view as it stands in the address: #predictions/NAME?query=...&errors=1&compare=...&different=1&offset=...&row=... */
function viewOf(hash) {
  const [path, search = ""] = hash.replace(/^#predictions\/?/, "").split("?"), params = new URLSearchParams(search);
  const number = (name) => (/^\d{1,15}$/.test(params.get(name) ?? "") ? Number(params.get(name)) : null);
  let name = "";
  try { name = decodeURIComponent(path); } catch { /* an address that someone broke */ }
  return { name, query: params.get("query") ?? "", errors: params.get("errors") === "1", compare: params.get("compare") ?? "", different: params.get("different") === "1", offset: number("offset") ?? 0, row: number("row") };
}

function hashOf({ name, query = "", errors = false, compare = "", different = false, offset = 0, row = null }) {
  const params = new URLSearchParams();
  if (query) params.set("query", query);
  if (errors) params.set("errors", "1");
  if (compare) params.set("compare", compare);
  if (compare && different) params.set("different", "1");
  if (offset) params.set("offset", offset);
  if (row !== null) params.set("row", row);
  return `#predictions${name ? `/${encodeURIComponent(name)}` : ""}${params.size ? `?${params}` : ""}`;
}

function look(change, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", hashOf({ ...browser.view, ...change }));
  document.dispatchEvent(new Event("view-changed"));
}

/** The address of the view as it was left. */
export const lastHash = () => (browser.view ? hashOf(browser.view) : "#predictions");

/** Show what the address names. */
export const openPredictions = (hash) => openView(viewOf(hash));

async function loadStores() {
  try {
    browser.stores = (await (await call("/predictions")).json()).data;
    showProblem($("rows-problem"), null);
  } catch (problem) {
    showProblem($("rows-problem"), problem, () => openView(viewOf(location.hash)));
    return;
  }
  const focused = document.activeElement?.dataset?.store;
  $("stores").replaceChildren(...browser.stores.map((store) => {
    const { name, rows, rows_expected, errors, error } = store;
    const runs = rows_expected && rows < rows_expected;
    return el("li", {}, el("button", { type: "button", "data-store": name, "aria-current": name === browser.view?.name, title: error ?? "",
      onclick: () => look({ name, query: "", errors: false, compare: "", different: false, offset: 0, row: null }) },
    el("b", {}, label(name)),
    error ? el("span", { class: "small" }, error.includes("job.json") ? "nothing stored yet" : "cannot be read")
      : el("span", { class: "small quiet number" }, `${whole(rows)}${runs ? ` of ${whole(rows_expected)}` : ""} rows · ${bytes(store.bytes)}`),
    errors ? el("span", { class: "small bad number" }, `${whole(errors)} error${errors === 1 ? "" : "s"}`) : null,
    runs ? el("progress", { max: rows_expected, value: rows, "aria-label": `${name}: rows committed` }) : null,
    store.model ? el("span", { class: "small quiet", title: `Fingerprint of the model: ${store.model}` }, [String(store.model).slice(0, 8), store.request?.engine, store.request?.dtype].filter(Boolean).join(" · ")) : null));
  }));
  if (focused !== undefined) $("stores").querySelector(`[data-store="${CSS.escape(focused)}"]`)?.focus();
}

async function openView(view) {
  const before = browser.view;
  browser.view = view;
  await loadStores();
  follow();
  if (!view.name && browser.stores.length) return look({ name: browser.stores[0].name }, { replace: true });
  showCompare(view);
  $("finder").hidden = !view.name;
  if (!view.name) {
    const unknown = !$("rows-problem").hidden; // what it shows cannot be said while it does not answer
    $("list").replaceChildren(unknown ? "" : el("p", { class: "empty" }, "This server shows no prediction store. Start it with one: ", el("code", {}, "headrace serve --predictions DIR")));
    return;
  }
  if ($("query") !== document.activeElement) $("query").value = view.query;
  $("only-errors").checked = view.errors;
  const same = before && browser.page && [...FILTERS, "offset"].every((field) => before[field] === view[field]);
  if (!same) {
    if (!before || FILTERS.some((field) => before[field] !== view[field])) browser.trail = [];
    await loadRows();
  }
  await openRow();
}

/** The stores that can be compared with. */
function showCompare(view) {
  const others = browser.stores.filter(({ name, error }) => name !== view.name && !error);
  $("compare-row").hidden = !others.length;
  $("compare").replaceChildren(el("option", { value: "" }, "nothing"), ...others.map(({ name }) => el("option", { value: name, selected: name === view.compare }, label(name, 30))));
  $("only-different-row").hidden = !view.compare;
  $("only-different").checked = view.different;
}

const filtersOf = ({ query, errors, compare, different }) => ({ errors, ...(query && { query }), ...(compare && { compare }), ...(compare && different && { different }) });
const pathOf = ({ name }, params) => `/predictions/${encodeURIComponent(name)}?${new URLSearchParams(params)}`;

/** Rows of the view; a search that finds little is many short answers, shown as they come. */
async function loadRows() {
  const view = browser.view, serial = ++browser.serial, rows = [];
  let next = view.offset, page = null;
  $("list").setAttribute("aria-busy", "true");
  try {
    do {
      page = await (await call(pathOf(view, { offset: next, limit: PAGE_ROWS - rows.length, excerpt: EXCERPT, ...filtersOf(view) }))).json();
      if (serial !== browser.serial) return;
      rows.push(...page.data);
      next = page.next_offset;
      browser.page = { ...page, data: rows };
      showRows(next !== null && rows.length < PAGE_ROWS);
    } while (next !== null && rows.length < PAGE_ROWS);
    showProblem($("rows-problem"), null);
  } catch (problem) {
    if (serial !== browser.serial) return;
    browser.page = { data: [], next_offset: null, rows: 0 };
    showRows(false);
    showProblem($("rows-problem"), problem, loadRows);
  } finally {
    if (serial === browser.serial) $("list").removeAttribute("aria-busy");
  }
}

function showRows(searching) {
  const { data, next_offset, rows } = browser.page, { query, errors, different, offset, compare, name } = browser.view;
  const filtered = query || errors || different;
  const last = data.at(-1)?.position ?? offset;
  $("place").textContent = searching ? `${whole(data.length)} found; looking at row ${whole(next_offset)} of ${whole(rows)}`
    : filtered ? `${data.length ? whole(data.length) : "none"} found${next_offset !== null || offset ? `, rows ${whole(offset + 1)} to ${whole(next_offset ?? rows)}` : ""} of ${whole(rows)}`
    : data.length ? `${whole(offset + 1)} to ${whole(last + 1)} of ${whole(rows)}` : `${whole(rows)} rows`;
  $("before").disabled = offset === 0;
  $("after").disabled = searching || next_offset === null;
  if (!data.length) {
    $("list").replaceChildren(el("p", { class: "empty" }, searching ? "Searching…" : filtered ? "No row matches." : "No row is committed yet; they come in parts."));
    return;
  }
  const texts = compare ? [el("th", { scope: "col" }, label(name, 30)), el("th", { scope: "col", class: "other" }, label(compare, 30))] : [el("th", { scope: "col" }, "Text")];
  const head = el("tr", {}, el("th", { scope: "col", class: "c-id" }, "Row"), el("th", { scope: "col", class: "wide" }, "Prompt"), ...texts,
    compare ? el("th", { scope: "col", class: "c-end wide" }, "Same") : el("th", { scope: "col", class: "c-end wide" }, "End"), compare ? null : el("th", { scope: "col", class: "c-tokens number wide" }, "Tokens"));
  $("list").replaceChildren(el("table", { "aria-label": "Rows" }, el("thead", {}, head), el("tbody", {}, ...data.map(rowOf))));
  markRow();
}

const keyOf = (row) => `${label(row.prompt_id, 40)}${row.sample_index ? ` #${row.sample_index}` : ""}`;
const shownText = (row) => (row.error ? row.error.message : row.text);

function rowOf(row) {
  const open = () => look({ row: row.position });
  const text = shownText(row), query = browser.view.query.toLowerCase(), { compare } = browser.view;
  const elsewhere = query && !text.toLowerCase().includes(query) && row.prompt.toLowerCase().includes(query);
  const cell = (one) => el("td", { class: one?.error ? "text other failed" : "text other" }, one ? marked("div", shownText(one)) : el("div", { class: "quiet" }, "no such row"));
  const same = compare && row.other ? shownText(row.other) === text && !row.clipped && !row.other.clipped : false;
  const verdict = !row.other ? "missing" : same ? "same" : shownText(row.other) === text ? "same start" : "different";
  return el("tr", { "data-row": row.position, class: row.error ? "failed" : "", onclick: open },
    el("td", { class: "id" }, el("button", { type: "button", class: "link", title: label(row.prompt_id, 300) }, keyOf(row))),
    el("td", { class: "text wide" }, marked("div", row.prompt)), el("td", { class: "text" }, marked("div", text), elsewhere ? el("p", { class: "also" }, "in the prompt: ", marked("span", row.prompt)) : null),
    compare ? cell(row.other) : null,
    el("td", { class: "end wide" }, compare ? verdict : row.finish_reason), compare ? null : el("td", { class: "number wide" }, whole(row.completion_tokens)));
}

/** Text with what is searched for marked. */
function marked(tag, text) {
  const node = el(tag, { dir: "auto" }), query = browser.view.query.toLowerCase(), lower = text.toLowerCase();
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
  $("list").querySelectorAll("tr[data-row]").forEach((tr) => tr.setAttribute("aria-selected", Number(tr.dataset.row) === browser.view.row));
}

async function openRow() {
  const { row, name } = browser.view, closes = row === null && $("detail").contains(document.activeElement);
  markRow();
  $("records").toggleAttribute("data-open", row !== null);
  if ($("detail").hidden) $("detail").replaceChildren(); // never another row's values while this one's come
  $("detail").hidden = row === null;
  if (closes) $("list").querySelector(`[data-row="${$("detail").dataset.row}"] button`)?.focus();
  if (row === null) return;
  try {
    const { data } = await (await call(pathOf(browser.view, { offset: row, limit: 1, ...(browser.view.compare && { compare: browser.view.compare }) }))).json();
    if (browser.view.row !== row || browser.view.name !== name) return;
    if (data.length) showRow(data[0]);
    else showProblem($("rows-problem"), new Problem(`There is no row ${whole(row + 1)} in ${name}.`));
  } catch (problem) {
    showProblem($("rows-problem"), problem, openRow);
  }
}

function showRow(row) {
  const logprobs = row.logprobs ?? [], sum = logprobs.reduce((a, b) => a + b, 0), mean = sum / logprobs.length;
  const fact = (name, value) => (value == null ? null : el("div", {}, el("dt", {}, name), el("dd", {}, String(value))));
  const places = browser.page.data.map(({ position }) => position), here = places.indexOf(row.position);
  const step = (text, to) => el("button", { type: "button", class: "bare", disabled: to === undefined, onclick: () => look({ row: to }, { replace: true }) }, text);
  const part = (title, content) => el("section", {}, el("h3", {}, title), content);
  const focused = $("detail").contains(document.activeElement) ? document.activeElement.textContent : null;
  $("detail").dataset.row = row.position;
  $("detail").replaceChildren(
    el("div", { class: "row" }, el("h2", { title: label(row.prompt_id, 300) }, `${label(row.prompt_id, 120)} #${row.sample_index}`),
      el("span", { class: "push row" }, step("Previous row", here > 0 ? places[here - 1] : undefined), step("Next row", here >= 0 ? places[here + 1] : undefined),
        el("button", { type: "button", onclick: () => look({ row: null }) }, "Close"))),
    row.error ? el("div", { class: "problem" }, el("p", {}, `${row.error.type}: ${row.error.message}`)) : "",
    el("dl", { class: "facts" }, ...[
      fact("finish reason", row.finish_reason), fact("prompt tokens", whole(row.prompt_tokens)), fact("completion tokens", whole(row.completion_tokens)),
      logprobs.length ? fact("mean log-probability", mean.toFixed(3)) : null, logprobs.length ? fact("perplexity", (+Math.exp(-mean).toPrecision(4))) : null,
      fact("position", whole(row.position))].filter(Boolean)),
    part("Prompt", marked("pre", row.prompt)), ...(browser.view.compare ? comparison(row) : [part("Text", marked("pre", row.text))]),
    row.token_ids.length ? part(`Token ids${logprobs.length ? ", coloured by probability" : ""}`, chips(row.token_ids.map((id, i) => ({ id, logprob: logprobs[i] })))) : "",
    row.prompt_logprobs ? el("details", {}, el("summary", { class: "small quiet" }, "Log-probabilities of the prompt's tokens"),
      chips(row.prompt_logprobs.map((logprob) => ({ logprob })))) : "",
    el("div", { class: "row" },
      el("button", { type: "button", onclick: () => usePrompt(row.prompt) }, "Use prompt in Write"),
      el("button", { type: "button", onclick: (event) => copy(row.text, event.target) }, "Copy text"),
      el("button", { type: "button", onclick: (event) => copy(JSON.stringify(row, null, 2), event.target) }, "Copy as JSON")));
  // What had the focus was replaced, or lies hidden behind the row on a small screen.
  const heir = [...$("detail").querySelectorAll("button:enabled")].find((button) => button.textContent === focused);
  if (heir) heir.focus();
  else if (focused !== null || !$("list").checkVisibility()) $("detail").focus();
}

/** The two stores' texts with what differs marked. */
function comparison(row) {
  const { name, compare } = browser.view, part = (title, content) => el("section", {}, el("h3", {}, title), content);
  if (!row.other) return [part(label(name), marked("pre", shownText(row))), part(label(compare), el("p", { class: "quiet" }, "This store has no row with this id."))];
  const [one, other] = [shownText(row), shownText(row.other)];
  const score = ({ logprobs }) => (logprobs?.length ? ` · mean log-probability ${(logprobs.reduce((a, b) => a + b, 0) / logprobs.length).toFixed(3)}` : "");
  const [left, right] = differences(one, other);
  return [el("div", { class: "versus" },
    part(`${label(name)}${score(row)}`, el("pre", { dir: "auto" }, ...left)),
    part(`${label(compare)}${one === other ? " · the same" : ""}${score(row.other)}`, el("pre", { dir: "auto" }, ...right)))];
}

const MOST_WORDS = 1500; // a table of the squares of this

/** Two texts as pieces; words that the other has not are marked. */
function differences(one, other) {
  const a = one.match(/\s+|[^\s]+/g) ?? [], b = other.match(/\s+|[^\s]+/g) ?? [];
  let begin = 0, end = 0;
  while (begin < Math.min(a.length, b.length) && a[begin] === b[begin]) begin++;
  while (end < Math.min(a.length, b.length) - begin && a.at(-1 - end) === b.at(-1 - end)) end++;
  const middle = [a.slice(begin, a.length - end), b.slice(begin, b.length - end)];
  const kept = middle.some((words) => words.length > MOST_WORDS) ? [new Set(), new Set()] : common(...middle);
  return middle.map((words, side) => {
    const pieces = [(side ? b : a).slice(0, begin).join("")];
    words.forEach((word, i) => pieces.push(kept[side].has(i) ? word : el("mark", {}, word)));
    return [...pieces, end ? (side ? b : a).slice(-end).join("") : ""].filter((piece) => piece !== "");
  });
}

/** Indices of a longest common subsequence in both. */
function common(a, b) {
  const width = b.length + 1, table = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) {
    table[i * width + j] = a[i] === b[j] ? table[(i + 1) * width + j + 1] + 1 : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
  }
  const kept = [new Set(), new Set()];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) { kept[0].add(i++); kept[1].add(j++); }
    else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) i++;
    else j++;
  }
  return kept;
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

/** A job that runs is followed: counts always, rows while the last page is not full. */
function follow() {
  clearTimeout(browser.timer);
  browser.timer = setTimeout(async () => {
    if ($("view-predictions").hidden) return;
    if (!document.hidden && !$("list").hasAttribute("aria-busy")) {
      await loadStores();
      const rows = browser.stores.find(({ name }) => name === browser.view.name)?.rows;
      if (rows !== undefined && rows !== browser.page?.rows) {
        if (browser.page?.next_offset === null && browser.page.data.length < PAGE_ROWS) await loadRows();
        else if (browser.page) { browser.page.rows = rows; showRows(false); }
      }
    }
    follow();
  }, 3000);
}

let typing = 0;
function find() {
  clearTimeout(typing);
  const query = $("query").value, errors = $("only-errors").checked;
  if (query !== browser.view.query || errors !== browser.view.errors) look({ query, errors, offset: 0, row: null }, { replace: true });
}
$("query").oninput = () => { clearTimeout(typing); typing = setTimeout(find, 250); };
$("only-errors").onchange = find;
$("compare").onchange = () => look({ compare: $("compare").value, different: false, offset: 0, row: null });
$("only-different").onchange = () => look({ different: $("only-different").checked, offset: 0, row: null });
$("finder").onsubmit = (event) => { event.preventDefault(); find(); };
$("after").onclick = () => { browser.trail.push(browser.view.offset); look({ offset: browser.page.next_offset, row: null }); };
$("before").onclick = () => {
  const back = browser.trail.pop() ?? (browser.view.query || browser.view.errors || browser.view.different ? 0 : Math.max(0, browser.view.offset - PAGE_ROWS));
  look({ offset: back, row: null });
};
$("list").onkeydown = (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], links = [...$("list").querySelectorAll(".link")];
  if (!step || !links.includes(document.activeElement)) return;
  event.preventDefault();
  links[links.indexOf(document.activeElement) + step]?.focus();
};
$("detail").onkeydown = (event) => { if (event.key === "Escape" && !isRunning()) look({ row: null }); };
