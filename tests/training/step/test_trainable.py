"""Decoders of Llama's family train to the same losses in every layout, and as transformers' own models do.

Covers trainable.py, parallel.py, pipeline.py and layout.py for this family; test_parallel.py has GPT's.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.model import DecoderConfig, RopeParameters
from small_models import small_llama

LLAMA = small_llama(num_hidden_layers=4, max_position_embeddings=64)
SHAPES: dict[str, DecoderConfig] = {
    "llama": LLAMA,
    "llama, tied, biases": dataclasses.replace(
        LLAMA, tie_word_embeddings=True, qkv_bias=True, attention_out_bias=True, mlp_bias=True
    ),
    "qwen3": dataclasses.replace(LLAMA, model_type="qwen3", qk_norm="head", num_key_value_heads=4),
    "gemma2": dataclasses.replace(
        LLAMA,
        model_type="gemma2",
        norm_placement="both",
        norm_unit_offset=True,
        scale_embeddings=True,
        tie_word_embeddings=True,
        hidden_act="gelu_pytorch_tanh",
        sliding_window=5,
        layer_types=("sliding_attention", "full_attention") * 2,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=16,
    ),
    "gemma3": dataclasses.replace(
        LLAMA,
        model_type="gemma3_text",
        norm_placement="both",
        norm_unit_offset=True,
        qk_norm="head",
        sliding_window=5,
        layer_types=("sliding_attention", "full_attention") * 2,
        sliding_rope=RopeParameters(rope_theta=100.0),
    ),
    "olmo2": dataclasses.replace(LLAMA, model_type="olmo2", norm_placement="post", qk_norm="projection"),
}
OPTIONS: dict[str, Any] = {
    "seq_len": 32,
    "batch_size": 8,
    "steps": 20,
    "lr": 3e-3,
    "seed": 5,
    "device": "cpu",
    "dtype": "float32",
}
TOLERANCE = 1e-4
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "dp2": (2, {"dp": 2}),
    "zero2, accumulated": (2, {"dp": 2, "shard": "zero2", "gradient_accumulation_steps": 2}),
    "zero3, recomputed": (2, {"dp": 2, "shard": "zero3", "activation_checkpointing": True}),
    "tp2": (2, {"tp": 2}),
    "pp2": (2, {"pp": 2}),
    "pp2, interleaved": (2, {"pp": 2, "pipeline_schedule": "interleaved"}),
    "dp2 x tp2": (4, {"dp": 2, "tp": 2}),
    "dp2 x tp2, zero3": (4, {"dp": 2, "tp": 2, "shard": "zero3"}),
    "tp2 x pp2": (4, {"tp": 2, "pp": 2}),
    "dp2 x pp2, zero2": (4, {"dp": 2, "pp": 2, "shard": "zero2"}),
    "tp2, documents apart": (2, {"tp": 2, "packing": "best_fit", "document_ids": True, "position_ids": True}),
    "pp2, documents apart": (2, {"pp": 2, "packing": "best_fit", "document_ids": True, "position_ids": True}),
}


def check_layout_of(
    shape: str, layout: str, *, store: Path, tmp_path: Path, start_run: Any, losses: Any, steps: int = 20
) -> None:
    world, options = LAYOUTS[layout]
    of_rows = {key: options[key] for key in ("packing", "document_ids", "position_ids") if key in options}
    asked = {**OPTIONS, "stores": store, "model": dataclasses.asdict(SHAPES[shape]), "steps": steps}
    assert start_run(out=tmp_path / "alone", **asked, **of_rows).wait_all()[0][0] == 0
    run = start_run(world=world, out=tmp_path / "run", **asked, **options)
    assert run.wait_all() == [(0, f"end {steps} None")] * world
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "alone"), rtol=TOLERANCE)


@pytest.mark.parametrize(("shape", "layout"), [("gemma2", "tp2 x pp2"), ("olmo2", "dp2 x tp2, zero3")])
def test_a_layout_has_the_losses_of_one_process(
    shape: str, layout: str, store: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    check_layout_of(
        shape, layout, store=store, tmp_path=tmp_path, start_run=start_run, losses=losses, steps=8
    )


@pytest.mark.campaign
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_layout_of_every_shape_has_the_losses_of_one_process(
    shape: str, layout: str, store: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    check_layout_of(shape, layout, store=store, tmp_path=tmp_path, start_run=start_run, losses=losses)
