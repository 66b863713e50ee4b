"""Batches + model -> a run directory: metrics and checkpoints."""

from headrace.train.loop import RunSummary, train

__all__ = ["RunSummary", "train"]
