"""Steps that diverge are left out or gone around, on record, the same on every rank and after kills."""

from __future__ import annotations

import json
import math
import shutil
import signal

import numpy as np
import pytest
import torch
from flat_options import train

from headrace.errors import ConfigError
from headrace.model import GPTConfig
from headrace.store import commit_store, write_shard
from headrace.tokens.byte import ByteTokenizer
from headrace.training.step.divergence import divergence_of
from headrace.training.step.trainable import TrainableModel

SHAPE = {
    "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 257,
    "max_position_embeddings": 16,
}  # fmt: skip
BAD_STEP, ROWS = 21, 8
OPTIONS = {
    "seq_len": 16, "batch_size": ROWS, "lr": 2e-2, "dtype": "float32", "device": "cpu", "seed": 5, "steps": 27,
    "shuffle": "none", "spike_sigma": 4.0, "spike_window": 16, "checkpoint_every": 4, "keep_checkpoints": 9,
}  # fmt: skip
OURS = {**OPTIONS, "model": GPTConfig(**SHAPE)}
FORKED = {**OPTIONS, "model": SHAPE}


@pytest.fixture(scope="module")
def spiked(tmp_path_factory):
    """A repeating text with random bytes in the rows of one step: its loss is a spike."""
    path = tmp_path_factory.mktemp("store") / "spiked"
    tokens = np.tile(np.frombuffer(b"abcdefgh", np.uint8), 2 * ROWS * 45).astype(np.uint16)
    begin, end = (BAD_STEP - 1) * ROWS * 16, BAD_STEP * ROWS * 16
    tokens[begin:end] = np.random.default_rng(0).integers(0, 256, end - begin)
    entry = write_shard(path, "s0", tokens, [len(tokens)], block_tokens=1024)
    commit_store(path, [entry], tokenizer=ByteTokenizer())
    return path


def divergences(out):
    return json.loads((out / "run.json").read_text())["divergences"]


@pytest.fixture(scope="module")
def runs(spiked, tmp_path_factory):
    """The undisturbed run of each action."""
    out = tmp_path_factory.mktemp("run")
    for action in ("skip", "rollback"):
        with pytest.warns(RuntimeWarning, match="diverged"):
            train(spiked, out=out / action, on_divergence=action, **OURS)
    return out


def test_a_skipped_step_changes_no_weights_and_is_on_record(runs, read_metrics):
    (entry,) = divergences(runs / "skip")
    first_row = (BAD_STEP - 1) * ROWS
    assert (entry["step"], entry["action"], entry["rows"]) == (
        BAD_STEP,
        "skip",
        [first_row, first_row + ROWS],
    )
    lines = read_metrics(runs / "skip")
    assert [line["step"] for line in lines if "skipped" in line] == [BAD_STEP]
    assert lines[BAD_STEP]["loss"] < lines[BAD_STEP - 2]["loss"] + 0.1 < lines[BAD_STEP - 1]["loss"]
    assert lines[-1]["position"] == 27 * ROWS


def test_a_rollback_goes_around_all_rows_since_the_checkpoint(runs, read_metrics):
    (entry,) = divergences(runs / "rollback")
    assert (entry["after_step"], entry["rows"]) == (20, [20 * ROWS, 21 * ROWS])
    lines = read_metrics(runs / "rollback")
    assert [line["step"] for line in lines] == list(range(1, 28))
    assert [line["position"] for line in lines[19:22]] == [20 * ROWS, 22 * ROWS, 23 * ROWS]
    assert "went back" not in str(lines)


@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_kills_around_the_step_give_the_same_losses_and_the_same_record(
    action, spiked, runs, tmp_path, start_run, losses
):
    out = tmp_path / "run"
    for step in (19, 22):
        run = start_run(stores=spiked, out=out, on_divergence=action, **{**FORKED, "checkpoint_every": 5})
        run.wait_for_step(step)
        run.send(signal.SIGKILL)
        run.wait()
    assert (
        start_run(stores=spiked, out=out, on_divergence=action, **{**FORKED, "checkpoint_every": 5}).wait()
        == 0
    )
    expected = runs / action
    assert losses(out) == losses(expected)
    assert [entry["rows"] for entry in divergences(out)] == [entry["rows"] for entry in divergences(expected)]


def test_a_rollback_is_repeated_from_an_older_checkpoint_without_meeting_the_step_again(
    spiked, runs, tmp_path, losses
):
    out = tmp_path / "run"
    shutil.copytree(runs / "rollback", out)
    for path in sorted((out / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)
    summary = train(spiked, out=out, **OURS)  # no warning: the rows are gone around at once
    assert summary.resumed_from == 4
    assert losses(out) == losses(runs / "rollback")


def test_every_rank_leaves_out_the_same_step(spiked, runs, tmp_path, start_run, losses):
    run = start_run(world=2, dp=2, stores=spiked, out=tmp_path / "run", on_divergence="rollback", **FORKED)
    assert run.wait_all() == [(0, "end 27 None")] * 2
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(runs / "rollback"), rtol=1e-4)
    assert [e["rows"] for e in divergences(tmp_path / "run")] == [
        e["rows"] for e in divergences(runs / "rollback")
    ]


class BrokenModel:
    """Makes the loss NaN at some calls of forward_backward."""

    def __init__(self, monkeypatch, broken):
        self._calls, self._broken = 0, broken
        self._real = TrainableModel.forward_backward

        def call(model, *arguments, **options):
            self._calls += 1
            loss = self._real(model, *arguments, **options)
            if not self._broken(self._calls):
                return loss
            for _, parameter in model.named:
                parameter.grad.fill_(math.nan)
            return loss * torch.nan

        monkeypatch.setattr(TrainableModel, "forward_backward", call)


@pytest.mark.filterwarnings("ignore:train. step .* diverged:RuntimeWarning")
def test_a_loss_that_is_no_number_is_skipped_and_the_weights_stay_finite(
    spiked, tmp_path, monkeypatch, read_metrics
):
    BrokenModel(monkeypatch, lambda call: call == 3)
    summary = train(spiked, out=tmp_path, on_divergence="skip", **{**OURS, "steps": 6, "spike_sigma": 0.0})
    lines = read_metrics(tmp_path)
    assert [line["loss"] is None for line in lines] == [False, False, True, False, False, False]
    assert math.isfinite(summary.loss)


@pytest.mark.filterwarnings("ignore:train. step .* diverged:RuntimeWarning")
@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("stop", "diverged at step 5: the loss is nan"),
        ("skip", "step 15.*10 updates before were left out too"),
        ("rollback", "step 5.*went back to step 4 10 times"),
    ],
)
def test_a_run_that_only_diverges_stops(action, says, spiked, tmp_path, monkeypatch):
    BrokenModel(monkeypatch, lambda call: call >= 5)
    with pytest.raises(ConfigError, match=says):
        train(spiked, out=tmp_path, on_divergence=action, **OURS)


def test_a_rollback_before_the_first_checkpoint_says_so(spiked, tmp_path, monkeypatch):
    BrokenModel(monkeypatch, lambda call: call == 2)
    with pytest.raises(ConfigError, match="no checkpoint to go back to yet"):
        train(spiked, out=tmp_path, on_divergence="rollback", **OURS)


def test_a_spike_lies_above_mean_and_deviation_of_enough_steps():
    recipe = type("R", (), {"spike_sigma": 3.0, "spike_window": 8})
    recent = [[1.0, 2.0], [1.2, 2.0], [0.8, 2.2], [1.0, 1.8]]
    assert divergence_of(1.4, 2.0, recent, recipe) is None
    assert "the loss is 1.6" in divergence_of(1.6, 2.0, recent, recipe)
    assert "the gradient norm is 3" in divergence_of(1.0, 3.0, recent, recipe)
    assert divergence_of(9.0, 9.0, recent[:3], recipe) is None
    assert "nan" in divergence_of(math.nan, 1.0, [], recipe)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"on_divergence": "ignore"}, "one of stop, skip, rollback"), ({"spike_sigma": -1.0}, "spike_sigma is -1"),
     ({"spike_window": 1}, "spike_window is 1")],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, says, spiked, tmp_path):
    with pytest.raises(ConfigError, match=says):
        train(spiked, out=tmp_path / "run", **{**OURS, **options})
