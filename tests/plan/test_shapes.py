"""Shapes by name, by config.json, by widths."""

import json

import pytest

from headrace.errors import ConfigError
from headrace.model import DECODER_SIZES, decoder_size
from headrace.plan.shapes import MODELS, custom_shape, model_shape

PUBLISHED = {
    "llama2-7b": 6.74e9,
    "llama2-70b": 68.98e9,
    "llama3-8b": 8.03e9,
    "llama3.1-405b": 405.9e9,
    "mistral-7b": 7.24e9,
    "qwen3-8b": 8.19e9,
    "smollm2-135m": 134.5e6,
    "gpt3-175b": 175e9,
    "gpt3-13b": 13.0e9,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_named_shape_has_its_published_number_of_parameters(name):
    assert MODELS[name].num_parameters == pytest.approx(PUBLISHED[name], rel=0.015)


def test_flops_follow_the_published_formula():
    """72 L h^2 (1 + s/6h + V/12Lh) a token, Narayanan et al. 2021."""
    m = model_shape("gpt3-175b")
    layers, h, s, v = m.num_layers, m.hidden_size, 2048, m.vocab_size
    assert m.flops_per_token(s) == pytest.approx(
        72 * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    )


def test_a_config_json_alone_is_enough(tmp_path):
    config = {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "config.json"):
        assert model_shape(path).num_parameters == MODELS["llama3-8b"].num_parameters


def test_gpt2_names_are_read_too(tmp_path):
    config = {
        "model_type": "gpt2",
        "n_layer": 12,
        "n_embd": 768,
        "n_head": 12,
        "vocab_size": 50257,
        "n_inner": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_shape(tmp_path).num_parameters == pytest.approx(124e6, rel=0.01)


@pytest.mark.parametrize("key", ["num_local_experts", "num_experts", "n_routed_experts"])
def test_a_mixture_of_experts_is_refused_by_name(tmp_path, key):
    config = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100, key: 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="mixture of experts"):
        model_shape(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"hidden_size": 3}', '{"text_config": 5}'])
def test_a_config_that_says_too_little_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        model_shape(tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="gpt3-13b"):
        model_shape("gpt5")


@pytest.mark.parametrize("bad", [{"layers": 0}, {"heads": -1}, {"kv_heads": 3}])
def test_impossible_widths_are_refused(bad):
    with pytest.raises(ConfigError):
        custom_shape(**{"layers": 2, "width": 64, "heads": 4, **bad})


@pytest.mark.parametrize(
    ("config", "billions", "tied"),
    [
        # Heads wider than hidden_size / heads (Qwen, Gemma), tied heads that config.json need not mention (Gemma).
        ({"model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "head_dim": 128,
          "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "vocab_size": 151936,
          "tie_word_embeddings": True}, 4.022, True),
        ({"model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "head_dim": 256,
          "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4, "vocab_size": 256000},
         2.614, True),
        ({"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
          "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 32000}, 7.241, False),
    ],
)  # fmt: skip
def test_published_configs_have_their_published_size(tmp_path, config, billions, tied):
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = model_shape(tmp_path)
    assert shape.num_parameters / 1e9 == pytest.approx(billions, abs=0.001)
    assert shape.tied is tied


def test_a_run_is_a_model(tmp_path):
    model = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 300}
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "recipe": {"model": model, "seq_len": 32}}))
    shape = model_shape(tmp_path)
    assert (shape.num_layers, shape.vocab_size, shape.tied, shape.gated) == (2, 300, True, False)


@pytest.mark.parametrize("name", DECODER_SIZES)
def test_every_name_that_train_takes_is_planned_with_the_same_shape(name):
    shape, trained = model_shape(name), decoder_size(name)
    assert (shape.num_layers, shape.hidden_size) == (trained.num_hidden_layers, trained.hidden_size)
    assert (shape.num_heads, shape.num_kv_heads) == (trained.num_attention_heads, trained.num_key_value_heads)
    assert (shape.head_size, shape.ffn_size) == (trained.head_dim, trained.intermediate_size)
    assert (shape.vocab_size, shape.tied) == (trained.vocab_size, trained.tie_word_embeddings)
