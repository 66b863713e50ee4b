"""Batches + model -> a run directory: metrics and checkpoints.

options, shape_options, lora_options   what users can set
shape, recipe, lora   options -> the shape, the recipe, the LoRA configuration: all that the loss curve depends on
prepare, start   what a start opens, and the files that begin a run
launch, loop, loop_files   train(): the steps from options to the last checkpoint
data, evaluation stores -> training rows and held-out rows
pretrained, branch   a Hugging Face directory or a run -> what a run begins with
optim, muon      optimizers, parameter groups, learning rates
layout_choice    `layout="auto"`: the layout that trains fastest, planned and measured
remote_run       `--out s3://...`: a run that lives on an object store
step/            rows and a model -> one optimizer step
distributed/     the processes of a run, and each one's part of the model
checkpoints/     tensors and a state -> checkpoints, and back
run_directory/   the files of a run directory, here or on an object store

Names are imported when they are first used: the options need no torch. Importing this package before torch limits how
long OpenMP threads spin, see `headrace.platform.limit_openmp_spinning`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.platform import limit_openmp_spinning
from headrace.training.evaluation_options import EvaluationOptions
from headrace.training.lora_options import LoraOptions
from headrace.training.options import (
    CheckpointOptions,
    DataOptions,
    OptimizerOptions,
    ParallelOptions,
    RunOptions,
)
from headrace.training.shape_options import ShapeOptions
from headrace.training.summary import RunSummary

if TYPE_CHECKING:
    from headrace.training.launch import train
    from headrace.training.pretrained import ImportSummary, import_model
    from headrace.training.step.mfu import peak_flops

limit_openmp_spinning()

__all__ = [
    "CheckpointOptions",
    "DataOptions",
    "EvaluationOptions",
    "ImportSummary",
    "LoraOptions",
    "OptimizerOptions",
    "ParallelOptions",
    "RunOptions",
    "RunSummary",
    "ShapeOptions",
    "import_model",
    "peak_flops",
    "train",
]

_LAZY = {
    "train": "launch",
    "ImportSummary": "pretrained",
    "import_model": "pretrained",
    "peak_flops": "step.mfu",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"headrace.training.{_LAZY[name]}"), name)
