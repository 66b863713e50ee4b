"""Which recipe a step has after any sequence of starts, and what run.json records. Covers recipe.py too."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ConfigError, ResumeError
from headrace.model import GPTConfig
from headrace.training import DataOptions, OptimizerOptions
from headrace.training.recipe import CHANGEABLE, Recipe, RecipeRequest
from headrace.training.run_directory.segments import (
    read_segments,
    recipe_at,
    segments_json,
    start_segments,
    steps_of_tokens,
)

SHAPE = GPTConfig(
    num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=257, max_position_embeddings=16
)
MACHINE = {"processes": 1, "layout": {"dp": 1, "tp": 1}, "device": "cpu", "torch": "2"}


def resolve(
    steps: int = 100, before: Recipe | None = None, batch_size: int | None = None, **options
) -> Recipe:
    request = RecipeRequest(
        model=SHAPE, model_name="custom", data=DataOptions(batch_size=batch_size),
        optimizer=OptimizerOptions(**options), seed=None, banded=False, init_from=None,
    )  # fmt: skip
    return request.resolve(
        vocab_size=257, data_identity={}, steps=steps, dtype="float32",
        before=None if before is None else before.to_json(),
    )  # fmt: skip


def start(before, step, recipe, machine=MACHINE):
    return start_segments(
        before, step=step, recipe=recipe, machine=machine, began="2026-01-01T00:00:00+00:00"
    )


FIRST = resolve(batch_size=8, lr=1e-3)


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([1e-3, 5e-4, 1e-4]), st.integers(1, 2)), max_size=6
    )
)
def test_a_committed_step_keeps_its_recipe_through_every_later_start(starts):
    """A start goes on from any committed step, also from one before steps that were lost."""
    segments = start([], 0, FIRST)
    for step, lr, processes in starts:
        recipe = resolve(before=segments[-1].recipe, lr=lr)
        now = start(segments, step, recipe, {**MACHINE, "processes": processes})
        assert [recipe_at(now, s) for s in range(1, step + 1)] == [
            recipe_at(segments, s) for s in range(1, step + 1)
        ]
        assert now[-1].recipe == recipe
        first_steps = [segment.first_step for segment in now]
        assert first_steps == sorted(set(first_steps))
        assert all(b.changes(a) for a, b in itertools.pairwise(now))
        assert recipe_at(now, step + 1) in (recipe, recipe_at(segments, step + 1))
        segments = now
        assert read_segments({"segments": segments_json(segments)}, segments[0].recipe) == segments


def test_the_same_start_again_changes_nothing_wherever_it_goes_on():
    changed = resolve(before=FIRST, lr=5e-4)
    segments = start(start([], 0, FIRST), 50, changed)
    for step in (0, 20, 50, 60):  # steps lost before, at and after the change
        assert start(segments, step, changed) == segments


def test_steps_between_an_older_checkpoint_and_a_change_are_taken_as_before():
    changed = resolve(before=FIRST, batch_size=4)
    segments = start(start([], 0, FIRST), 50, changed)
    moved = start(segments, 20, changed, {**MACHINE, "processes": 2})
    assert [(s.first_step, s.recipe.batch_size, s.machine["processes"]) for s in moved] == [
        (1, 8, 1), (21, 8, 2), (51, 4, 2),
    ]  # fmt: skip


def test_a_change_that_no_committed_step_has_is_replaced():
    segments = start(start([], 0, FIRST), 50, resolve(before=FIRST, lr=5e-4))
    assert start(segments, 50, FIRST) == start([], 0, FIRST)


def test_a_finished_run_records_no_segment_and_the_record_says_what_changed():
    segments = start(start([], 0, FIRST), 50, resolve(before=FIRST, steps=120, max_grad_norm=0.5))
    first, second = segments_json(segments)
    assert first["changed"] == {}
    assert second["changed"] == {"steps": (100, 120), "decay_steps": (100, 120), "max_grad_norm": (1.0, 0.5)}
    assert (second["first_step"], second["began"][:4], second["processes"]) == (51, "2026", 1)


def test_what_is_not_given_stays_and_a_decay_that_ended_with_the_run_moves_with_it():
    before = resolve(batch_size=6, lr=1e-3, min_lr_ratio=0.5, gradient_accumulation_steps=3, weight_decay=0.0)
    assert resolve(before=before) == before
    longer = resolve(steps=200, before=before)
    assert (longer.decay_steps, longer.warmup_steps, longer.lr) == (200, before.warmup_steps, 1e-3)
    fixed = resolve(decay_steps=50)
    assert resolve(steps=200, before=fixed).decay_steps == 50


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cooldown_steps": 5}, "cooldown_steps is for lr_schedule wsd, not cosine"),
        ({"lr_schedule": "constant", "decay_steps": 5}, "constant has no decay"),
        ({"gradient_accumulation_steps": 3, "batch_size": 8}, "not divisible"),
    ],
)
def test_options_that_would_have_no_effect_or_do_not_fit_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        resolve(**options)


def test_what_may_change_are_fields_of_the_recipe():
    assert set(CHANGEABLE) <= {*FIRST.to_json()}
    assert not {"seed", "model", "data", "seq_len", "dtype", "init_from"} & set(CHANGEABLE)


@given(tokens=st.integers(1, 20_000), rampup_steps=st.integers(0, 9), done=st.integers(0, 12))
def test_steps_of_tokens_end_with_the_step_that_reads_the_last_token(tokens, rampup_steps, done):
    recipe = resolve(
        batch_size=8, gradient_accumulation_steps=4, rampup_batch_size=2, rampup_steps=rampup_steps
    )
    read = [0]
    for step in range(1, 400):
        read.append(read[-1] + recipe.schedule.micro_batches_at(step) * 2 * 16)
    steps = steps_of_tokens(tokens, recipe=recipe, step=done, tokens_done=read[done])
    assert read[steps] >= tokens
    assert steps == done or read[steps - 1] < tokens


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: run.pop("segments"),
        lambda run: run.update(segments=[]),
        lambda run: run.update(segments=None),
        lambda run: run.update(segments=[1]),
        lambda run: run["segments"][0].pop("recipe"),
        lambda run: run["segments"][0].pop("layout"),
        lambda run: run["segments"][0].pop("first_step"),
    ],
)
def test_segments_that_are_missing_or_damaged_are_an_error_with_the_cure(damage):
    recipe = resolve()
    run = {"segments": segments_json(start_segments([], step=0, recipe=recipe, machine=MACHINE))}
    assert len(read_segments(run, recipe)) == 1
    damage(run)
    with pytest.raises(ResumeError, match=r"run\.json: .*segments.*Restore it from a copy"):
        read_segments(run, recipe)
