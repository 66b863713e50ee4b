"""The whole model in rank 0 is the one that a checkpoint of any layout holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import orjson
import pytest

import headrace as hr
from headrace.model import DecoderConfig, GPTConfig

GPT = GPTConfig(
    num_hidden_layers=4, hidden_size=32, num_attention_heads=4, vocab_size=257, max_position_embeddings=32
)
LLAMA = DecoderConfig(
    model_type="llama",
    num_hidden_layers=4,
    hidden_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=64,
    vocab_size=257,
    max_position_embeddings=32,
    tie_word_embeddings=False,
)
PROMPTS = ["the water", "and the wheel"]
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "dp2": (2, {"dp": 2}),
    "dp2, zero2": (2, {"dp": 2, "shard": "zero2"}),
    "tp2": (2, {"tp": 2}),
    "pp2, interleaved": (2, {"pp": 2, "pipeline_schedule": "interleaved"}),
    "dp2 x tp2, zero3": (4, {"dp": 2, "tp": 2, "shard": "zero3"}),
}


CASES = [(name, shape) for name in LAYOUTS for shape in (GPT, LLAMA)]
QUICK = [("tp2", GPT), ("pp2, interleaved", LLAMA)]


@pytest.mark.parametrize(
    ("name", "shape"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.campaign) for case in CASES if case not in QUICK)],
)
def test_samples_of_a_layout_are_what_generate_gives_for_its_checkpoint(
    *, name: str, shape: Any, store: Path, tmp_path: Path, start_run: Any
) -> None:
    world, options = LAYOUTS[name]
    out = tmp_path / "run"
    run = start_run(
        world=world, stores=store, out=out, model=dataclasses.asdict(shape), seq_len=32, batch_size=8, steps=4, lr=1e-2,
        device="cpu", sample_prompts=PROMPTS, sample_every=2, sample_max_new_tokens=8, **options,
    )  # fmt: skip
    assert run.wait_all() == [(0, "end 4 None")] * world
    lines = [orjson.loads(line) for line in (out / "samples.jsonl").read_bytes().splitlines()]
    assert [line["step"] for line in lines] == [2, 2, 4, 4]
    hr.generate(out, PROMPTS, tmp_path / "predictions", max_new_tokens=8)
    rows = hr.read_predictions(tmp_path / "predictions").to_pylist()
    wanted = {row["prompt_id"]: row["token_ids"] for row in rows}
    assert {line["prompt_id"]: line["token_ids"] for line in lines[2:]} == wanted
