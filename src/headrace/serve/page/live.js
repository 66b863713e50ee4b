/* GET /metrics/history, once a second -> tiles and plots. */

import { Problem, call } from "./api.js";
import { $, el, saved, seconds, short, svg } from "./dom.js";

const TIMES = { first: "time_to_first_token_seconds", between: "inter_token_latency_seconds", queue: "request_queue_time_seconds", whole: "e2e_request_latency_seconds" };
const KEPT = 1000;
const live = { samples: [], paused: false, started: false, cursor: null, since: null };

/** A sample of the server as the plots take it. */
function sampleOf(read) {
  return {
    t: read.time * 1000,
    requests: [read.running, read.waiting],
    tokens: [read.generation_tokens_per_second, read.prompt_tokens_per_second],
    ...Object.fromEntries(Object.entries(TIMES).map(([key, name]) => [key, read[name]])),
    hits: [read.prefix_cache_hit_rate ?? null],
    total: read.generation_tokens_total,
  };
}

async function poll() {
  const began = Date.now();
  if (!live.paused) {
    try {
      const after = live.samples.length ? live.samples.at(-1).t / 1000 : 0;
      const { data } = await (await call(`/metrics/history?after=${after}`, { signal: AbortSignal.timeout(5000) })).json();
      live.samples.push(...data.map(sampleOf));
      live.samples.splice(0, live.samples.length - KEPT);
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

/** Show the view; it is read from now on. */
export function openLive() {
  if (!live.started) {
    live.started = true;
    poll();
  }
  drawLive();
}

$("pause").onclick = () => {
  live.paused = !live.paused;
  $("pause").setAttribute("aria-pressed", live.paused);
  $("pause").textContent = live.paused ? "Go on" : "Pause";
  $("live-state").textContent = live.paused ? `Paused at ${new Date().toLocaleTimeString()}` : "";
};
$("span").onchange = () => { saved.set("span", $("span").value); drawLive(); };

const percent = (part) => `${Math.round(part * 100)} %`;
const LEFT = 54, RIGHT = 8, TOP_EDGE = 8, FLOOR = 22;
const CHARTS = [
  { key: "requests", title: "Requests", unit: "at this moment", names: ["running", "waiting"], write: short, least: 4 },
  { key: "tokens", title: "Throughput", unit: "tokens/s", names: ["generated", "prompt"], write: short, least: 10 },
  { key: "hits", title: "Prompt tokens from the cache", unit: "over 10 s", names: ["hit rate"], write: percent, least: 1 },
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
    ["From the cache", sample?.hits[0], percent, "of prompt tokens"],
  ];
  $("tiles").replaceChildren(...tiles.map(([name, value, write, unit]) => el("div", {}, el("dt", {}, name),
    el("dd", {}, value == null ? "–" : write(value), " ", el("small", {}, value == null ? "" : unit)))));
}

$("span").value = saved.get("span", "300");
buildCharts();
