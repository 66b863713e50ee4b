"""A run: learns, repeats exactly, continues after any stop, and refuses to become another.

Covers loop.py, loop_files.py, train_step.py, stop.py and summary.py.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from flat_options import train

from headrace.errors import CheckpointError, ConfigError, ManifestError, ResumeError
from headrace.load import BatchOptions
from headrace.model import GPTConfig, load_model
from headrace.model.weights.checkpoint import list_checkpoints
from headrace.store import Store

TINY = GPTConfig(
    num_hidden_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=257, max_position_embeddings=32
)
OPTIONS: dict[str, Any] = {
    "model": TINY, "seq_len": 32, "batch_size": 8, "steps": 12, "lr": 3e-3, "seed": 5, "device": "cpu",
    "dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "whole"
    train(store, out=out, checkpoint_every=4, **OPTIONS)
    return out


def test_the_loss_falls(store: Path, tmp_path: Path, read_metrics: Any) -> None:
    summary = train(store, out=tmp_path, **{**OPTIONS, "steps": 80, "lr": 1e-2})
    lines = read_metrics(tmp_path)
    assert lines[0]["loss"] == pytest.approx(math.log(257), abs=0.1)
    assert summary.loss == lines[-1]["loss"] < 2.4
    assert summary.tokens == 80 * 8 * 32 == lines[-1]["tokens"]


def test_every_line_has_the_fields_that_readers_rely_on(undisturbed: Path, read_metrics: Any) -> None:
    lines = read_metrics(undisturbed)
    assert [line["step"] for line in lines] == list(range(1, 13))
    for line in lines:
        assert line.keys() >= {
            "step", "loss", "lr", "tokens", "step_s", "tokens_per_s", "data_wait_s", "compute_s",
            "checkpoint_s", "grad_norm", "elapsed_s", "position",
        }  # fmt: skip
        assert line["position"] == 8 * line["step"]
        assert line["step_s"] >= line["data_wait_s"] + line["compute_s"] + line["checkpoint_s"] - 1e-6
    assert [line["step"] for line in lines if line["checkpoint_s"] > 0] == [4, 8, 12]


def test_the_same_command_gives_the_same_losses(
    store: Path, undisturbed: Path, tmp_path: Path, losses: Any
) -> None:
    train(store, out=tmp_path, **OPTIONS)
    assert losses(tmp_path) == losses(undisturbed)


@pytest.mark.parametrize("kept", [4, 8])
def test_a_run_continues_from_its_last_checkpoint_to_the_last_digit(
    kept: int, store: Path, undisturbed: Path, tmp_path: Path, losses: Any
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    for step, path in list_checkpoints(out / "checkpoints"):
        if step > kept:
            shutil.rmtree(path)
    summary = train(store, out=out, checkpoint_every=4, **OPTIONS)
    assert summary.resumed_from == kept
    assert losses(out) == losses(undisturbed)


def test_a_finished_run_is_left_as_it_is(store: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    before = (out / "metrics.jsonl").read_bytes()
    summary = train(store, out=out, **OPTIONS)
    assert (summary.steps, summary.resumed_from, summary.stopped_by) == (12, 12, None)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_is_passed_over_and_made_again(
    store: Path, undisturbed: Path, tmp_path: Path, losses: Any
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    shutil.rmtree(out / "checkpoints" / "step-00000012")
    victim = out / "checkpoints" / "step-00000008" / "__0_0.distcp"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="step-00000008.*passed over"):
        summary = train(store, out=out, checkpoint_every=4, **OPTIONS)
    assert summary.resumed_from == 4
    assert losses(out) == losses(undisturbed)
    assert [step for step, _ in list_checkpoints(out / "checkpoints")] == [4, 8, 12]


def test_a_run_killed_at_random_moments_gives_the_same_losses(
    store: Path, undisturbed: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    asked = {**OPTIONS, "model": dataclasses.asdict(TINY), "stores": store, "out": tmp_path / "run"}
    rng = np.random.default_rng(7)
    for step in sorted(rng.integers(1, 11, 4)):
        process = start_run(checkpoint_every=2, **asked)
        process.wait_for_step(int(step))
        process.send(signal.SIGKILL)
        assert process.wait() in {0, -signal.SIGKILL}
    assert start_run(checkpoint_every=2, **asked).wait() == 0
    assert losses(tmp_path / "run") == losses(undisturbed)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_cleanly_and_the_run_goes_on(
    *, number: signal.Signals, store: Path, undisturbed: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    out = tmp_path / "run"
    process = start_run(**{**OPTIONS, "model": dataclasses.asdict(TINY), "stores": store, "out": out})
    process.wait_for_step(3)
    process.send(number)
    assert process.wait() == 0
    _, stopped_at, by = process.lines[-1].split()
    assert by == number.name
    assert [step for step, _ in list_checkpoints(out / "checkpoints")] == [int(stopped_at)]
    summary = train(store, out=out, **OPTIONS)
    assert summary.resumed_from == int(stopped_at)
    assert losses(out) == losses(undisturbed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 6}, "seed: run has 5, requested 6"),
        ({"seq_len": 16}, "seq_len: run has 32, requested 16"),
        ({"steps": 11}, "has done 12 steps, requested are 11"),
        ({"dtype": "bfloat16"}, "dtype: run has 'float32', requested 'bfloat16'"),
        (
            {"model": dataclasses.replace(TINY, num_attention_heads=2)},
            "model.num_attention_heads: run has 4, requested 2",
        ),
        ({"shuffle": "none"}, "data.loader_options.shuffle"),
    ],
)
def test_another_recipe_is_refused_by_what_differs(
    change: dict[str, Any], says: str, store: Path, undisturbed: Path
) -> None:
    before = (undisturbed / "metrics.jsonl").read_bytes()
    with pytest.raises(ResumeError, match=says):
        train(store, out=undisturbed, **{**OPTIONS, **change})
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_another_store_is_refused_and_a_moved_one_is_not(
    store: Path, other_store: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.raises(ResumeError, match=r"data\.source"):
        train(other_store, out=undisturbed, **OPTIONS)
    shutil.copytree(store, tmp_path / "moved")
    assert train(tmp_path / "moved", out=undisturbed, **OPTIONS).steps == 12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": None}, "neither steps nor max_seconds"),
        (
            {"batch_size": 9, "gradient_accumulation_steps": 2},
            "batch_size 9 is not divisible by gradient_accumulation_steps 2",
        ),
        ({"seq_len": 64}, "seq_len 64 is longer than the model's max_position_embeddings 32"),
        ({"model": dataclasses.replace(TINY, vocab_size=100)}, "vocabulary has 257 ids, the model 100"),
        ({"model": "gpt9"}, "no size named 'gpt9'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": -1.0}, "lr is -1.0; expected at least 0"),
        ({"lr": math.nan}, "lr is nan; expected at least 0"),
        ({"min_lr_ratio": 2.0}, "min_lr_ratio is 2.0; expected from 0 to 1"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"rampup_steps": -1}, "rampup_steps is -1"),
        ({"betas": (0.9, 1.5)}, r"betas\[1\] is 1.5; expected from 0 to 1"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] is 1.0; expected less than 1"),
        ({"betas": (0.9,)}, "betas is .* expected two numbers"),
        ({"lr": math.inf}, "lr is inf"),
        ({"seq_len": 32.0}, "seq_len is 32.0; expected a whole number"),
        ({"seed": True}, "seed is True; expected a whole number"),
        ({"lr": "1e-3"}, "lr is '1e-3'; expected a number"),
        ({"shuffle": "off"}, "shuffle is 'off'; expected one of auto, global, blocks, none"),
        ({"output": BatchOptions(padding_free=True)}, "data.output has padding_free"),
        ({"packing": "best"}, "packing is 'best'; expected one of none, best_fit"),
        ({"seed": 2**64}, "seed is 18446744073709551616; expected from"),
        ({"max_seconds": 0.0}, "max_seconds is 0.0; expected more than 0"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds is -1.0"),
        ({"eval_rows": 0}, "eval_rows is 0"),
        ({"device": "tpu"}, "no device named 'tpu'"),
        (
            {"model": dataclasses.replace(TINY, max_position_embeddings=10**6), "seq_len": 10**6},
            "no row of seq_len=1000000 can be filled",
        ),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(
    change: dict[str, Any], says: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        train(store, out=tmp_path / "run", **{**OPTIONS, **change})
    assert not (tmp_path / "run").exists()


def test_a_path_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        train(tmp_path / "nothing", out=tmp_path / "run", **OPTIONS)


def test_accumulation_changes_rounding_only(
    store: Path, undisturbed: Path, tmp_path: Path, losses: Any
) -> None:
    train(store, out=tmp_path, gradient_accumulation_steps=4, **OPTIONS)
    got, want = losses(tmp_path), losses(undisturbed)
    np.testing.assert_allclose([line[1] for line in got], [line[1] for line in want], rtol=1e-4)


def test_a_batch_ramp_takes_more_rows_with_time_and_none_twice(
    store: Path, tmp_path: Path, read_metrics: Any
) -> None:
    options = {**OPTIONS, "batch_size": 16, "gradient_accumulation_steps": 8, "steps": 8}
    train(store, out=tmp_path, rampup_batch_size=4, rampup_steps=6, **options)
    taken = np.diff([0, *(line["position"] for line in read_metrics(tmp_path))]).tolist()
    assert taken == [4, 6, 8, 10, 12, 14, 16, 16]


def test_a_held_out_store_is_evaluated_on_time_and_its_loss_falls(
    store: Path, other_store: Path, tmp_path: Path, read_metrics: Any
) -> None:
    options = {**OPTIONS, "steps": 40, "lr": 1e-2}
    summary = train(store, out=tmp_path, eval_stores=other_store, eval_rows=6, eval_every=20, **options)
    found = {line["step"]: line["eval_loss"] for line in read_metrics(tmp_path) if "eval_loss" in line}
    assert list(found) == [20, 40]
    assert found[40] == summary.eval_loss < found[20]
    assert summary.eval_step == 40
    # A later start without held-out rows does not present that loss as one of its last step.
    later = train(store, out=tmp_path, **{**options, "steps": 42})
    assert (later.steps, later.eval_loss, later.eval_step) == (42, found[40], 40)


def test_steps_that_fit_a_time_are_decided_once(store: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "steps": None, "max_seconds": 0.3}
    first = train(store, out=tmp_path, **options)
    recorded = orjson.loads((tmp_path / "run.json").read_bytes())["recipe"]["steps"]
    second = train(store, out=tmp_path, **options)
    assert first.total_steps == recorded == second.total_steps
    with pytest.raises(ResumeError, match=r"max_seconds: run has 0\.3, requested 0\.4"):
        train(store, out=tmp_path, **{**options, "max_seconds": 0.4})


def test_bfloat16_products_train_as_well(store: Path, tmp_path: Path) -> None:
    summary = train(store, out=tmp_path, **{**OPTIONS, "dtype": "bfloat16", "steps": 25, "lr": 1e-2})
    assert summary.loss is not None
    assert summary.loss < 3.5


def test_several_stores_are_mixed_and_an_appended_store_keeps_a_runs_rows(
    store: Path, other_store: Path, tmp_path: Path, losses: Any
) -> None:
    out = tmp_path / "run"
    train({str(store): 0.25, str(other_store): 0.75}, out=out, checkpoint_every=5, **OPTIONS)
    want = losses(out)
    shutil.rmtree(out / "checkpoints" / "step-00000012")
    train({str(store): 0.25, str(other_store): 0.75}, out=out, **OPTIONS)
    assert losses(out) == want
    with pytest.raises(ResumeError, match=r"data\.shares"):
        train({str(store): 0.5, str(other_store): 0.5}, out=out, **OPTIONS)


def test_a_run_gives_its_model_and_tokenizer_back(store: Path, undisturbed: Path) -> None:
    model, tokenizer = load_model(undisturbed)
    with Store.open(store) as opened:
        row = torch.from_numpy(opened.read(0, 33).astype(np.int64))[None]
        assert tokenizer.fingerprint == opened.tokenizer_fingerprint
    with torch.no_grad():
        loss = float(model(row[:, :-1], labels_BT=row[:, 1:])) / 32
    assert model.config == TINY
    assert loss < math.log(257) - 0.5


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_its_checkpoints(
    store: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="training has diverged"):
        train(store, out=tmp_path, checkpoint_every=1, **{**OPTIONS, "lr": 1e30, "max_grad_norm": 0.0})
    assert load_model(tmp_path)[0].config == TINY


def test_a_run_without_a_checkpoint_says_so(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(CheckpointError, match="no whole checkpoint in it yet"):
        load_model(out)


def test_a_second_snapshot_does_not_change_a_run(tmp_path: Path, losses: Any, new_store: Any) -> None:
    from headrace.store import commit_store, write_shard
    from headrace.tokens.byte import ByteTokenizer

    store = new_store(tmp_path / "store")
    out = tmp_path / "run"
    train(store, out=out, checkpoint_every=5, **OPTIONS)
    want = losses(out)
    shutil.rmtree(out / "checkpoints" / "step-00000012")
    entry = write_shard(store, "s1", np.full(500, 65, np.uint16), [500], block_tokens=1024)
    commit_store(store, [entry], tokenizer=ByteTokenizer(), append=True)
    train(store, out=out, **OPTIONS)
    assert losses(out) == want
