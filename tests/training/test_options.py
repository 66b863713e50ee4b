"""Options of train(): checked when they are made, the same in the API and on the command line.

Covers option_checks.py.
"""

from __future__ import annotations

import dataclasses
import typing

import pytest
from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.training import DataOptions, LoraOptions, OptimizerOptions, ParallelOptions, RunOptions
from headrace.training.options import check_steps
from headrace.training.shape_options import ShapeOptions

API_ONLY = {"output", "reading", "eval_stores", "sample_prompts", "lora"}


def test_every_option_has_a_sentence_or_is_for_the_api_alone():
    from flat_options import GROUPS

    for kind in (*GROUPS.values(), LoraOptions):
        hints = typing.get_type_hints(kind, include_extras=True)
        documented = {
            name
            for name, hint in hints.items()
            if any(isinstance(extra, Doc) for extra in getattr(hint, "__metadata__", ()))
        }
        assert {field.name for field in dataclasses.fields(kind)} - documented <= API_ONLY


@pytest.mark.parametrize(
    ("options", "processes", "dp"),
    [({}, 1, 1), ({"tp": 2}, 8, 4), ({"tp": 2, "pp": 2}, 4, 1), ({"dp": 3, "pp": 2}, 6, 3)],
)
def test_the_degrees_multiply_to_the_processes(options, processes, dp):
    resolved = ParallelOptions(**options, compile=True).resolve(processes)
    assert (resolved.dp, resolved.compile) == (dp, True)


@pytest.mark.parametrize(
    ("options", "processes"), [({"tp": 3}, 4), ({"dp": 2}, 1), ({"dp": 0}, 2), ({"pp": 8}, 4)]
)
def test_degrees_that_do_not_multiply_to_the_processes_are_refused(options, processes):
    with pytest.raises(ConfigError, match=r"cannot be .* processes"):
        ParallelOptions(**options).resolve(processes)


def test_microbatches_divide_the_rows():
    assert ParallelOptions(pp=2).num_microbatches(12) == 6
    assert ParallelOptions(pp=2, microbatches=3).num_microbatches(12) == 3
    assert ParallelOptions(pp=2, pipeline_schedule="interleaved").num_stages == 4


def test_options_that_decide_the_rows_are_the_data_identity():
    assert DataOptions(seq_len=8, batch_size=2).identity() == {}
    assert DataOptions(packing="best_fit", shuffle="none").identity() == {
        "packing": "best_fit",
        "shuffle": "none",
    }


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_are_at_least_one(steps):
    with pytest.raises(ConfigError, match="steps is"):
        check_steps(steps)


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        OptimizerOptions().lr = 1.0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (OptimizerOptions, "warmup_steps"),
        (OptimizerOptions, "decay_steps"),
        (OptimizerOptions, "rampup_steps"),
        (OptimizerOptions, "spike_window"),
        (DataOptions, "batch_size"),
        (RunOptions, "tokens"),
        (RunOptions, "max_seconds"),
        (ShapeOptions, "num_hidden_layers"),
        (ShapeOptions, "max_position_embeddings"),
    ],
)
def test_numbers_that_no_run_json_can_hold_are_refused_by_name(kind, name):
    with pytest.raises(ConfigError, match=f"train: {name} is 9{{23}}; expected from"):
        kind(**{name: 10**23 - 1})
