"""Python's own sources, or files of text -> a small model, its predictions and a report: the whole path once."""

from headrace.demo.options import DemoOptions
from headrace.demo.run import DemoSummary, run_demo

__all__ = ["DemoOptions", "DemoSummary", "run_demo"]
