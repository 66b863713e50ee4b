"""TrainLoader + model -> a run directory: metrics and checkpoints."""

from headrace.training.launch import train
from headrace.training.loop import RunSummary
from headrace.training.pretrained import ImportSummary, import_model

__all__ = ["ImportSummary", "RunSummary", "import_model", "train"]
