"""Predictions of a model in memory are those of `generate` for its directory, in the order of the prompts."""

from __future__ import annotations

from pathlib import Path

import torch

import headrace as hr
from headrace.generation import Prompt, predict, read_prompts
from headrace.model import GPT, GPTConfig, load_model, to_hf
from headrace.tokens.byte import ByteTokenizer

SHAPE = GPTConfig(
    num_hidden_layers=2, hidden_size=32, num_attention_heads=2, vocab_size=257, max_position_embeddings=32
)


def test_predictions_are_those_of_generate_and_an_impossible_prompt_is_an_error_row(tmp_path: Path) -> None:
    to_hf(GPT(SHAPE, seed=3), ByteTokenizer(), tmp_path / "model")
    model, _ = load_model(tmp_path / "model")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prompts = [
        {"id": "z", "prompt": "longer than the others"},
        {"id": "a", "prompt": "short", "max_new_tokens": 3},
        {"id": "m", "prompt": "x" * 99},
    ]
    rows = predict(model, tmp_path / "model", list(read_prompts(prompts)))
    hr.generate(tmp_path / "model", prompts, tmp_path / "out")
    stored = {row["prompt_id"]: row for row in hr.read_predictions(tmp_path / "out").to_pylist()}
    assert [row.prompt_id for row in rows] == ["z", "a", "m"]
    assert [list(row.token_ids) for row in rows] == [stored[name]["token_ids"] for name in "zam"]
    assert [row.finish_reason for row in rows] == [stored[name]["finish_reason"] for name in "zam"]
    assert rows[2].finish_reason == "error"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_prompts_are_no_predictions(tmp_path: Path) -> None:
    to_hf(GPT(SHAPE, seed=3), ByteTokenizer(), tmp_path)
    none: list[Prompt] = []
    assert predict(load_model(tmp_path)[0], tmp_path, none) == []
