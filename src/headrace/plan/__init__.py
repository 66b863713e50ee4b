"""Which parallel strategy, and what it costs: memory, step time and bytes as arithmetic, with 90 % intervals. No torch.

In reading order:

    shapes, hardware        what is trained, on what
    points                  many set-ups as arrays
    step_time, memory       a set-up -> seconds and bytes, by part
    table                   measured runs from a CSV file
    families                a system's name -> its family of software
    calibration             measured runs -> a system's constants, and intervals from held-out runs
    constants               the calibration that comes with headrace
    own_runs                your own runs as measured points
    layout_search           all layouts of a job, the best first
    impossible              why no layout has some values
    explain                 layouts in words, and the command to type
    job_bytes               reading, checkpoints, ingest, generation
    comparison              predictions beside measurements
"""

from headrace.plan.comparison import CheckReport, calibration_of, check
from headrace.plan.constants import shipped, step_seconds, system_of_hardware
from headrace.plan.explain import (
    command,
    duration,
    find,
    first_runnable,
    layout_name,
    layout_values,
    sentences,
    summary_of,
    why,
)
from headrace.plan.hardware import (
    GPUS,
    Hardware,
    find_gpu,
    gpu_by_name,
    hardware_toml,
    read_hardware,
    resolve_dtype,
)
from headrace.plan.job_bytes import (
    Figure,
    StorageOptions,
    StoreFigures,
    input_output,
    with_measured,
    with_store,
)
from headrace.plan.layout_search import Layouts, TrainingJob, search
from headrace.plan.own_runs import (
    MeasuredRun,
    add_runs,
    cache_directory,
    calibrations,
    measured_run,
    own_constants_path,
    processes_of,
)
from headrace.plan.shapes import MODELS, ModelShape, custom_shape, model_shape
from headrace.plan.table import read_table

__all__ = [
    "GPUS",
    "MODELS",
    "CheckReport",
    "Figure",
    "Hardware",
    "Layouts",
    "MeasuredRun",
    "ModelShape",
    "StorageOptions",
    "StoreFigures",
    "TrainingJob",
    "add_runs",
    "cache_directory",
    "calibration_of",
    "calibrations",
    "check",
    "command",
    "custom_shape",
    "duration",
    "find",
    "find_gpu",
    "first_runnable",
    "gpu_by_name",
    "hardware_toml",
    "input_output",
    "layout_name",
    "layout_values",
    "measured_run",
    "model_shape",
    "own_constants_path",
    "processes_of",
    "read_hardware",
    "read_table",
    "resolve_dtype",
    "search",
    "sentences",
    "shipped",
    "step_seconds",
    "summary_of",
    "system_of_hardware",
    "why",
    "with_measured",
    "with_store",
]
