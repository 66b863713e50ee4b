"""Configurations that transformers can express: logits are equal, or the directory is refused by name.

Covers architectures.py, decoder.py, decoder_config.py, decoder_format.py, decoder_tensors.py, rope.py, families.py and
hf_directory.py.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.errors import CheckpointError, ConfigError
from headrace.model import Decoder, from_hf, hf_config, to_hf
from headrace.model.llama.architectures import ARCHITECTURES
from headrace.tokens import load_tokenizer

TOKENS = 24
RELATIVE = 1e-5


def rope_keys(rng: random.Random, context: int) -> dict[str, Any]:
    """Rotary parameters of a random type, as rope_parameters holds them."""
    kind = rng.choice(["default", "linear", "dynamic", "yarn", "llama3"])
    factor = rng.choice([1.0, 2.0, 8.0, 3.5])
    extra: dict[str, Any] = {}
    if kind in {"linear", "dynamic"}:
        extra = {"factor": factor}
    elif kind == "yarn":
        extra = {"factor": factor, "original_max_position_embeddings": rng.choice([8, 16, context])}
        optional = {
            "beta_fast": rng.choice([32, 16.0, 4]),
            "beta_slow": rng.choice([1, 2.0]),
            "attention_factor": rng.choice([0.7, 1.3]),
            "truncate": rng.choice([True, False]),
        }
        extra |= {key: value for key, value in optional.items() if rng.random() < 0.4}
        if rng.random() < 0.3:
            extra |= {"mscale": 0.9, "mscale_all_dim": 0.7}
        if rng.random() < 0.3:
            del extra["original_max_position_embeddings"]
    elif kind == "llama3":
        extra = {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": rng.choice([4.0, 2.5])}
        extra["original_max_position_embeddings"] = rng.choice([8, 16, context])
    return {"rope_type": kind, **extra}


def random_config(seed: int) -> dict[str, Any]:
    """A config.json that both libraries take: every option of the architecture is drawn."""
    rng = random.Random(seed)
    kind = rng.choice(list(ARCHITECTURES))
    heads = rng.choice([2, 4, 6])
    head_dim = rng.choice([4, 8, 16])
    context = rng.choice([32, 64])
    layers = rng.choice([1, 2, 3, 5])
    config: dict[str, Any] = {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind].class_name],
        "num_hidden_layers": layers,
        "hidden_size": heads * rng.choice([4, 8, 12]),
        "intermediate_size": rng.choice([16, 40]),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([n for n in (1, 2, 3, 6) if heads % n == 0]),
        "vocab_size": rng.choice([65, 128]),
        "max_position_embeddings": context,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": rng.choice([2, [2, 3]]),
    }
    if kind in {"qwen3", "gemma", "gemma2", "gemma3_text"} or rng.random() < 0.5:
        config["head_dim"] = head_dim
    optional: dict[str, Any] = {
        "rms_norm_eps": rng.choice([1e-5, 1e-6, 1e-2]),
        "tie_word_embeddings": rng.choice([True, False]),
        "attention_dropout": 0.1,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "initializer_range": 0.1,
        "pretraining_tp": 1,
    }
    if kind not in {"mistral", "qwen2"}:
        optional["attention_bias"] = rng.choice([True, False])
    if kind == "llama":
        optional["mlp_bias"] = rng.choice([True, False])
    if kind in {"llama", "olmo2"} and rng.random() < 0.2:
        config["num_key_value_heads"] = None
    acts = ["silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "swish", "relu"]
    optional["hidden_activation" if kind in {"gemma2", "gemma3_text"} else "hidden_act"] = rng.choice(acts)
    kinds = [rng.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
    window = rng.choice([1, 3, 7, 100])
    if kind == "mistral":
        config["sliding_window"] = rng.choice([None, window])
    if kind in {"qwen2", "qwen3"} and rng.random() < 0.6:
        config |= {
            "use_sliding_window": True,
            "sliding_window": window,
            "max_window_layers": rng.randint(0, layers),
        }
        optional["layer_types"] = kinds
    if kind in {"gemma2", "gemma3_text"}:
        config["sliding_window"] = window
        optional |= {"layer_types": kinds, "query_pre_attn_scalar": rng.choice([4, 64, 144])}
        optional["final_logit_softcapping"] = rng.choice([None, 0.5, 30.0])
    if kind == "gemma2":
        optional["attn_logit_softcapping"] = rng.choice([None, 0.5, 50.0])
    if kind == "gemma3_text":
        optional["sliding_window_pattern"] = rng.choice([2, 3])
    config |= {key: value for key, value in optional.items() if rng.random() < 0.6}
    return config | _random_rope(rng, kind, context)


def _random_rope(rng: random.Random, kind: str, context: int) -> dict[str, Any]:
    theta = rng.choice([100.0, 10_000.0, 500_000.0])
    if rng.random() < 0.15:
        return {}
    if kind == "gemma3_text":
        full, sliding = rope_keys(rng, context), rope_keys(rng, context)
        for rope in (full, sliding):
            rope.pop("truncate", None)
        if rng.random() < 0.5:
            return {
                "rope_parameters": {
                    "full_attention": {**full, "rope_theta": theta},
                    "sliding_attention": sliding,
                }
            }
        old = {"rope_theta": theta, "rope_local_base_freq": 1000.0}
        return old if full["rope_type"] == "default" else old | {"rope_scaling": full}
    rope = rope_keys(rng, context)
    if rng.random() < 0.5:
        return {"rope_parameters": {**rope, "rope_theta": theta}}
    if rope["rope_type"] == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    if rng.random() < 0.5:
        rope["type"] = rope.pop("rope_type")
    return {"rope_theta": theta, "rope_scaling": rope}


def write_directory(directory: Path, config: dict[str, Any], *, seed: int = 0) -> Any:
    """A directory of a model with random weights; returns transformers' model of it, or the error that it raises."""
    from transformers import AutoConfig, AutoModelForCausalLM

    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        tensors = dict(model.named_parameters())  # a tied head is named once
        save_file(
            {name: tensor.detach().clone() for name, tensor in tensors.items()},
            directory / "model.safetensors",
        )
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    except Exception as error:  # noqa: BLE001  # transformers raises whatever its code meets
        return error


@torch.no_grad()
def difference(directory: Path, model: Any, *, vocab_size: int) -> float:
    """Largest difference of logits, relative to the largest logit."""
    ids = torch.randint(0, vocab_size, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    expected = model(input_ids=ids).logits
    got = from_hf(directory).eval()(ids)
    assert torch.isfinite(expected).all()
    return float((got - expected).abs().max() / expected.abs().max())


def check_random(seed: int, directory: Path) -> None:
    config = random_config(seed)
    model = write_directory(directory, config, seed=seed)
    assert not isinstance(model, Exception), (config, model)
    assert difference(directory, model, vocab_size=config["vocab_size"]) <= RELATIVE, config
    ours = from_hf(directory)
    assert isinstance(ours, Decoder)
    assert ours.config.num_parameters == sum(parameter.numel() for parameter in ours.parameters())
    # What is exported is the same model again.
    out = to_hf(ours, load_tokenizer("byte"), directory / "exported")
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    assert difference(directory, again, vocab_size=config["vocab_size"]) <= RELATIVE, config
    assert hf_config(out) == ours.config


@pytest.mark.parametrize("seed", range(20))
def test_logits_of_a_random_configuration_equal_transformers(seed: int, tmp_path: Path) -> None:
    check_random(seed, tmp_path / "hf")


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(20, 220))
def test_logits_of_200_random_configurations_equal_transformers(seed: int, tmp_path: Path) -> None:
    check_random(seed, tmp_path / "hf")


PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 257,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model_type": "smollm3"}, "a 'smollm3' model; the decoders here are those of gpt2, llama"),
        ({"model_type": "gemma3", "text_config": {}}, "Its text part alone can be saved by transformers"),
        ({"alibi": True, "n_embd": 16}, "keys that llama does not have: alibi, n_embd"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"rope_interleaved": True}, "rope_interleaved is True"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type is 'longrope'"),
        ({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}}, "they mean the same"),
        ({"rope_scaling": {"rope_type": "linear"}}, "needs factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta_fast": 3}}, "do not have beta_fast"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "do not have partial_rotary_factor"),
        ({"rope_parameters": {"rope_theta": -1.0}}, "rope_theta of the rotary positions is -1.0"),
        ({"hidden_act": "tanh"}, "hidden_act is 'tanh'"),
        ({"hidden_activation": "gelu"}, "transformers uses the latter"),
        ({"num_key_value_heads": 3}, "not divisible by num_key_value_heads 3"),
        ({"head_dim": 3}, "expected an even number"),
        ({"hidden_size": 18}, "hidden_size 18 is not divisible by num_attention_heads 4"),
        ({"hidden_size": "16"}, "hidden_size is '16'"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        (
            {"model_type": "mistral", "attention_bias": True},
            "attention_bias is true, which mistral does not have",
        ),
        (
            {"model_type": "gemma2", "layer_types": ["sliding_attention"] * 3},
            "layer_types has 3 entries for 2 layers",
        ),
        (
            {"model_type": "gemma2", "use_bidirectional_attention": True},
            "use_bidirectional_attention is True",
        ),
        (
            {"model_type": "gemma3_text", "attn_logit_softcapping": 30.0},
            "transformers ignores it for gemma3_text",
        ),
        (
            {"model_type": "qwen2", "layer_types": ["sliding_attention", "full_attention"]},
            "there is no sliding_window",
        ),
    ],
)
def test_what_the_decoder_cannot_express_is_refused_by_name(
    keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PLAIN | keys))
    with pytest.raises(ConfigError) as caught:
        hf_config(tmp_path)
    assert message in str(caught.value)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    assert not isinstance(write_directory(tmp_path / "hf", PLAIN), Exception)
    return tmp_path / "hf"


def change_tensors(directory: Path, **changes: torch.Tensor | None) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model__layers__0__self_attn__q_proj__bias": torch.zeros(16)},
            "tensors that its config has no place for",
        ),
        ({"score__weight": torch.zeros(2, 16)}, r"no place for: score\.weight"),
        ({"model__norm__weight": None}, r"no tensor named 'model\.norm\.weight'"),
        ({"lm_head__weight": torch.zeros(257, 16)}, "but the model has one matrix for both"),
        (
            {"model__layers__0__mlp__up_proj__weight": torch.zeros(24, 16, dtype=torch.int8)},
            "is int8, expected floating point",
        ),
        (
            {"model__layers__2__input_layernorm__weight": torch.zeros(16)},
            "weights have 3 layers, its config 2",
        ),
        ({"model__norm__weight": torch.zeros(17)}, r"norm\.weight has shape \[17\], the config says \[16\]"),
    ],
)
def test_tensors_that_contradict_the_config_are_refused(
    changes: dict[str, torch.Tensor | None], message: str, written: Path
) -> None:
    change_tensors(written, **changes)
    with pytest.raises(CheckpointError, match=message):
        from_hf(written)


def test_several_files_of_any_dtype_are_read_and_buffers_of_older_files_passed_over(written: Path) -> None:
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(written, dtype=torch.bfloat16)
    (written / "model.safetensors").unlink()
    saved.save_pretrained(written, max_shard_size="4KB")
    expected = AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32).eval()
    names = sorted(path.name for path in written.glob("*.safetensors"))
    assert len(names) > 1
    extra = load_file(written / names[0]) | {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2),
        "lm_head.weight": saved.lm_head.weight.detach().clone(),
    }
    save_file(extra, written / names[0])
    assert difference(written, expected, vocab_size=257) <= RELATIVE
