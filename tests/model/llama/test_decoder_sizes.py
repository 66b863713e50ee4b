"""DECODER_SIZES: each published model has the number of parameters that its maker's files have."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.model import DECODER_SIZES, decoder_size, meta_model

# From the safetensors of the published models, tied heads counted once.
PUBLISHED = {
    "llama2-7b": 6_738_415_616, "llama2-13b": 13_015_864_320, "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248, "llama3-70b": 70_553_706_496, "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824, "mistral-7b": 7_241_732_096, "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304, "qwen2.5-3b": 3_085_938_688, "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664, "qwen2.5-32b": 32_763_876_352, "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920, "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360, "qwen3-14b": 14_768_307_200, "qwen3-32b": 32_762_123_264,
    "gemma-2b": 2_506_172_416, "gemma-7b": 8_537_680_896, "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984, "gemma2-27b": 27_227_128_320, "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952, "olmo2-1b": 1_484_916_736, "olmo2-7b": 7_298_617_344,
    "olmo2-13b": 13_716_198_400, "olmo2-32b": 32_234_279_936, "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120, "smollm2-1.7b": 1_711_376_384,
}  # fmt: skip


@pytest.mark.parametrize("name", DECODER_SIZES)
def test_a_published_model_has_its_number_of_parameters(name: str) -> None:
    config = decoder_size(name)
    assert config.num_parameters == PUBLISHED[name]
    if config.num_hidden_layers <= 30:  # a model without memory takes a second per hundred layers
        parameters = dict(meta_model(config).named_parameters())
        assert sum(parameter.numel() for parameter in parameters.values()) == PUBLISHED[name]


def test_a_published_shape_takes_the_vocabulary_of_another_tokenizer() -> None:
    config = decoder_size("smollm2-135m", vocab_size=257)
    assert config.vocab_size == 257
    assert config.num_parameters == PUBLISHED["smollm2-135m"] - (49152 - 257) * config.hidden_size


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no size named 'llama9'; there are tiny, .*, smollm2-1\.7b"):
        decoder_size("llama9")
