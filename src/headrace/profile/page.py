"""The files of a run -> one self-contained HTML page; every text from outside is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files as package_files
from string import Template
from typing import Any

from headrace.formatting import duration, percent
from headrace.profile.charts import LineChart, run_charts
from headrace.profile.comparison import comparison_rows
from headrace.profile.figures import run_facts, run_subtitle, run_tiles, run_title
from headrace.profile.history import history_rows
from headrace.profile.run_files import RunFiles
from headrace.profile.stage_times import (
    StageTime,
    describe_stages,
    run_stage_times,
    slowest_stage,
    wall_seconds,
)
from headrace.profile.step_bar import StepBalance, run_step_balance, step_bar_section
from headrace.profile.svg import draw_legend, draw_line_chart

MAX_COLUMNS = 4
"""Tiles in a row on a wide screen."""
_MAX_PROMPTS = 20
_MAX_EARLIER = 10
"""Prompts, and earlier steps of each, that the page shows."""
_TABLES = ("segments", "divergences", "parameter_groups")
"""Lists in run.json that are shown as rows of their own."""


def render_page(run: RunFiles, *, made: str) -> str:
    """The page as text.

    Args:
        run: the run's files.
        made: version and date, for the last line.
    """
    body = "".join(
        [
            _header(run),
            "<main>\n",
            _step(run_step_balance(run)),
            _where(run_stage_times(run)),
            _plots(run_charts(run.steps)),
            _naive(run.naive),
            _samples_of_training(run.samples),
            _samples(run.predictions),
            _history(run),
            _what_ran(run),
            f"</main>\n<footer>{escape(made)}. Loss is the mean cross-entropy of a token, in nats.</footer>",
        ]
    )
    return render_document(run_title(run), body)


def render_document(title: str, body: str) -> str:
    """A self-contained page in light and dark: it makes no request.

    Args:
        title: plain text.
        body: HTML.
    """
    template = package_files("headrace.profile").joinpath("report.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=escape(title), body=body)


def _header(run: RunFiles) -> str:
    tiles = run_tiles(run)
    cards = "".join(
        f"<div><dt>{escape(tile.name)}</dt>"
        f"<dd>{escape(tile.value)} <small>{escape(tile.unit)}</small></dd></div>"
        for tile in tiles
    )
    # Rows of nearly equal length: 7 tiles are 4 and 3, and grow to fill their rows.
    columns = math.ceil(len(tiles) / max(1, math.ceil(len(tiles) / MAX_COLUMNS)))
    return (
        f'<header><p class="kicker">headrace report</p><h1>{escape(run_title(run))}</h1>'
        f'<p class="sub">{escape(run_subtitle(run))}</p>'
        + (f'<dl class="tiles" style="--columns:{columns}">{cards}</dl>' if cards else "")
        + "</header>\n"
    )


def _step(balance: StepBalance | None) -> str:
    if balance is None:
        return ""
    return _section("step", "Is it I/O or the model?", step_bar_section(balance.sentence, balance.parts))


def _where(stages: Sequence[StageTime]) -> str:
    title = "Where the time went"
    if not stages:
        return _section("where", title, '<p class="verdict">No step was timed yet.</p>')
    top, wall = slowest_stage(stages), wall_seconds(stages)
    longest = max(stage.seconds for stage in stages)
    lines = []
    for stage in stages:
        kind = "overlaps" if stage.overlaps else "slowest" if stage is top else ""
        share = "\N{EN DASH}" if stage.overlaps else percent(stage.seconds / wall).replace("under", "<")
        length = f"width:{100 * stage.seconds / longest:.2f}%"
        lines.append(
            f'<tr><th scope="row">{escape(stage.name)}</th>'
            f'<td class="bar"><span class="{kind}" style="{length}"></span></td>'
            f'<td class="number">{duration(stage.seconds)}</td><td class="number">{share}</td></tr>'
        )
    keys = [("slowest", "slowest stage"), ("", "part of the wall time")]
    if any(stage.overlaps for stage in stages):
        keys.append(("overlaps", "in the background, beside compute"))
    legend_items = "".join(f'<li><span class="key-box {kind}"></span>{text}</li>' for kind, text in keys)
    head = _head(["stage", "", "time", "share"], numbers_from=2)
    table = f'<table class="stages">{head}<tbody>{"".join(lines)}</tbody></table>'
    verdict = f'<p class="verdict">{escape(describe_stages(stages))}</p>'
    return _section("where", title, f'{verdict}{table}<ul class="legend note">{legend_items}</ul>')


def _plots(charts: Sequence[LineChart]) -> str:
    if not charts:
        return ""
    figures = "".join(
        f"<figure><h2>{escape(chart.title)}</h2>{draw_legend(chart)}{draw_line_chart(chart)}"
        f"<figcaption>{escape(chart.summary)}</figcaption></figure>"
        for chart in charts
    )
    return f'<section aria-label="Plots"><div class="plots">{figures}</div></section>\n'


def _naive(naive: Mapping[str, Any]) -> str:
    lines = comparison_rows(naive)
    if not lines:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(row.quantity)}</th><td class="number">{escape(row.naive)}</td>'
        f'<td class="number ours">{escape(row.headrace)}</td>'
        f'<td class="number better">{escape(row.ratio)}</td></tr>'
        for row in lines
    )
    head = _head(["same text, same machine, same run", "naive", "headrace", "ratio"], numbers_from=1)
    what = f"<p>{escape(str(naive.get('what', '')))}</p>"
    notes = "".join(f'<p class="note">{escape(str(note))}</p>' for note in naive.get("notes", ()))
    table = f'<div class="scroll"><table class="rivals">{head}<tbody>{body}</tbody></table></div>'
    return _section("naive", "Compared with the naive loader", f"{what}{table}{notes}")


def _head(names: Sequence[str], *, numbers_from: int) -> str:
    cells = "".join(
        (
            f'<th scope="col"{" class=number" if i >= numbers_from else ""}>{escape(name)}</th>'
            if name
            else "<td></td>"
        )
        for i, name in enumerate(names)
    )
    return f"<thead><tr>{cells}</tr></thead>"


def _samples(predictions: Mapping[str, Any]) -> str:
    samples = predictions.get("samples") or ()
    if not samples:
        return ""
    what = escape(str(predictions.get("what", "What the model wrote after each prompt.")))
    key = '<span class="note">The prompt is grey, <ins>what the model wrote</ins> is shaded.</span>'
    shown = "".join(_sample(sample) for sample in samples)
    return _section("samples", "Sample predictions", f'<p>{what} {key}</p><div class="samples">{shown}</div>')


def _samples_of_training(samples: Sequence[Mapping[str, Any]]) -> str:
    """The newest samples, and those of each prompt's earlier steps folded below them."""
    if not samples:
        return ""
    prompts: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for sample in samples:
        key = (str(sample.get("prompt_id", "")), int(sample.get("sample_index", 0)))
        prompts.setdefault(key, []).append(sample)
    shown = []
    for of_prompt in list(prompts.values())[:_MAX_PROMPTS]:
        *earlier, last = of_prompt
        kept = earlier[:: -max(1, len(earlier) // _MAX_EARLIER)] if earlier else []
        more = "".join(_sample(sample) for sample in kept)
        fold = f"<details><summary>Earlier steps</summary>{more}</details>" if more else ""
        shown.append(_sample(last) + fold)
    left = len(prompts) - len(shown)
    note = f" {left:,} more prompts are in samples.jsonl." if left else ""
    what = f"<p>What the model wrote after prompts while it trained, newest first.{note}</p>"
    return _section("training-samples", "Samples", f'{what}<div class="samples">{"".join(shown)}</div>')


def _sample(sample: Mapping[str, Any]) -> str:
    ended = {
        "length": "cut off at its limit",
        "stop": "ended with its end-of-document token",
        "error": "failed",
    }
    reason = str(sample.get("finish_reason", ""))
    step = f"step {sample['step']:,}" if "step" in sample else ""
    parts = (step, str(sample.get("prompt_id", "")), ended.get(reason, reason))
    name = " · ".join(part for part in parts if part)
    return (
        f"<article><h3>{escape(name)}</h3>"
        f'<pre><span class="prompt">{escape(str(sample.get("prompt", "")))}</span>'
        f"<ins>{escape(str(sample.get('text', '')))}</ins></pre></article>"
    )


def _history(run: RunFiles) -> str:
    rows = history_rows(run)
    if not rows:
        return ""
    body = "".join(
        f'<tr><th scope="row">{row.step:,}</th><td>{escape(row.when)}</td><td>{escape(row.what)}</td></tr>'
        for row in rows
    )
    head = _head(["step", "when", "what"], numbers_from=3)
    table = f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'
    return _section("history", "What happened while it ran", table)


def _what_ran(run: RunFiles) -> str:
    body = _definitions(run_facts(run))
    shown = [(name, str(value)) for name, value in flatten(run.run) if name not in _TABLES]
    options = _definitions(shown)
    more = (
        f'<details><summary>All options (run.json)</summary><dl class="facts">{options}</dl></details>'
        if options
        else ""
    )
    return _section("ran", "What ran", f'<dl class="facts">{body}</dl>{more}')


def _definitions(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f'<dt>{escape(name)}</dt><dd class="{"code" if name == "command" else "text"}">{escape(value)}</dd>'
        for name, value in pairs
    )


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Nested names and values as "a.b" pairs, in their order.

    >>> flatten({"model": {"layers": 6}, "seed": 7})
    [('model.layers', 6), ('seed', 7)]
    """
    pairs: list[tuple[str, object]] = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            pairs.extend(flatten(item, f"{prefix}{name}."))
        else:
            pairs.append((f"{prefix}{name}", item))
    return pairs


def _section(name: str, title: str, body: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>{body}</section>\n'
