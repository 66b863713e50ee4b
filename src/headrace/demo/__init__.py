"""Nothing but Python -> the main job from end to end, on real text, beside the naive way."""

from headrace.demo.run import DemoSummary, run_demo

__all__ = ["DemoSummary", "run_demo"]
