"""A plan, a check or the table of GPUs -> what `headrace plan` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from headrace.cli.console import facts, print_json, stderr, stdout


def show_plan(result: dict[str, Any], memory_gib: float) -> None:
    """Print the best layouts, what binds them, and the bytes around the job."""
    view = Table(
        title=f"{result['model']['name']}, {result['model']['parameters'] / 1e9:.2f} G parameters, on "
        f"{result['hardware']['gpus']} x {result['hardware']['name']}: {result['num_fitting']:,} of "
        f"{result['num_layouts']:,} layouts surely fit",
        title_justify="left", box=None, padding=(0, 2, 0, 0),
    )  # fmt: skip
    for name in (
        "layout",
        "step s (90 %)",
        "tokens/s",
        "MFU",
        f"GiB of {memory_gib:.0f} (90 %)",
        "comm",
        "bubble",
        "",
    ):
        view.add_column(name, justify="left" if name in ("layout", "") else "right", overflow="fold")
    for line in result["layouts"]:
        view.add_row(
            line["layout"].replace(",", " "),
            f"{line['step_s']:.3g} ({line['step_s_low']:.3g}-{line['step_s_high']:.3g})",
            f"{line['tokens_per_s']:,.0f}",
            f"{100 * line['mfu']:.0f} %",
            f"{line['memory_gib']:.0f} ({line['memory_gib_low']:.0f}-{line['memory_gib_high']:.0f})",
            f"{100 * line['communication_share']:.0f} %",
            f"{100 * line['bubble_share']:.0f} %",
            "fits" if line["fits"] else "may fit" if line["tight"] else "does not fit",
        )
    stdout.print(view)
    for sentence in result["sentences"]:
        stdout.print(sentence, soft_wrap=True, highlight=False)
    if result["duration"]:
        d = result["duration"]
        stdout.print(
            f"{d['steps']:,.0f} steps: {d['days']:.3g} days ({d['days_low']:.3g} to {d['days_high']:.3g}), "
            f"{d['gpu_hours']:,.0f} GPU hours",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    rows = [(figure.name, f"{figure.value:,.4g} {figure.unit}") for figure in result["input_output"]]
    stdout.print(facts("input and output", rows))
    if result["command"]:
        stdout.print(result["command"], soft_wrap=True, highlight=False)


def list_gpus(*, as_json: bool) -> None:
    """Print the table of GPUs."""
    from headrace.plan import GPUS

    if as_json:
        print_json(GPUS)
        return
    view = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("gpu", "GiB", "bf16 TFLOP/s", "fp8", "memory GB/s", "link GB/s", "network GB/s", "per node"):
        view.add_column(name, justify="left" if name == "gpu" else "right")
    for gpu in GPUS.values():
        view.add_row(
            gpu.name, f"{gpu.memory_bytes / 2**30:.0f}", f"{gpu.bf16_flops / 1e12:,.0f}",
            f"{gpu.fp8_flops / 1e12:,.0f}", f"{gpu.memory_bytes_s / 1e9:,.0f}", f"{gpu.link_bytes_s / 1e9:,.0f}",
            f"{gpu.network_bytes_s / 1e9:,.1f}", str(gpu.gpus_per_node),
        )  # fmt: skip
    stdout.print(view)
    stdout.print("Data sheets of the makers, read 2026-11; network: usual servers of that generation.")


def show_check(report: Any) -> None:
    """Print predictions beside measurements by system, and the rows that were left out."""
    view = Table(
        title="predictions beside measurements", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for name in (
        "system",
        "points",
        "calibrated on",
        "step error",
        "inside 90 %",
        "memory error",
        "inside 90 %",
    ):
        view.add_column(name, justify="left" if name == "system" else "right", overflow="fold")
    total = {
        "name": "all", "points": sum(s["points"] for s in report.systems), "calibration_points": "",
        "step_error": report.step_error, "step_inside": report.step_inside, "memory_error": report.memory_error,
        "memory_inside": report.memory_inside,
    }  # fmt: skip
    for line in (*report.systems, total):
        shares = [line[key] for key in ("step_error", "step_inside", "memory_error", "memory_inside")]
        words = ["-" if share is None else f"{100 * share:.1f} %" for share in shares]
        view.add_row(str(line["name"]), str(line["points"]), str(line["calibration_points"]), *words)
    stdout.print(view)
    for line in report.rows:
        if "error" in line:
            stdout.print(f"row {line['row']} is left out: {line['error']}", soft_wrap=True, highlight=False)


def warn_of_unread(path: Path | str | None, unread: dict[int, str]) -> None:
    """Say on stderr which rows of a table nothing was learned from."""
    for row, why in unread.items():
        stderr.print(f"{path}: row {row} is left out: {why}", soft_wrap=True, highlight=False)


def write_page(file: Path, result: dict[str, Any], layouts: Any) -> None:
    """Write the HTML page of a plan, and say where it is."""
    from headrace.plan import layout_name
    from headrace.profile import LayoutPoint, write_plan_page

    points = [
        LayoutPoint(
            name=layout_name(layouts, i),
            memory_gib=float(layouts.memory.value[i]) / 2**30,
            step_s=float(layouts.step.value[i]),
            verdict="fits" if layouts.fits[i] else "may fit" if layouts.tight[i] else "does not fit",
        )
        for i in range(len(layouts))
    ]
    write_plan_page(file, result, points)
    stderr.print(f"page: {file}", soft_wrap=True, highlight=False)


def show_lines(lines: list[tuple[str, str]], *, as_json: bool) -> None:
    """Print an explanation line by line."""
    if as_json:
        print_json({"lines": lines})
        return
    for name, value in lines:
        stdout.print(f"{name:32} {value}".rstrip(), soft_wrap=True, highlight=False)
