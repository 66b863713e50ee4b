"""`layout="auto"`: the chosen layout trains the same model, is recorded with its prediction, and stays."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flat_options import train

from headrace.errors import ConfigError
from headrace.model import GPTConfig
from headrace.profile import read_run_files
from headrace.profile.figures import run_facts
from headrace.training import ParallelOptions, layout_choice, prepare
from headrace.training.distributed.process_group import ProcessGroup

SHAPE = GPTConfig(
    num_hidden_layers=4, hidden_size=32, num_attention_heads=4, vocab_size=257, max_position_embeddings=32
)
OPTIONS: dict[str, Any] = {
    "seq_len": 32,
    "batch_size": 8,
    "steps": 6,
    "lr": 3e-3,
    "seed": 5,
    "device": "cpu",
    "dtype": "float32",
}


def run_json(out: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((out / "run.json").read_text())
    return run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials take no time: each layout's is its number of micro-batches; returns the layouts that were tried."""
    tried: list[str] = []

    def seconds(recipe: Any, parallel: Any, **_: Any) -> float:
        tried.append(f"{recipe.gradient_accumulation_steps} {parallel.activation_checkpointing}")
        return float(recipe.gradient_accumulation_steps)

    monkeypatch.setattr(layout_choice, "_step_seconds", seconds)
    monkeypatch.setattr(
        layout_choice,
        "probe_group",
        lambda *_, **__: {"float32_flops": 5e10, "bf16_flops": 5e10, "memory_bytes_s": 1e10},
    )
    return tried


def test_the_fastest_trial_is_kept_and_recorded_with_its_prediction(
    store: Path, tmp_path: Path, quick: list[str]
) -> None:
    train(store, out=tmp_path / "run", model=SHAPE, layout="auto", **OPTIONS)
    plan = run_json(tmp_path / "run")["plan"]
    assert 2 <= len(plan["measured"]) <= layout_choice.MAX_TRIALS
    assert plan["gradient_accumulation_steps"] == min(t["measured_step_s"] for t in plan["measured"])
    assert plan["step_s_low"] < plan["step_s"] < plan["step_s_high"]
    assert plan["hardware"]["float32_flops"] == 5e10
    assert "layout auto:" in (tmp_path / "run" / "train.log").read_text()
    facts = dict(run_facts(read_run_files(tmp_path / "run")))
    assert facts["plan"].startswith("predicted ")
    assert "; measured " in facts["plan"]


def test_a_resumed_run_keeps_its_layout_and_measures_nothing(
    store: Path, tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch, losses: Any
) -> None:
    options = {**OPTIONS, "checkpoint_every": 2}
    train(store, out=tmp_path / "run", model=SHAPE, layout="auto", **options)
    before, first = run_json(tmp_path / "run"), losses(tmp_path / "run")
    monkeypatch.setattr(prepare, "choose_layout", None)
    train(store, out=tmp_path / "run", model=SHAPE, layout="auto", **options)
    assert run_json(tmp_path / "run")["plan"] == before["plan"]
    assert losses(tmp_path / "run") == first


def test_a_start_with_another_layout_has_no_prediction(store: Path, tmp_path: Path, quick: list[str]) -> None:
    given = {"gradient_accumulation_steps": 1}
    train(store, out=tmp_path / "run", model=SHAPE, **OPTIONS, **given)
    assert run_json(tmp_path / "run")["plan"] is None


def test_trials_leave_the_loss_curve_as_it_is(store: Path, tmp_path: Path, losses: Any) -> None:
    """The real trials, with two rows of a step at a time as the run has them."""
    options = {**OPTIONS, "gradient_accumulation_steps": 4}
    train(store, out=tmp_path / "given", model=SHAPE, **options)
    train(store, out=tmp_path / "auto", model=SHAPE, layout="auto", **options)
    assert losses(tmp_path / "auto") == losses(tmp_path / "given")


def test_two_processes_choose_one_layout_together(store: Path, tmp_path: Path, start_run: Any) -> None:
    # dp is given, and stays: without FSDP the trials take a third of the time.
    options = {**OPTIONS, "model": dataclasses.asdict(SHAPE), "layout": "auto", "dp": 1}
    run = start_run(world=2, out=tmp_path / "run", stores=store, **options)
    ended = run.wait_all()
    assert [code for code, _ in ended] == [0, 0], ended
    plan, layout = run_json(tmp_path / "run")["plan"], run_json(tmp_path / "run")["layout"]
    assert (layout["dp"], layout["tp"] * layout["pp"]) == (1, 2)
    # Which layouts are worth a trial depends on what the probes measured; the fastest one is kept.
    kinds = {"tp 2, pp 1", "tp 1, pp 2"}
    assert all(
        trial["layout"].removeprefix("dp 1, ").partition(", shard")[0] in kinds for trial in plan["measured"]
    )
    if plan["measured"]:
        fastest = min(plan["measured"], key=lambda trial: trial["measured_step_s"])
        assert fastest["layout"].startswith(f"dp 1, tp {layout['tp']}, pp {layout['pp']}")
    assert plan["hardware"]["link_bytes_s"] > 0


@pytest.mark.parametrize(
    ("parallel", "message"),
    [({"tp": 3}, "tp=3 cannot be; expected tp 1"), ({"dp": 5}, "dp=5 cannot be; expected dp 1")],
)
def test_degrees_that_no_layout_has_are_refused(
    store: Path, tmp_path: Path, quick: list[str], parallel: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(store, out=tmp_path / "run", model=SHAPE, layout="auto", **OPTIONS, **parallel)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_model_that_fits_on_no_process_is_refused_with_what_it_lacks(
    store: Path, tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    described = layout_choice.describe_hardware

    def small(*args: Any, **kwargs: Any) -> Any:
        return dataclasses.replace(described(*args, **kwargs), memory_bytes=2.0**20)

    monkeypatch.setattr(layout_choice, "describe_hardware", small)
    with pytest.raises(ConfigError, match="no layout fits into"):
        train(store, out=tmp_path / "run", model=SHAPE, layout="auto", **OPTIONS)


def test_degrees_that_are_given_stay() -> None:
    assert layout_choice._fixed(ParallelOptions(layout="auto", tp=2, shard="zero2")) == {
        "tp": 2, "shard": "zero2",
    }  # fmt: skip
    assert layout_choice._fixed(ParallelOptions(layout="auto")) == {}


def test_hardware_is_that_of_the_processes(quick: list[str]) -> None:
    hardware = layout_choice._hardware(ProcessGroup(), torch.device("cpu"))
    assert hardware.gpus_per_node == 1
    assert hardware.arch == "cpu"
