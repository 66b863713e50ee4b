"""A branch goes on from a checkpoint of another run; a run changes for its later steps. Covers start.py's segments."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
from flat_options import train

from headrace.errors import CheckpointError, ConfigError, ResumeError
from headrace.model import GPTConfig, load_model
from headrace.model.weights.checkpoint import list_checkpoints

SHAPE = GPTConfig(
    num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=257, max_position_embeddings=16
)
OPTIONS = {
    "model": SHAPE, "seq_len": 16, "batch_size": 8, "lr": 3e-3, "dtype": "float32", "device": "cpu", "seed": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def source(store, tmp_path_factory):
    """Twelve steps at a constant rate, with all checkpoints."""
    out = tmp_path_factory.mktemp("run") / "source"
    train(store, out=out, steps=12, checkpoint_every=4, lr_schedule="constant", **OPTIONS)
    return out


def run_json(out):
    return json.loads((out / "run.json").read_text())


def test_a_run_takes_more_steps_another_rate_and_batch_and_reads_each_row_once(
    source, store, tmp_path, read_metrics
):
    out = tmp_path / "run"
    shutil.copytree(source, out)
    summary = train(store, out=out, steps=20, lr=1e-3, batch_size=4, max_grad_norm=0.5)
    assert (summary.steps, summary.resumed_from) == (20, 12)
    lines = read_metrics(out)
    assert [line["position"] for line in lines] == [*range(8, 97, 8), *range(100, 129, 4)]
    assert {line["lr"] for line in lines[12:]} == {1e-3}
    first, second = run_json(out)["segments"]
    assert (first["first_step"], second["first_step"]) == (1, 13)
    assert second["changed"] == {
        "steps": [12, 20], "batch_size": [8, 4], "lr": [0.003, 0.001], "decay_steps": [12, 20],
        "max_grad_norm": [1.0, 0.5],
    }  # fmt: skip
    assert "from step 13 on: steps 12 -> 20" in (out / "train.log").read_text()
    # The rows of the later steps are those that one run with batches of 4 reads at the same position.
    assert train(store, out=out).resumed_from == 20


def test_a_changed_run_has_the_same_losses_after_losing_checkpoints_on_both_sides_of_the_change(
    source, store, tmp_path, losses
):
    out = tmp_path / "run"
    shutil.copytree(source, out)
    train(store, out=out, steps=20, batch_size=4, checkpoint_every=4, keep_checkpoints=9)
    expected = losses(out)
    for newest_kept in (16, 8):
        for step, path in list_checkpoints(out / "checkpoints"):
            if step > newest_kept:
                shutil.rmtree(path)
        assert train(store, out=out, checkpoint_every=4, keep_checkpoints=9).resumed_from == newest_kept
        assert losses(out) == expected
    assert [segment["first_step"] for segment in run_json(out)["segments"]] == [1, 13]


def test_kills_while_a_change_is_written_and_after_it_leave_the_same_losses(
    source, store, tmp_path, losses, start_run
):
    shutil.copytree(source, tmp_path / "whole")
    changed = {
        "steps": 24,
        "batch_size": 4,
        "lr": 1e-3,
        "stores": store,
        "checkpoint_every": 3,
        "model": None,
    }
    train(out=tmp_path / "whole", **changed)
    shutil.copytree(source, tmp_path / "run")
    for step in (13, 17, 20):
        run = start_run(out=tmp_path / "run", **changed)
        run.wait_for_step(step)
        run.send(signal.SIGKILL)
        run.wait()
    train(out=tmp_path / "run", **changed)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert len(run_json(tmp_path / "run")["segments"]) == 2


def test_fewer_steps_than_done_are_refused_with_the_branch_to_begin(source, store):
    with pytest.raises(ResumeError, match=r"has done 12 steps, requested are 8.*source@8 --init-state full"):
        train(store, out=source, steps=8)


def test_a_decay_branch_starts_from_any_checkpoint_with_moments_and_position(
    source, store, tmp_path, read_metrics, losses
):
    out = tmp_path / "branch"
    options = {"lr_schedule": "wsd", "cooldown_steps": 4, "min_lr_ratio": 0.0, "steps": 12}
    summary = train(store, out=out, init_from=f"{source}@8", init_state="full", **options)
    assert (summary.steps, summary.resumed_from) == (12, 8)
    assert losses(out)[:9] == losses(source)[:9]  # the ninth step's loss is of the same weights and rows
    assert losses(out)[9:] != losses(source)[9:]
    rates = [line["lr"] for line in read_metrics(out)]
    np.testing.assert_allclose(rates, [*[3e-3] * 8, 2.25e-3, 1.5e-3, 0.75e-3, 0.0])
    run = run_json(out)
    assert run["branched_from"]["step"] == 8
    assert [segment["first_step"] for segment in run["segments"]] == [1, 9]
    # The same command goes on, the source is no longer needed.
    again = train(store, out=out, init_from=f"{source}@8", init_state="full", **options)
    assert again.resumed_from == 12
    with pytest.raises(ResumeError, match=r"a branch of .*source@8.*requested is one of .*source@4"):
        train(store, out=out, init_from=f"{source}@4", init_state="full", **options)
    with pytest.raises(ResumeError, match="with init_state weights"):
        train(store, out=out, init_from=f"{source}@8", **options)


def test_a_branch_without_changes_is_the_run_itself(source, store, tmp_path, losses):
    train(store, out=tmp_path / "branch", init_from=f"{source}@8", init_state="full")
    assert losses(tmp_path / "branch") == losses(source)
    assert len(run_json(tmp_path / "branch")["segments"]) == 1


def test_weights_alone_begin_anew_at_step_0(source, store, tmp_path, read_metrics):
    out = tmp_path / "anew"
    options = {name: OPTIONS[name] for name in ("batch_size", "lr", "dtype", "device")}
    train(store, out=out, init_from=f"{source}@8", steps=2, **options)
    first = read_metrics(out)[0]
    assert (first["step"], first["position"]) == (1, 8)
    log = (out / "train.log").read_text()
    assert f"begins with the weights of {source}@8; moments, position and step begin anew" in log


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"init_state": "full"}, ConfigError, "Give its directory as init_from"),
        ({"init_state": "full", "init_from": "{tmp}"}, ConfigError, "is no run"),
        ({"init_state": "full", "init_from": "{source}@7"}, CheckpointError, "no checkpoint of step 7; there are 4, 8"),
        ({"init_state": "full", "init_from": "{source}@best"}, CheckpointError, "has no best checkpoint"),
        ({"init_state": "full", "init_from": "{source}@8", "seed": 6}, ResumeError, "seed: run has 5, requested 6"),
        ({"init_state": "full", "init_from": "{source}@8", "steps": 4}, ResumeError, "has done 8 steps"),
    ],
)  # fmt: skip
def test_branches_that_cannot_be_are_refused_before_anything_is_written(
    options, error, says, source, store, tmp_path
):
    named = {
        name: value.format(tmp=tmp_path, source=source) if isinstance(value, str) else value
        for name, value in options.items()
    }
    with pytest.raises(error, match=says):
        train(store, out=tmp_path / "run", **named)
    assert not (tmp_path / "run").exists()


def test_a_branch_killed_while_it_is_copied_is_copied_again(source, store, tmp_path, losses):
    half = tmp_path / "branch" / "checkpoints" / "step-00000008"
    half.mkdir(parents=True)
    (half / "state.json").write_text("{}")  # run.json, which is written last, is not there
    train(store, out=tmp_path / "branch", init_from=f"{source}@8", init_state="full")
    assert losses(tmp_path / "branch") == losses(source)


def test_a_step_of_a_run_is_loaded_by_its_name(source):
    early, _ = load_model(f"{source}@4")
    late, _ = load_model(source)
    assert early.config == late.config
    assert not np.array_equal(early.tok.weight.detach().numpy(), late.tok.weight.detach().numpy())


def test_tokens_end_a_run_like_steps_do(store, tmp_path):
    summary = train(store, out=tmp_path / "run", tokens=8 * 16 * 3 + 1, **OPTIONS)
    assert (summary.steps, summary.tokens) == (4, 8 * 16 * 4)
    longer = train(
        store, out=tmp_path / "run", tokens=8 * 16 * 4 + 4 * 16 * 2, **{**OPTIONS, "batch_size": 4}
    )
    assert longer.steps == 6
    assert train(store, out=tmp_path / "run", tokens=8 * 16 * 4 + 4 * 16 * 2, batch_size=4).resumed_from == 6
    with pytest.raises(ConfigError, match="steps and tokens are both given"):
        train(store, out=tmp_path / "run", tokens=5, steps=3)
