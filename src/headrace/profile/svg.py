"""Charts as values -> SVG: inline in a page, where it follows the light or dark theme, or as a file of its own.

Drawn here and not by a plotting library: `headrace report` needs none, text stays text, screen readers can read it,
and one picture serves both themes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from headrace.formatting import duration, percent
from headrace.profile.axis import short, ticks
from headrace.profile.charts import LineChart, Point, Series
from headrace.profile.stage_times import StageTime, slowest_stage, wall_seconds

# Drawn narrow and scaled up: at a phone's 340 pixels the labels are still 9 pixels high.
WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 40

TOOLTIPS = 60
"""Strips of a chart that show their values under the mouse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Converts data coordinates to picture coordinates."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def draw_line_chart(chart: LineChart) -> str:
    """One chart as an `<svg>` element with a title and a description for screen readers."""
    scale = _scale(chart)
    named = f'aria-labelledby="{chart.name}-title {chart.name}-desc"'
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {named}>',
        f'<title id="{chart.name}-title">{escape(chart.title)}</title>',
        f'<desc id="{chart.name}-desc">{escape(chart.summary)}</desc>',
        *_axes(chart, scale),
        *(_draw_series(series, scale) for series in chart.series),
        *_end_label(chart, scale),
        *_tooltips(chart),
        "</svg>",
    ]
    return "\n".join(parts)


def draw_legend(chart: LineChart) -> str:
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


def _scale(chart: LineChart) -> _Scale:
    xs = [x for series in chart.series for x, _ in series.points]
    ys = [y for series in chart.series for _, y in series.points]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    if chart.from_zero:
        # A quarter more than the largest value, for the label above the curve.
        y_low, y_high = 0.0, 1.25 * max(y_high, 1e-9)
    else:
        gap = 0.1 * (y_high - y_low) or 0.1 * abs(y_high) or 1.0
        y_low, y_high = y_low - gap, y_high + gap / 2
    return _Scale(x_low=x_low, x_high=x_high if x_high > x_low else x_low + 1, y_low=y_low, y_high=y_high)


def _axes(chart: LineChart, scale: _Scale) -> list[str]:
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    across = [(scale.y(value), short(value)) for value in ticks(scale.y_low, scale.y_high, about=5)]
    along = [(scale.x(value), short(value)) for value in ticks(scale.x_low, scale.x_high, about=6)]
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


def _draw_series(series: Series, scale: _Scale) -> str:
    line = f'<path class="{series.role}" d="{_path(series.points, scale)}"/>'
    if series.role != "marked" and len(series.points) > 1:
        return line
    marks = "".join(
        f'<circle class="{"mark" if series.role == "marked" else "dot"}" cx="{scale.x(x):.1f}" '
        f'cy="{scale.y(y):.1f}" r="3.5"/>'
        for x, y in series.points
    )
    return line + marks


def _path(points: Sequence[Point], scale: _Scale) -> str:
    corners = (f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in thin(points, WIDTH))
    return "M" + "L".join(corners)


def thin(points: Sequence[Point], columns: int) -> Sequence[Point]:
    """Keep the lowest and the highest point of each pixel column: a long line looks the same in fewer bytes."""
    if len(points) <= 2 * columns:
        return points
    kept: list[Point] = []
    for column in range(columns):
        part = points[column * len(points) // columns : (column + 1) * len(points) // columns]
        kept.extend(sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}))
    return kept


def _end_label(chart: LineChart, scale: _Scale) -> list[str]:
    """The last value of the main curve, written at its end: above a rate, below a loss."""
    main = [series for series in chart.series if series.role == "main"]
    if not main:
        return []
    x, y = main[-1].points[-1]
    at = scale.y(y) + (-12 if chart.from_zero else 20)
    return [f'<text class="value" x="{scale.x(x):.1f}" y="{at:.1f}" text-anchor="end">{value_text(y)}</text>']


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


BAR_HEIGHT, BAR_GAP, NAME_WIDTH, LABEL_WIDTH = 20, 12, 84, 140


def draw_bar_chart(stages: Sequence[StageTime]) -> str:
    """Seconds by stage as horizontal bars; stages that overlap others are outlined."""
    top, wall = slowest_stage(stages), wall_seconds(stages)
    longest = max(stage.seconds for stage in stages)
    height = TOP + len(stages) * (BAR_HEIGHT + BAR_GAP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="stages-title">',
        '<title id="stages-title">Time by stage</title>',
    ]
    for row, stage in enumerate(stages):
        y = TOP + row * (BAR_HEIGHT + BAR_GAP)
        width = max(1.0, stage.seconds / longest * (WIDTH - NAME_WIDTH - LABEL_WIDTH))
        kind = "overlaps" if stage.overlaps else "slowest" if stage is top else "bar"
        share = "background" if stage.overlaps else percent(stage.seconds / wall)
        label = f"{duration(stage.seconds)}, {share}"
        middle = y + BAR_HEIGHT / 2 + 4
        parts += [
            f'<text x="{NAME_WIDTH - 8}" y="{middle}" text-anchor="end">{escape(stage.name)}</text>',
            f'<rect class="{kind}" x="{NAME_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="2"/>',
            f'<text x="{NAME_WIDTH + width + 6:.1f}" y="{middle}">{escape(label)}</text>',
        ]
    return "\n".join([*parts, "</svg>"])


_LIGHT_STYLE = """<style>
text { font: 11.5px sans-serif; fill: #59636e; } .value { fill: #0b5cd6; font-weight: 650; font-size: 13px; }
path { fill: none; } .grid { stroke: #e6eaef; } .axis { stroke: #59636e; } .faint { stroke: #a9c8f5; }
.main { stroke: #0b5cd6; stroke-width: 2; } .marked { stroke: #b8500a; stroke-width: 1.4; }
.mark { fill: #b8500a; } .dot { fill: #0b5cd6; } .hover { opacity: 0; }
.part-compute { fill: #0b5cd6; } .part-wait { fill: #b8500a; } .part-communication { fill: #16703a; }
.part-checkpoint { fill: #a9c8f5; } .part-other { fill: #8c96a1; } .in-part { fill: #ffffff; font-weight: 650; }
.bar { fill: #8c96a1; } .slowest { fill: #0b5cd6; } .overlaps { fill: none; stroke: #8c96a1; stroke-dasharray: 3 2; }
</style>
<rect width="100%" height="100%" fill="#ffffff"/>"""


def standalone(svg: str) -> str:
    """An inline `<svg>` as a file of its own: light colours, a white ground, twice its size in pixels."""
    head, _, rest = svg.partition(">\n")
    width, height = (
        int(2 * float(number)) for number in head.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    )
    size = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    return f"{head} {size}>\n{_LIGHT_STYLE}\n{rest}\n"
