"""A shape on the command line, a published name, and depth. Covers shape_options.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from flat_options import train

from headrace.errors import ConfigError
from headrace.model import DecoderConfig, GPTConfig
from headrace.training import ShapeOptions
from headrace.training.shape import depth_rule, shape_of


def test_a_shape_gets_the_defaults_of_its_architecture() -> None:
    given = ShapeOptions(num_hidden_layers=2, hidden_size=96, num_attention_heads=6, num_key_value_heads=2)
    config = shape_of(given, vocab_size=300, seq_len=64)
    assert isinstance(config, DecoderConfig)
    assert (config.model_type, config.intermediate_size, config.head_dim) == ("llama", 256, 16)
    assert (config.num_key_value_heads, config.vocab_size, config.max_position_embeddings) == (2, 300, 64)
    gemma = shape_of(
        ShapeOptions(model_type="gemma2", num_hidden_layers=2, hidden_size=96, num_attention_heads=6),
        vocab_size=300,
        seq_len=None,
    )
    assert isinstance(gemma, DecoderConfig)
    assert gemma.norm_placement == "both"
    assert (gemma.query_pre_attn_scalar, gemma.max_position_embeddings) == (16, 2048)
    gpt = shape_of(
        ShapeOptions(model_type="gpt2", num_hidden_layers=2, hidden_size=96, num_attention_heads=6),
        vocab_size=300,
        seq_len=32,
    )
    assert isinstance(gpt, GPTConfig)


@pytest.mark.parametrize("depth", range(1, 33))
def test_a_depth_gives_a_shape_batch_rate_and_budget(depth: int) -> None:
    config = shape_of(ShapeOptions(depth=depth), vocab_size=50_257, seq_len=None)
    assert isinstance(config, DecoderConfig)
    assert (config.num_hidden_layers, config.hidden_size) == (depth, 64 * depth)
    assert config.num_attention_heads * config.head_dim == config.hidden_size
    rule = depth_rule(config)
    assert rule.tokens == 20 * config.num_parameters
    assert rule.lr == pytest.approx(6e-4 * (64 * depth / 768) ** -0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 64}, "a shape needs num_hidden_layers, num_attention_heads too"),
        ({"depth": 4, "hidden_size": 64}, "depth decides hidden_size"),
        ({"depth": 0}, "depth is 0"),
        ({"model_type": "bert", "depth": 1}, "model_type is 'bert'"),
        ({"model_type": "gpt2", "depth": 1}, "gpt2 has no depth"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ShapeOptions(**options)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    given = ShapeOptions(num_hidden_layers=2, hidden_size=96, num_attention_heads=7)
    with pytest.raises(ConfigError, match="hidden_size 96 is not divisible by num_attention_heads 7"):
        shape_of(given, vocab_size=300, seq_len=64)


def test_depth_trains_and_the_same_call_goes_on(store: Path, tmp_path: Path, losses: Any) -> None:
    asked: dict[str, Any] = {
        "model": ShapeOptions(depth=1), "seq_len": 32, "batch_size": 8, "device": "cpu", "dtype": "float32",
        "tokens": 8 * 32 * 4,
    }  # fmt: skip
    summary = train(store, out=tmp_path / "run", **asked)
    assert summary.steps == 4
    recipe = orjson.loads((tmp_path / "run" / "run.json").read_bytes())["recipe"]
    assert recipe["model_name"] == "depth-1"
    assert recipe["lr"] == pytest.approx(6e-4 * 12**0.5)
    before = losses(tmp_path / "run")
    assert train(store, out=tmp_path / "run", **asked).steps == 4
    assert losses(tmp_path / "run") == before
