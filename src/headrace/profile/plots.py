"""Charts as values -> PNG files for a slide or a message; needs matplotlib (`headrace[train]`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.profile.axis import short
from headrace.profile.charts import LineChart
from headrace.profile.svg import value_text
from headrace.profile.where import StageTime, duration, percent, slowest, wall_seconds

INK, QUIET, GRID = "#1f2328", "#656d76", "#e3e6ea"
BLUE, PALE_BLUE, ORANGE, GREY = "#1f6feb", "#b6d0f7", "#c2570c", "#aab4c0"

# The file's pixels at twice a screen's 96 a inch: sharp on a dense display.
DPI = 192

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "ytick.left": False,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "figure.facecolor": "white",
    "legend.edgecolor": "white",
    "legend.facecolor": "white",
    "legend.framealpha": 1.0,
    "legend.fontsize": 9,
    "legend.labelcolor": INK,
    "savefig.dpi": DPI,
}


def write_plots(charts: Sequence[LineChart], stages: Sequence[StageTime], folder: Path) -> list[Path]:
    """Write one PNG a chart, and one of the seconds by stage.

    Args:
        charts: drawn as `<name>.png`.
        stages: drawn as `stages.png`; nothing when empty.
        folder: made when missing.

    Returns:
        The files, in that order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [_write(folder / f"{chart.name}.png", _line, chart) for chart in charts]
    if stages:
        files.append(_write(folder / "stages.png", _bars, stages))
    return files


def _write(path: Path, draw: Any, value: object) -> Path:
    # The object-oriented way, on the file backend: pyplot would keep figures alive and look for a screen.
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7, 3.9), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.subplots(), value)
        partial = path.with_suffix(".tmp.png")
        figure.savefig(partial, metadata={"Software": None})
    partial.replace(path)
    return path


def _line(axes: Any, chart: LineChart) -> None:
    for series in chart.series:
        xs, ys = [x for x, _ in series.points], [y for _, y in series.points]
        look = {
            "faint": {"color": PALE_BLUE, "linewidth": 0.9},
            "main": {"color": BLUE, "linewidth": 1.9, "marker": "o" if len(xs) == 1 else None},
            "marked": {"color": ORANGE, "linewidth": 1.2, "marker": "o", "markersize": 4.5},
        }[series.role]
        axes.plot(xs, ys, label=series.name, **look)
        if series.role == "main":
            axes.annotate(
                value_text(ys[-1]),
                (xs[-1], ys[-1]),
                xytext=(0, 9 if chart.from_zero else -16),
                textcoords="offset points",
                ha="right",
                color=BLUE,
                fontweight="bold",
            )
    axes.set_title(chart.title)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.margins(x=0.01)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(lambda value, _: short(round(value, 9)))
    low, high = axes.get_ylim()
    # Room for the last value: above a rate, below a loss.
    axes.set_ylim((0, 1.2 * high) if chart.from_zero else (low - 0.08 * (high - low), high))
    axes.legend(loc="lower right" if chart.from_zero else "upper right")


def _bars(axes: Any, stages: Sequence[StageTime]) -> None:
    top, wall = slowest(stages), wall_seconds(stages)
    rows = list(reversed(stages))
    for y, stage in enumerate(rows):
        if stage.overlaps:
            axes.barh(
                y, stage.seconds, height=0.6, color="white", edgecolor=GREY, hatch="////", linewidth=0.8
            )
        else:
            axes.barh(y, stage.seconds, height=0.6, color=BLUE if stage is top else GREY)
        share = "in the background" if stage.overlaps else percent(stage.seconds / wall)
        axes.annotate(
            f"{duration(stage.seconds)}, {share}",
            (stage.seconds, y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(rows)), [stage.name for stage in rows], color=INK)
    axes.set_xlabel("seconds")
    # Room on the right for the longest bar's label.
    axes.set_xlim(0, max(stage.seconds for stage in stages) * 1.3)
    axes.set_title("Time by stage")
    if any(stage.overlaps for stage in stages):
        from matplotlib.patches import Patch

        axes.legend(
            handles=[
                Patch(facecolor=BLUE, label="the run stood still for it (slowest in blue)"),
                Patch(
                    facecolor="white",
                    edgecolor=GREY,
                    hatch="////",
                    label="in the background, beside compute",
                ),
            ],
            loc="lower right",
        )
