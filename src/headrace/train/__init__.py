"""Batches + model -> a run directory: metrics and checkpoints."""

from headrace.train.launch import train
from headrace.train.loop import RunSummary
from headrace.train.origin import ImportSummary, import_model

__all__ = ["ImportSummary", "RunSummary", "import_model", "train"]
