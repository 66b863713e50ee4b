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
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 40

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
    named = f'aria-labelledby="{chart.name}-title {chart.name}-desc"'
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {named}>',
        f'<title id="{chart.name}-title">{escape(chart.title)}</title>',
        f'<desc id="{chart.name}-desc">{escape(chart.summary)}</desc>',
        *_axes(chart, frame),
        *(_draw(series, frame) for series in chart.series),
        *_end_label(chart, frame),
        *_tooltips(chart),
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
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    if chart.from_zero:
        # A quarter of room above the curve, for its label.
        y_low, y_high = 0.0, 1.25 * max(y_high, 1e-9)
    else:
        gap = 0.1 * (y_high - y_low) or 0.1 * abs(y_high) or 1.0
        y_low, y_high = y_low - gap, y_high + gap / 2
    return _Frame(x_low=x_low, x_high=x_high if x_high > x_low else x_low + 1, y_low=y_low, y_high=y_high)


def _axes(chart: LineChart, frame: _Frame) -> list[str]:
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    across = [(frame.y(value), short(value)) for value in ticks(frame.y_low, frame.y_high, about=5)]
    along = [(frame.x(value), short(value)) for value in ticks(frame.x_low, frame.x_high, about=6)]
    middle_x, middle_y = (LEFT + right) / 2, (TOP + floor) / 2
    turned = f"translate(11 {middle_y:.0f}) rotate(-90)"
    return [
        *(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>' for y, _ in across),
        f'<path class="axis" d="M{LEFT} {floor}H{right}"/>',
        '<g aria-hidden="true">',
        *(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{label}</text>' for y, label in across),
        *(f'<text x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{label}</text>' for x, label in along),
        f'<text x="{middle_x:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(chart.x_label)}</text>',
        f'<text transform="{turned}" text-anchor="middle">{escape(chart.y_label)}</text>',
        "</g>",
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
    """The lowest and the highest point of each pixel column: a long line looks the same, and is smaller."""
    if len(points) <= 2 * columns:
        return points
    kept: list[Point] = []
    for column in range(columns):
        part = points[column * len(points) // columns : (column + 1) * len(points) // columns]
        kept.extend(sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}))
    return kept


def _end_label(chart: LineChart, frame: _Frame) -> list[str]:
    """The last value of the curve to look at, written where it ends: above a rate, below a loss."""
    main = [series for series in chart.series if series.role == "main"]
    if not main:
        return []
    x, y = main[-1].points[-1]
    at = frame.y(y) + (-12 if chart.from_zero else 20)
    return [f'<text class="value" x="{frame.x(x):.1f}" y="{at:.1f}" text-anchor="end">{value_text(y)}</text>']


def value_text(value: float) -> str:
    """A value of a curve: 3.142 -> "3.14", 8123.4 -> "8,123"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _tooltips(chart: LineChart) -> list[str]:
    """Invisible strips whose `<title>` a browser shows under the mouse: no script needed."""
    shown = [series for series in chart.series if series.role != "faint"]
    longest = max((series.points for series in shown), key=len)
    count = min(TOOLTIPS, len(longest))
    width, height = (WIDTH - LEFT - RIGHT) / count, HEIGHT - TOP - BOTTOM
    strips = []
    for i in range(count):
        x, _ = longest[(2 * i + 1) * len(longest) // (2 * count)]
        nearest = [(series.name, min(series.points, key=lambda p: abs(p[0] - x))[1]) for series in shown]
        text = "\n".join([f"{chart.x_label} {x:g}", *(f"{name}: {value_text(y)}" for name, y in nearest)])
        place = f'x="{LEFT + i * width:.1f}" y="{TOP}" width="{width:.1f}" height="{height}"'
        strips.append(f'<rect class="hover" {place}><title>{escape(text)}</title></rect>')
    return strips
