"""A plan's layouts and figures -> one HTML page with memory against time of all layouts, light and dark, no network."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from headrace.profile.page import render_document
from headrace.storage import write_file

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 16, 44
_NAMED = 'aria-labelledby="layouts-title layouts-desc"'
_CELL = 3.0
"""Pixels: of the layouts that fall on one spot, one is drawn."""
_COLORS = {"fits": "var(--blue)", "may fit": "var(--orange)", "does not fit": "var(--grey)"}
_STYLE = {kind: f"fill:{color}" for kind, color in _COLORS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutPoint:
    """One layout of a plan, as the page draws it."""

    name: str
    memory_gib: float
    step_s: float
    verdict: str
    """fits, may fit, does not fit."""


def write_plan_page(file: Path, plan: Mapping[str, Any], layouts: Sequence[LayoutPoint]) -> None:
    """Write the page of a plan, whole or not at all.

    Args:
        file: to write.
        plan: what `headrace plan --json` prints.
        layouts: all of them, the best first.
    """
    from headrace.version import VERSION

    model, hardware = plan["model"], plan["hardware"]
    title = f"{model['name']} on {hardware['gpus']} x {hardware['name']}"
    today = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    sentences = "".join(f"<p>{escape(str(sentence))}</p>" for sentence in plan["sentences"])
    command = plan.get("command")
    header = (
        f'<header><p class="kicker">headrace plan</p><h1>{escape(title)}</h1>'
        f'<p class="sub">{model["parameters"] / 1e9:.2f} G parameters; {plan["num_fitting"]:,} of '
        f"{plan['num_layouts']:,} layouts surely fit</p></header>\n<main>\n"
    )
    figure = (
        f"<figure>{_legend()}{draw_layouts(layouts, memory_gib=hardware['memory_gib'])}<figcaption>Each dot is a "
        "layout, at its expected values; both axes are logarithmic. The line is a device's memory. Point at a dot to "
        "see its layout.</figcaption></figure>"
    )
    words = sentences + (f'<pre class="code">{escape(command)}</pre>' if command else "")
    body = header + "".join(
        f"<section><h2>{name}</h2>{content}</section>\n"
        for name, content in (
            ("Memory against time of all layouts", figure),
            ("What binds the best one", words),
            ("The best layouts", _table(plan["layouts"])),
            ("Input and output", _figures(plan["input_output"])),
        )
    )
    body += f"</main>\n<footer>Made by headrace {VERSION} on {today}. Intervals hold 9 of 10 measured runs.</footer>"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, render_document(title, body).encode())


def draw_layouts(layouts: Sequence[LayoutPoint], *, memory_gib: float) -> str:
    """All layouts as dots of an `<svg>`: memory along, seconds of a step up, logarithmic."""
    xs = [point.memory_gib for point in layouts] + [memory_gib]
    ys = [point.step_s for point in layouts]
    x_low, x_high = math.log10(min(xs) * 0.9), math.log10(min(max(xs), 100 * memory_gib) * 1.1)
    y_low, y_high = math.log10(min(ys) * 0.9), math.log10(max(ys) * 1.1)
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x_of(value: float) -> float:
        return _LEFT + (math.log10(value) - x_low) / (x_high - x_low) * (right - _LEFT)

    def y_of(value: float) -> float:
        return floor - (math.log10(value) - y_low) / (y_high - y_low) * (floor - _TOP)

    dots, seen = [], set()
    for place, point in enumerate(layouts):
        x, y = x_of(point.memory_gib), y_of(point.step_s)
        cell = (round(x / _CELL), round(y / _CELL), point.verdict)
        if cell in seen or x > right:
            continue
        seen.add(cell)
        text = f"{point.name}\n{point.memory_gib:.3g} GiB, {point.step_s:.3g} s, {point.verdict}"
        size = 6 if place == 0 else 3
        dots.append(
            f'<circle style="{_STYLE[point.verdict]}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">'
            f"<title>{escape(text)}</title></circle>"
        )
    limit = x_of(memory_gib)
    best = layouts[0]
    label_at = min(max(x_of(best.memory_gib), _LEFT + 60), right - 60)
    x_label = (
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">'
        "GiB of memory at the fullest device</text>"
    )
    y_label = (
        f'<text transform="translate(13 {(_TOP + floor) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "seconds of a step</text>"
    )
    best_label = (
        f'<text class="value" x="{label_at:.1f}" y="{y_of(best.step_s) + 22:.1f}" text-anchor="middle">'
        f"{best.step_s:.3g} s</text>"
    )
    summary = (
        f"{len(layouts):,} layouts; the best takes {best.step_s:.3g} s and {best.memory_gib:.3g} GiB of "
        f"{memory_gib:.0f}: {best.name}"
    )
    return "\n".join(
        [
            f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" {_NAMED}>',
            '<title id="layouts-title">Memory against time of all layouts</title>',
            f'<desc id="layouts-desc">{escape(summary)}</desc>',
            *(f'<path class="grid" d="M{_LEFT} {y_of(v):.1f}H{right}"/>' for v in _ticks(y_low, y_high)),
            f'<path class="axis" d="M{_LEFT} {floor}H{right}"/>',
            *reversed(dots),  # the best on top
            f'<path class="marked" d="M{limit:.1f} {_TOP}V{floor}"/>',
            f'<text x="{limit - 5:.1f}" y="{_TOP + 11}" text-anchor="end">{memory_gib:.0f} GiB</text>',
            best_label,
            '<g aria-hidden="true">',
            *(
                f'<text x="{_LEFT - 7}" y="{y_of(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
                for v in _ticks(y_low, y_high)
            ),
            *(
                f'<text x="{x_of(v):.1f}" y="{floor + 17}" text-anchor="middle">{v:g}</text>'
                for v in _ticks(x_low, x_high)
            ),
            x_label,
            y_label,
            "</g></svg>",
        ]
    )


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two logarithms; fewer over many decades."""
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    found = [
        factor * 10.0**power for power in range(math.floor(low) - 1, math.ceil(high) + 1) for factor in steps
    ]
    return [float(f"{value:.3g}") for value in found if low <= math.log10(value) <= high]


def _legend() -> str:
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 24 10" aria-hidden="true"><circle style="{style}" cx="12" cy="5" r="4"/>'
        f"</svg>{kind}</li>"
        for kind, style in _STYLE.items()
    )
    return f'<ul class="legend">{keys}</ul>'


def _table(layouts: Sequence[Mapping[str, Any]]) -> str:
    names = (
        "layout",
        "step s (90 %)",
        "tokens/s",
        "MFU",
        "GiB (90 %)",
        "exposed communication",
        "bubble",
        "",
    )
    head = "".join(f'<th scope="col">{name}</th>' if name else "<td></td>" for name in names)
    rows = "".join(
        f'<tr><th scope="row">{escape(line["layout"].replace(",", " "))}</th>'
        f'<td class="number">{line["step_s"]:.3g} ({line["step_s_low"]:.3g} to {line["step_s_high"]:.3g})</td>'
        f'<td class="number">{line["tokens_per_s"]:,.0f}</td><td class="number">{100 * line["mfu"]:.0f} %</td>'
        f'<td class="number">{line["memory_gib"]:.1f} ({line["memory_gib_low"]:.1f} to '
        f"{line['memory_gib_high']:.1f})</td>"
        f'<td class="number">{100 * line["communication_share"]:.0f} %</td>'
        f'<td class="number">{100 * line["bubble_share"]:.0f} %</td>'
        f"<td>{'fits' if line['fits'] else 'may fit' if line['tight'] else 'does not fit'}</td></tr>"
        for line in layouts
    )
    table = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table class="rivals">{table}</table></div>'


def _figures(figures: Sequence[Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(figure.name)}</th>'
        f'<td class="number">{figure.value:,.4g} {escape(figure.unit)}</td>'
        f"<td>{escape(figure.formula)}</td></tr>"
        for figure in figures
    )
    return f'<div class="scroll"><table class="rivals"><tbody>{rows}</tbody></table></div>'
