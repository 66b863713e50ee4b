"""A run's recipe is resolved once: choices of the machine at its first start stay.

Covers recipe.py, prepare.py and device.py.
"""

from __future__ import annotations

import orjson
import pytest
import torch
from flat_options import train

from headrace.errors import ConfigError, ResumeError
from headrace.model import GPTConfig

SHAPE = GPTConfig(
    num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=257, max_position_embeddings=16
)
OPTIONS = {"model": SHAPE, "seq_len": 16, "batch_size": 4, "lr": 1e-3, "progress": None}


def recipe_of(out):
    return orjson.loads((out / "run.json").read_bytes())["recipe"]


def test_a_run_says_what_it_is_before_its_first_step(store, tmp_path):
    train(store, out=tmp_path / "run", steps=1, **OPTIONS)
    said = orjson.loads((tmp_path / "run" / "run.json").read_bytes())
    assert said["parameters"] == SHAPE.num_parameters
    assert said["flops_per_token"] == SHAPE.flops_per_token(16)
    assert said["torch"] == torch.__version__
    assert said["imported"] is None
    assert said["embeddings"] is None


def test_the_dtype_of_a_first_start_stays_when_auto_is_asked_for(store, tmp_path):
    """Another machine's auto may be another dtype, and another loss curve."""
    train(store, out=tmp_path / "run", steps=2, dtype="float32", **OPTIONS)
    before = recipe_of(tmp_path / "run")
    train(store, out=tmp_path / "run", steps=2, dtype="auto", **OPTIONS)
    assert recipe_of(tmp_path / "run") == before
    with pytest.raises(ResumeError, match="dtype"):
        train(store, out=tmp_path / "run", steps=2, dtype="bfloat16", **OPTIONS)


def test_steps_that_were_fitted_to_a_time_are_not_measured_again(store, tmp_path):
    train(store, out=tmp_path / "run", steps=None, max_seconds=0.3, **OPTIONS)
    steps = recipe_of(tmp_path / "run")["steps"]
    train(store, out=tmp_path / "run", steps=None, max_seconds=0.3, **OPTIONS)
    assert recipe_of(tmp_path / "run")["steps"] == steps


def test_seconds_below_zero_are_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="max_seconds is -1"):
        train(None, out=None, steps=None, max_seconds=-1, **OPTIONS)
