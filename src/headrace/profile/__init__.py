"""Counters and metrics -> where the time went, as plots and a page."""

from headrace.profile.machine import machine
from headrace.profile.report import report
from headrace.profile.where import StageTime, duration, percent, sentence

__all__ = ["StageTime", "duration", "machine", "percent", "report", "sentence"]
