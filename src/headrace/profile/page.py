"""A run as a value -> one self-contained HTML page; every text that comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files as package_files
from string import Template
from typing import Any

from headrace.profile.charts import LineChart, loss_chart, speed_chart, stage_times
from headrace.profile.facts import facts, headline, subtitle, tiles
from headrace.profile.rundir import RunFiles
from headrace.profile.rivals import rows as rival_rows
from headrace.profile.svg import legend, line_chart
from headrace.profile.where import StageTime, duration, percent, sentence, slowest, wall_seconds


def render(run: RunFiles, *, made: str) -> str:
    """The page as text.

    Args:
        run: what read_run found.
        made: version and date, for the last line.
    """
    stages = stage_times(run)
    charts = [chart for chart in (loss_chart(run.steps), speed_chart(run.steps)) if chart is not None]
    main = "".join(
        [
            _where(stages),
            _plots(charts),
            _naive(run.naive),
            _samples(run.predictions),
            _what_ran(run),
        ]
    )
    body = f"{_header(run)}<main>{main}</main>\n<footer>{_footer(made)}</footer>"
    template = Template(package_files("headrace.profile").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(headline(run)), body=body)


def _header(run: RunFiles) -> str:
    cards = "".join(
        f"<div><dt>{escape(tile.name)}</dt><dd>{escape(tile.value)} <small>{escape(tile.unit)}</small></dd></div>"
        for tile in tiles(run)
    )
    return (
        f'<header><p class="kicker">headrace report</p><h1>{escape(headline(run))}</h1>'
        f'<p class="sub">{escape(subtitle(run))}</p>' + (f'<dl class="tiles">{cards}</dl>' if cards else "") + "</header>\n"
    )


def _where(stages: Sequence[StageTime]) -> str:
    if not stages:
        return _section("where", "Where the time went", '<p class="verdict">No step was timed yet.</p>')
    top, wall = slowest(stages), wall_seconds(stages)
    longest = max(stage.seconds for stage in stages)
    lines = []
    for stage in stages:
        kind = "overlaps" if stage.overlaps else "slowest" if stage is top else ""
        share = "beside compute" if stage.overlaps else percent(stage.seconds / wall)
        lines.append(
            f'<tr><th scope="row">{escape(stage.name)}</th>'
            f'<td class="bar"><span class="{kind}" style="width:{100 * stage.seconds / longest:.2f}%"></span></td>'
            f'<td class="number">{duration(stage.seconds)}</td><td class="number">{share}</td></tr>'
        )
    keys = [("slowest", "slowest stage"), ("", "the run stood still for it")]
    if any(stage.overlaps for stage in stages):
        keys.append(("overlaps", "in background threads, beside compute"))
    key = "".join(f'<li><span class="key-box {kind}"></span>{text}</li>' for kind, text in keys)
    table = (
        '<table class="stages"><caption hidden>Seconds by stage</caption><thead><tr><th scope="col">stage</th>'
        '<th scope="col"><span hidden>bar</span></th><th scope="col" class="number">time</th>'
        f'<th scope="col" class="number">of the wall time</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )
    return _section(
        "where",
        "Where the time went",
        f'<p class="verdict">{escape(sentence(stages))}</p>{table}<ul class="legend note">{key}</ul>',
    )


def _plots(charts: Sequence[LineChart]) -> str:
    if not charts:
        return ""
    figures = "".join(
        f"<figure><h2>{escape(chart.title)}</h2>{legend(chart)}{line_chart(chart)}"
        f"<figcaption>{escape(chart.summary)}</figcaption></figure>"
        for chart in charts
    )
    return f'<section aria-label="Plots"><div class="plots">{figures}</div></section>\n'


def _naive(naive: Mapping[str, Any]) -> str:
    lines = rival_rows(naive)
    if not lines:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(row.what)}</th><td class="number">{escape(row.naive)}</td>'
        f'<td class="number ours">{escape(row.ours)}</td><td class="number better">{escape(row.ratio)}</td></tr>'
        for row in lines
    )
    notes = "".join(f'<p class="note">{escape(str(note))}</p>' for note in naive.get("notes", ()))
    return _section(
        "naive",
        "Against the naive way",
        f'<p>{escape(str(naive.get("what", "")))}</p><div class="scroll keep"><table><thead><tr>'
        '<th scope="col">same text, same machine, same run</th><th scope="col" class="number">naive</th>'
        '<th scope="col" class="number">headrace</th><th scope="col" class="number">ratio</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>{notes}",
    )


def _samples(predictions: Mapping[str, Any]) -> str:
    samples = predictions.get("samples") or ()
    if not samples:
        return ""
    shown = "".join(_sample(sample) for sample in samples)
    intro = predictions.get("what", "What the model wrote after each prompt.")
    return _section(
        "samples",
        "Sample predictions",
        f'<p>{escape(str(intro))} <span class="note">The prompt is grey; <ins>the model’s words</ins> are shaded.</span></p>'
        f'<div class="samples">{shown}</div>',
    )


def _sample(sample: Mapping[str, Any]) -> str:
    name = f"{sample.get('prompt_id', '')} · {sample.get('finish_reason', '')}".strip(" ·")
    return (
        f'<article><h3>{escape(name)}</h3><pre><span class="prompt">{escape(str(sample.get("prompt", "")))}</span>'
        f"<ins>{escape(str(sample.get('text', '')))}</ins></pre></article>"
    )


def _what_ran(run: RunFiles) -> str:
    body = "".join(_definitions(facts(run)))
    asked = "".join(_definitions((name, str(value)) for name, value in flatten(run.run)))
    more = (
        f'<details><summary>Everything that was asked for (run.json)</summary><dl class="facts">{asked}</dl></details>'
        if asked
        else ""
    )
    return _section("ran", "What ran", f'<dl class="facts">{body}</dl>{more}')


def _definitions(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    for name, value in pairs:
        text = f"<code>{escape(value)}</code>" if name == "command" else escape(value)
        yield f"<dt>{escape(name)}</dt><dd>{text}</dd>"


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


def _footer(made: str) -> str:
    return f"{escape(made)}. Loss is the mean cross-entropy in nats; speeds count training tokens, not padding."
