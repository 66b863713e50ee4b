"""Counters and metrics of a run -> where its time went, as a page and charts."""

from headrace.profile.comparison import comparison_rows
from headrace.profile.html_report import report
from headrace.profile.intervals import ConfidenceInterval, rate_interval, share_interval, t_quantile
from headrace.profile.machine import describe_machine
from headrace.profile.page import render_document
from headrace.profile.plan_page import LayoutPoint, write_plan_page
from headrace.profile.run_files import RunFiles, StepMetrics, read_run_files
from headrace.profile.stage_times import StageTime, describe_stages, run_stage_times
from headrace.profile.step_bar import StepBalance, StepPart, draw_step_bar, run_step_balance, step_bar_section
from headrace.profile.store_page import write_samples_page, write_tokens_page
from headrace.profile.svg import standalone

__all__ = [
    "ConfidenceInterval",
    "LayoutPoint",
    "RunFiles",
    "StageTime",
    "StepBalance",
    "StepMetrics",
    "StepPart",
    "comparison_rows",
    "describe_machine",
    "describe_stages",
    "draw_step_bar",
    "rate_interval",
    "read_run_files",
    "render_document",
    "report",
    "run_stage_times",
    "run_step_balance",
    "share_interval",
    "standalone",
    "step_bar_section",
    "t_quantile",
    "write_plan_page",
    "write_samples_page",
    "write_tokens_page",
]
