"""A run directory -> report.html and plots/*.svg beside its metrics."""

from __future__ import annotations

import datetime as dt
import tempfile
from contextlib import suppress
from os import PathLike
from pathlib import Path

from headrace.errors import ConfigError
from headrace.paths import remote_url
from headrace.profile.charts import run_charts
from headrace.profile.page import render_page
from headrace.profile.run_files import FILES, read_run_files
from headrace.profile.stage_times import run_stage_times
from headrace.profile.step_bar import draw_step_bar, run_step_balance
from headrace.profile.svg import draw_bar_chart, draw_line_chart, standalone
from headrace.storage import open_blob


def report(run_dir: str | PathLike[str]) -> Path | str:
    """Write a page about a run, and its charts as pictures.

    The page is one file: it makes no request, follows the reader's light or dark theme, and prints. The pictures
    are loss.svg, tokens_per_s.svg, step.svg and stages.svg in plots/, on a white ground.

    Args:
        run_dir: a directory or URL that `headrace train --out` wrote; ingest.json, naive.json, predictions.json and
            about.json in it are shown too.

    Returns:
        Path or URL of report.html.

    Raises:
        ConfigError: not a run, or a file in it has another content than its name says.
    """
    url = remote_url(run_dir)
    return _report(run_dir) if url is None else _report_remote(url)


def _report_remote(url: str) -> str:
    """The report of a run on an object store, written beside it."""
    blob = open_blob(url)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for file in FILES:
            with suppress(FileNotFoundError):
                (directory / file).write_bytes(blob.get(file))
        try:
            _report(directory)
        except ConfigError as error:
            raise ConfigError(str(error).replace(name, url)) from None
        for path in [*sorted((directory / "plots").iterdir()), directory / "report.html"]:
            blob.put(path.relative_to(directory).as_posix(), path.read_bytes())
    return f"{url}/report.html"


def _report(run_dir: str | PathLike[str]) -> Path:
    from headrace.version import VERSION

    run = read_run_files(run_dir)
    today = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = run.path / "report.html"
    _write(page, render_page(run, made=f"Made by headrace {VERSION} on {today}"))
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    for chart in run_charts(run.steps):
        _write(folder / f"{chart.name}.svg", standalone(draw_line_chart(chart)))
    stages = run_stage_times(run)
    balance = run_step_balance(run)
    if balance is not None:
        _write(folder / "step.svg", standalone(draw_step_bar(balance.parts)))
    if stages:
        _write(folder / "stages.svg", standalone(draw_bar_chart(stages)))
    return page


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
