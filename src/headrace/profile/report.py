"""A run directory -> report.html and plots/*.png beside its metrics."""

from __future__ import annotations

import datetime as dt
from os import PathLike
from pathlib import Path

from headrace.profile.charts import loss_chart, speed_chart, stage_times
from headrace.profile.page import render
from headrace.profile.plots import write_plots
from headrace.profile.rundir import read_run


def report(run_dir: str | PathLike[str]) -> Path:
    """Write a page about a run that one would show to a colleague, and its plots as pictures.

    The page holds all it needs: it makes no request, follows the reader's light
    or dark theme, and prints.

    Args:
        run_dir: what `headrace train --out` wrote; ingest.json, naive.json,
            predictions.json and about.json in it are shown when they are there.

    Returns:
        Path of report.html.

    Raises:
        ConfigError: not a run, or a file in it that is not what it should be.
        ModuleNotFoundError: matplotlib is missing; the page is written before.
    """
    from headrace import __version__

    run = read_run(run_dir)
    today = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = run.path / "report.html"
    partial = page.with_suffix(".html.tmp")
    partial.write_text(render(run, made=f"Made by headrace {__version__} on {today}"), encoding="utf-8")
    partial.replace(page)
    charts = [chart for chart in (loss_chart(run.steps), speed_chart(run.steps)) if chart is not None]
    write_plots(charts, stage_times(run), run.path / "plots")
    return page
