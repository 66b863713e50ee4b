"""Batches + model -> a run directory: metrics and checkpoints.

options, shape_options, lora_options   what users can set
shape            a name or shape options -> the shape
launch           train(): the steps from options to the loop
lora             LoRA options -> its configuration
recipe, start    options -> the recipe, and the files that begin a run
pretrained       a Hugging Face directory or a run -> weights to begin with
data, evaluation stores -> training rows and held-out rows
layout, parallel, pipeline, trainable   a model -> this process's part of it
loop, train_step the steps, their metrics and checkpoints
checkpoint, distributed_save, save_watch, state, mirror   tensors -> checkpoints, and back
checkpoint_place, remote_checkpoints   where checkpoints are stored
remote_run, remote_lock   a run on an object store
process_group, rendezvous, liveness   the processes of one run
run_json, run_lock, run_log, metrics  files of the run directory

Names are imported when they are first used: the options need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.training.lora_options import LoraOptions
from headrace.training.options import (
    CheckpointOptions,
    DataOptions,
    EvaluationOptions,
    OptimizerOptions,
    ParallelOptions,
    RunOptions,
)
from headrace.training.shape_options import ShapeOptions
from headrace.training.summary import RunSummary

if TYPE_CHECKING:
    from headrace.training.launch import train
    from headrace.training.mfu import peak_flops
    from headrace.training.pretrained import ImportSummary, import_model

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

_LAZY = {"train": "launch", "ImportSummary": "pretrained", "import_model": "pretrained", "peak_flops": "mfu"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"headrace.training.{_LAZY[name]}"), name)
