"""Samples of a run: what `generate` gives for the checkpoint, each step and prompt once, on every layout.

Covers evaluation_options.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from flat_options import train

import headrace as hr
from headrace.errors import ConfigError
from headrace.model import DecoderConfig, GPTConfig
from headrace.training.evaluation_options import EvaluationOptions
from headrace.training.samples import open_prompts

GPT = GPTConfig(
    num_hidden_layers=2, hidden_size=32, num_attention_heads=2, vocab_size=257, max_position_embeddings=64
)
LLAMA = DecoderConfig(
    model_type="llama",
    num_hidden_layers=2,
    hidden_size=32,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=64,
    vocab_size=257,
    max_position_embeddings=64,
)
PROMPTS = [{"id": "b", "prompt": "the water"}, {"id": "a", "prompt": "and the wheel"}]
OPTIONS: dict[str, Any] = {
    "seq_len": 32, "batch_size": 4, "steps": 6, "lr": 1e-2, "device": "cpu", "sample_prompts": PROMPTS,
    "sample_every": 2, "sample_max_new_tokens": 8,
}  # fmt: skip


def samples_of(out: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (out / "samples.jsonl").read_bytes().splitlines()]


def tokens_of(out: Path) -> dict[str, list[int]]:
    rows = hr.read_predictions(out).to_pylist()
    return {row["prompt_id"]: row["token_ids"] for row in rows}


@pytest.mark.parametrize("shape", [GPT, LLAMA], ids=["gpt", "llama"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_samples_are_what_generate_gives_for_the_checkpoint(
    store: Path, tmp_path: Path, shape: Any, temperature: float
) -> None:
    out = tmp_path / "run"
    options = {**OPTIONS, "sample_temperature": temperature, "checkpoint_every": 2, "keep_checkpoints": 9}
    train(store, out=out, model=shape, **options)
    found = samples_of(out)
    assert [(line["step"], line["prompt_id"]) for line in found] == [
        (step, name) for step in (2, 4, 6) for name in "ba"
    ]
    for step in (2, 6):
        hr.generate(f"{out}@{step}", PROMPTS, tmp_path / f"{step}", max_new_tokens=8, temperature=temperature)
        wanted = tokens_of(tmp_path / f"{step}")
        assert {line["prompt_id"]: line["token_ids"] for line in found if line["step"] == step} == wanted


@pytest.mark.parametrize("shape", [GPT, LLAMA], ids=["gpt", "llama"])
def test_sampling_changes_no_loss(store: Path, tmp_path: Path, shape: Any, losses: Any) -> None:
    train(store, out=tmp_path / "sampled", model=shape, **{**OPTIONS, "sample_every": 1})
    train(
        store,
        out=tmp_path / "plain",
        model=shape,
        **{**OPTIONS, "sample_prompts": None, "sample_every": None},
    )
    assert losses(tmp_path / "sampled") == losses(tmp_path / "plain")


@pytest.mark.parametrize("torn", [b"", b'{"step": 4, "prompt_id": "b"}\n', b'{"step": 4, "pro'])
def test_each_step_and_prompt_is_there_once_after_a_kill(store: Path, tmp_path: Path, torn: bytes) -> None:
    """A run killed after step 3, before or while the samples of step 4 were written."""
    train(store, out=tmp_path, model=GPT, checkpoint_every=1, keep_checkpoints=9, **OPTIONS)
    whole = (tmp_path / "samples.jsonl").read_bytes()
    for step in (4, 5, 6):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{step:08d}")
    (tmp_path / "samples.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:2]) + torn)
    train(store, out=tmp_path, model=GPT, **OPTIONS)
    assert (tmp_path / "samples.jsonl").read_bytes() == whole


def test_lines_of_steps_that_are_taken_again_go_even_without_prompts(store: Path, tmp_path: Path) -> None:
    train(store, out=tmp_path, model=GPT, checkpoint_every=2, keep_checkpoints=9, **OPTIONS)
    for step in (4, 6):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{step:08d}")
    train(store, out=tmp_path, model=GPT, **{**OPTIONS, "sample_prompts": None, "sample_every": None})
    assert [line["step"] for line in samples_of(tmp_path)] == [2, 2]


def test_samples_of_low_rank_matrices_are_those_of_the_merged_model(store: Path, tmp_path: Path) -> None:
    from headrace.training import LoraOptions

    plain = {**OPTIONS, "sample_prompts": None, "sample_every": None, "steps": 1}
    train(store, out=tmp_path / "base", model=LLAMA, **plain)
    options = {**OPTIONS, "lora": LoraOptions(r=4, target_modules=("all-linear",)), "lr": 0.05}
    train(store, out=tmp_path / "tuned", init_from=tmp_path / "base", **options)
    hr.generate(tmp_path / "tuned", PROMPTS, tmp_path / "predictions", max_new_tokens=8)
    wanted = tokens_of(tmp_path / "predictions")
    last = [line for line in samples_of(tmp_path / "tuned") if line["step"] == 6]
    assert {line["prompt_id"]: line["token_ids"] for line in last} == wanted


def test_log_and_report_show_samples(store: Path, tmp_path: Path) -> None:
    train(store, out=tmp_path, model=GPT, **OPTIONS)
    log = (tmp_path / "train.log").read_text()
    assert "step 2: sample b: 'the water' ->" in log
    page = hr.report(tmp_path).read_text()
    assert "and the wheel" in page
    assert "step 6 · a" in page


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "no prompt"),
        ([{"id": "1", "prompt": "a"}, {"id": "1", "prompt": "b"}], "1"),
        ([{"id": "1"}], "prompt 1"),
        ("nothing.txt", "nothing.txt"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused_before_the_first_step(source: Any, message: str) -> None:
    with pytest.raises(hr.HeadraceError, match=message):
        open_prompts(source, GPT)


def test_options_without_what_they_are_about_are_refused() -> None:
    for options in (EvaluationOptions(sample_every=2), EvaluationOptions(patience=2)):
        with pytest.raises(ConfigError, match="Give"):
            options.check_whole()
