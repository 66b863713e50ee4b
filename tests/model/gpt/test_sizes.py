"""SIZES: Table 2.1's shapes with its contradictions resolved."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.model.gpt.sizes import SIZES, gpt_config


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("gpt3-125m", 0.125), ("gpt3-350m", 0.356), ("gpt3-760m", 0.760), ("gpt3-1.3b", 1.316),
        ("gpt3-2.7b", 2.651), ("gpt3-6.7b", 6.658), ("gpt3-13b", 12.85), ("gpt3-175b", 174.6),
    ],
)  # fmt: skip
def test_a_size_has_the_parameters_that_its_name_says(name: str, billions: float) -> None:
    config = gpt_config(name, vocab_size=50257)
    assert config.num_parameters / 1e9 == pytest.approx(billions, rel=0.005)
    assert config.max_position_embeddings == 2048


def test_every_size_has_whole_heads_that_fill_its_width() -> None:
    printed = {"gpt3-125m": 64, "gpt3-350m": 64, "gpt3-760m": 96, "gpt3-1.3b": 128, "gpt3-2.7b": 80,
               "gpt3-6.7b": 128, "gpt3-13b": 128, "gpt3-175b": 128}  # fmt: skip
    for name, head_dim in printed.items():
        assert gpt_config(name, vocab_size=50257).head_dim == head_dim
    assert set(SIZES) == {*printed, "tiny"}


def test_the_papers_flops_of_a_token_are_about_six_times_the_parameters() -> None:
    config = gpt_config("gpt3-175b", vocab_size=50257)
    assert config.flops_per_token(2048) == pytest.approx(6 * config.num_parameters, rel=0.05)


def test_an_unknown_size_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(ConfigError, match="no size named 'gpt4'; there are tiny, gpt3-125m"):
        gpt_config("gpt4", vocab_size=10)
