"""Counters and metrics of a run -> where its time went, as a page and charts."""

from headrace.profile.comparison import comparison_rows
from headrace.profile.html_report import report
from headrace.profile.intervals import ConfidenceInterval, share_interval, t_quantile
from headrace.profile.machine import describe_machine
from headrace.profile.run_files import RunFiles, StepMetrics, read_run_files
from headrace.profile.stage_times import StageTime, describe_stages, run_stage_times

__all__ = [
    "ConfidenceInterval",
    "RunFiles",
    "StageTime",
    "StepMetrics",
    "comparison_rows",
    "describe_machine",
    "describe_stages",
    "read_run_files",
    "report",
    "run_stage_times",
    "share_interval",
    "t_quantile",
]
