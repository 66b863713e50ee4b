"""A chart as a value -> inline SVG that follows the page's colours, light or dark.

Drawn here and not by a plotting library, so that `headrace report` needs none,
the page asks for nothing, text stays text, and one picture serves both themes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from headrace.profile.axis import short, ticks
from headrace.profile.charts import LineChart, Point, Series

# Drawn narrow and scaled up: at a phone's 340 pixels the labels are still 9 pixels high.
WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 14, 40

TOOLTIPS = 60
"""Strips of a chart that show their values under the mouse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Data coordinates -> the picture's."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def line_chart(chart: LineChart) -> str:
    """One chart as an `<svg>` element with a title and a description for screen readers."""
    frame = _frame(chart)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="{chart.name}-title {chart.name}-desc">',
        f'<title id="{chart.name}-title">{escape(chart.title)}</title>',
        f'<desc id="{chart.name}-desc">{escape(chart.summary)}</desc>',
        *_axes(chart, frame),
        *(_draw(series, frame) for series in chart.series),
        *_end_label(chart, frame),
        *_tooltips(chart, frame),
        "</svg>",
    ]
    return "\n".join(parts)


def legend(chart: LineChart) -> str:
    """The names of a chart's series beside the marks they are drawn with."""
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 24 10" aria-hidden="true">{_KEY[series.role]}</svg>'
        f"{escape(series.name)}</li>"
        for series in chart.series
    )
    return f'<ul class="legend">{keys}</ul>'


_KEY = {
    "faint": '<path class="faint" d="M1 7 5 3 9 8 13 2 17 7 23 4"/>',
    "main": '<path class="main" d="M1 5H23"/>',
    "marked": '<path class="marked" d="M1 5H23"/><circle class="mark" cx="12" cy="5" r="3.5"/>',
}


def _frame(chart: LineChart) -> _Frame:
    xs = [x for series in chart.series for x, _ in series.points]
    ys = [y for series in chart.series for _, y in series.points]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = (0.0 if chart.from_zero else min(ys)), _top(chart, ys)
    gap = (y_high - y_low) * 0.06 or abs(y_high) * 0.1 or 1.0
    return _Frame(
        x_low=x_low,
        x_high=x_high if x_high > x_low else x_low + 1,
        y_low=y_low if chart.from_zero else y_low - gap,
        y_high=y_high + gap,
    )


def _top(chart: LineChart, ys: Sequence[float]) -> float:
    return max(max(ys), 1e-9) if chart.from_zero else max(ys)


def _axes(chart: LineChart, frame: _Frame) -> list[str]:
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    lines, labels = [], []
    for value in ticks(frame.y_low, frame.y_high, about=5):
        y = frame.y(value)
        lines.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        labels.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for value in ticks(frame.x_low, frame.x_high, about=6):
        labels.append(f'<text x="{frame.x(value):.1f}" y="{floor + 17}" text-anchor="middle">{short(value)}</text>')
    return [
        *lines,
        f'<path class="axis" d="M{LEFT} {floor}H{right}"/>',
        '<g class="ticks" aria-hidden="true">',
        *labels,
        "</g>",
        f'<text class="label" x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 5}" text-anchor="middle">'
        f"{escape(chart.x_label)}</text>",
        f'<text class="label" transform="translate(11 {(TOP + floor) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(chart.y_label)}</text>',
    ]


def _draw(series: Series, frame: _Frame) -> str:
    line = f'<path class="{series.role}" d="{_path(series.points, frame)}"/>'
    if series.role != "marked" and len(series.points) > 1:
        return line
    marks = "".join(
        f'<circle class="{"mark" if series.role == "marked" else "dot"}" cx="{frame.x(x):.1f}" '
        f'cy="{frame.y(y):.1f}" r="3.5"/>'
        for x, y in series.points
    )
    return line + marks


def _path(points: Sequence[Point], frame: _Frame) -> str:
    corners = (f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in thin(points, WIDTH))
    return "M" + "L".join(corners)


def thin(points: Sequence[Point], columns: int) -> Sequence[Point]:
    """A long line with only the lowest and highest point of every pixel column; looks the same, stays small."""
    if len(points) <= 2 * columns:
        return points
    kept: list[Point] = []
    for column in range(columns):
        part = points[column * len(points) // columns : (column + 1) * len(points) // columns]
        kept.extend(sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}))
    return kept


def _end_label(chart: LineChart, frame: _Frame) -> list[str]:
    """The last value of the curve to look at, written where the curve ends."""
    main = [series for series in chart.series if series.role == "main"]
    if not main:
        return []
    x, y = main[-1].points[-1]
    # Above the curve, except where that would leave the picture.
    offset = -9 if frame.y(y) > TOP + 24 else 18
    return [
        f'<text class="value" x="{frame.x(x):.1f}" y="{frame.y(y) + offset:.1f}" text-anchor="end">'
        f"{value_text(y)}</text>"
    ]


def value_text(value: float) -> str:
    """A value of a curve: 3.142 -> "3.14", 8123.4 -> "8,123"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _tooltips(chart: LineChart, frame: _Frame) -> list[str]:
    """Invisible strips whose `<title>` a browser shows under the mouse: no script needed."""
    shown = [series for series in chart.series if series.role != "faint"]
    longest = max((series.points for series in shown), key=len)
    count = min(TOOLTIPS, len(longest))
    strip = (WIDTH - LEFT - RIGHT) / count
    out = []
    for i in range(count):
        x, _ = longest[(2 * i + 1) * len(longest) // (2 * count)]
        values = "".join(
            f"\n{series.name}: {value_text(min(series.points, key=lambda p: abs(p[0] - x))[1])}" for series in shown
        )
        out.append(
            f'<rect class="hover" x="{LEFT + i * strip:.1f}" y="{TOP}" width="{strip:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{escape(f"{chart.x_label} {x:g}{values}")}</title></rect>'
        )
    return out
