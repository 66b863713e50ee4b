"""The checkpoint of the lowest held-out loss stays, and patience ends a run: evaluation.py, checkpoint.py, loop.py."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
from flat_options import train

from headrace.errors import CheckpointError, ConfigError
from headrace.model import GPTConfig, find_checkpoint, load_model
from headrace.model.weights.checkpoint import list_checkpoints
from headrace.store import commit_store, write_shard
from headrace.tokens.byte import ByteTokenizer
from headrace.training.checkpoints.state import TrainState

SHAPE = {
    "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 257,
    "max_position_embeddings": 16,
}  # fmt: skip
OPTIONS = {
    "seq_len": 16, "batch_size": 8, "dtype": "float32", "device": "cpu", "seed": 5, "lr": 3e-2, "steps": 30,
    "eval_rows": 8, "eval_every": 2, "keep_checkpoints": 1, "checkpoint_every": 3, "lr_schedule": "constant",
    "max_grad_norm": 0.0, "warmup_steps": 1,
}  # fmt: skip
OURS = {**OPTIONS, "model": GPTConfig(**SHAPE)}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """So little text that its loss falls while that of other text rises."""
    path = tmp_path_factory.mktemp("store") / "few"
    tokens = np.random.default_rng(1).integers(97, 123, 16 * 10).astype(np.uint16)
    commit_store(
        path, [write_shard(path, "s0", tokens, [len(tokens)], block_tokens=64)], tokenizer=ByteTokenizer()
    )
    return path


@pytest.fixture(scope="module")
def whole(few, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    train(few, out=out, eval_stores=store, **OURS)
    return out


def evaluations(out, read_metrics):
    return {line["step"]: line["eval_loss"] for line in read_metrics(out) if "eval_loss" in line}


def test_the_lowest_held_out_loss_keeps_its_checkpoint_beside_the_newest(whole, read_metrics):
    losses = evaluations(whole, read_metrics)
    best = min(losses, key=losses.get)
    assert best < 30
    assert [step for step, _ in list_checkpoints(whole / "checkpoints")] == [best, 30]
    assert json.loads((whole / "run.json").read_text())["best"]["step"] == best
    directory, state = find_checkpoint(whole, "best")
    assert (directory.name, state["step"]) == (f"step-{best:08d}", best)
    assert load_model(f"{whole}@best")[0].config == GPTConfig(**SHAPE)


def test_kills_leave_the_same_best_checkpoint_and_losses(few, store, whole, tmp_path, start_run, losses):
    options = {**OPTIONS, "model": SHAPE, "stores": few, "eval_stores": store, "out": tmp_path / "run"}
    for step in (3, 8, 19):
        run = start_run(**options)
        run.wait_for_step(step)
        run.send(signal.SIGKILL)
        run.wait()
    assert start_run(**options).wait() == 0
    assert losses(tmp_path / "run") == losses(whole)
    names = [
        [path.name for path in sorted((out / "checkpoints").iterdir())] for out in (tmp_path / "run", whole)
    ]
    assert names[0] == names[1]


def test_patience_ends_a_run_with_a_checkpoint_and_more_patience_goes_on(
    few, store, whole, tmp_path, read_metrics, losses
):
    best = json.loads((whole / "run.json").read_text())["best"]["step"]
    first = train(few, out=tmp_path, eval_stores=store, patience=3, **OURS)
    assert (first.stopped_early, first.steps, first.best_step) == (True, best + 6, best)
    again = train(few, out=tmp_path, eval_stores=store, patience=3, **OURS)
    assert (again.stopped_early, again.resumed_from, again.steps) == (True, best + 6, best + 6)
    assert "no lower held-out loss in 3 evaluations" in (tmp_path / "train.log").read_text()
    rest = train(few, out=tmp_path, eval_stores=store, **OURS)
    assert (rest.stopped_early, rest.steps) == (False, 30)
    assert losses(tmp_path) == losses(whole)


def test_other_held_out_rows_begin_a_new_comparison():
    state = TrainState(step=4)
    assert state.add_evaluation(3.0, "a")
    state.step = 8
    assert not state.add_evaluation(3.5, "a")
    assert state.evaluations_since_best == 1
    assert state.add_evaluation(9.0, "b")
    assert (state.best["step"], state.evaluations_since_best) == (8, 0)
    assert not state.add_evaluation(float("nan"), "b")


def test_the_mirror_keeps_the_best_too(few, store, tmp_path):
    train(few, out=tmp_path / "run", eval_stores=store, mirror=str(tmp_path / "copy"), **OURS)
    names = [
        {path.parent.name for path in (tmp_path / out).rglob("manifest.json")} for out in ("run", "copy")
    ]
    assert names[0] == names[1]


def test_a_best_checkpoint_that_is_gone_is_named(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    best, _ = find_checkpoint(tmp_path / "run", "best")
    shutil.rmtree(best)
    with pytest.raises(CheckpointError, match=rf"no checkpoint of step {int(best.name[5:])}; there are 30"):
        load_model(f"{tmp_path / 'run'}@best")


def test_patience_without_held_out_rows_is_refused(few, tmp_path):
    with pytest.raises(ConfigError, match="patience counts evaluations"):
        train(few, out=tmp_path / "run", patience=2, **OURS)
