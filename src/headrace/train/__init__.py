"""Batches + model -> a run directory: metrics and checkpoints."""

from headrace.train.launch import train
from headrace.train.loop import RunSummary

__all__ = ["RunSummary", "train"]
