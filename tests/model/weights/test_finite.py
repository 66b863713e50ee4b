"""Weights that are no numbers are refused by the names of the directory that they came in."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.errors import CheckpointError
from headrace.model import GPT, Decoder, DecoderConfig, GPTConfig, check_finite, check_finite_model
from headrace.model.weights import finite

GPT_SHAPE = GPTConfig(
    num_hidden_layers=2, hidden_size=16, num_attention_heads=2, vocab_size=32, max_position_embeddings=8
)
LLAMA = DecoderConfig(
    model_type="llama", num_hidden_layers=2, hidden_size=16, intermediate_size=24, num_attention_heads=2,
    num_key_value_heads=2, head_dim=8, vocab_size=32, max_position_embeddings=8,
)  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_value_anywhere_is_found(
    value: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "_AT_ONCE", 7)  # in parts, as large tensors are
    for place in ((0, 0), (2, 3), (4, 5)):
        tensor = torch.ones(5, 6, dtype=dtype)
        check_finite({"a": tensor}, "here")
        tensor[place] = value
        with pytest.raises(
            CheckpointError, match=rf"here: b holds {value} at \[{place[0]}, {place[1]}\], which is"
        ):
            check_finite({"a": torch.ones(3), "b": tensor.T.T}, "here")


@pytest.mark.parametrize(
    ("model", "ours", "theirs"),
    [
        (GPT(GPT_SHAPE), "blocks.1.attn.qkv.weight", "h.1.attn.c_attn.weight"),
        (Decoder(LLAMA), "blocks.1.attn.q.weight", "model.layers.1.self_attn.q_proj.weight"),
    ],
)
def test_the_name_is_that_of_the_file(model: Any, ours: str, theirs: str, tmp_path: Path) -> None:
    check_finite_model(model, tmp_path)
    with torch.no_grad():
        model.get_parameter(ours)[3, 1] = math.nan
        model.norm.weight[0] = math.inf
    with pytest.raises(
        CheckpointError, match=f"{theirs} holds nan at .3, 1., .* and 1 more tensors"
    ) as caught:
        check_finite_model(model, tmp_path)
    assert "take an earlier checkpoint" in str(caught.value)
