"""GPT-2's format: every key and every tensor is known, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.errors import CheckpointError, ConfigError
from headrace.model import GPT, GPTConfig, from_hf, hf_config, to_hf
from headrace.tokens import load_tokenizer

SHAPE = GPTConfig(
    num_hidden_layers=2, hidden_size=24, num_attention_heads=3, vocab_size=257, max_position_embeddings=16
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_hf(GPT(SHAPE, seed=1), load_tokenizer("byte"), tmp_path_factory.mktemp("hf") / "model")


@pytest.fixture
def directory(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "hf")
    return tmp_path / "hf"


def change_config(directory: Path, *, without: tuple[str, ...] = (), **keys: Any) -> None:
    path = directory / "config.json"
    config = {k: v for k, v in orjson.loads(path.read_bytes()).items() if k not in without}
    path.write_bytes(orjson.dumps({**config, **keys}))


def change_tensors(directory: Path, **tensors: torch.Tensor | None) -> None:
    path = directory / "model.safetensors"
    content = {**load_file(path), **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
    save_file({name: tensor for name, tensor in content.items() if tensor is not None}, path)


def test_transformers_common_names_are_read(directory: Path) -> None:
    """Transformers' attribute_map takes num_attention_heads for n_head, and so on."""
    change_config(
        directory,
        without=("n_layer", "n_embd", "n_head", "n_positions"),
        num_hidden_layers=2,
        hidden_size=24,
        num_attention_heads=3,
        max_position_embeddings=16,
    )
    assert hf_config(directory) == SHAPE


def test_two_names_of_one_number_must_agree(directory: Path) -> None:
    change_config(directory, num_attention_heads=3)
    assert hf_config(directory) == SHAPE
    change_config(directory, num_attention_heads=6)
    with pytest.raises(ConfigError, match="n_head is 3 and num_attention_heads is 6; they mean the same"):
        hf_config(directory)


def test_every_key_of_transformers_own_config_is_known(directory: Path) -> None:
    from transformers import GPT2Config

    config = GPT2Config(
        n_layer=2, n_embd=24, n_head=3, vocab_size=257, n_positions=16, tie_word_embeddings=True
    )
    (directory / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    assert hf_config(directory) == SHAPE
    config.save_pretrained(directory)
    assert hf_config(directory) == SHAPE


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rope_theta": 10000.0}, "keys that this decoder does not know: rope_theta"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config is .* does not have that"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map is"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"activation_function": ["gelu"]}, "activation_function is"),
        ({"n_layer": True}, "n_layer is True; expected a whole number"),
        ({"n_head": 10**30}, "n_head is"),
    ],
)
def test_a_key_that_may_change_the_model_is_refused(
    keys: dict[str, Any], message: str, directory: Path
) -> None:
    path = directory / "config.json"
    config = orjson.loads(path.read_bytes())
    path.write_text(json.dumps({**config, **keys}))
    with pytest.raises(ConfigError, match=message):
        hf_config(directory)


def test_an_output_head_of_its_own_is_refused_and_a_copy_of_the_embedding_is_not(directory: Path) -> None:
    table = load_file(directory / "model.safetensors")["transformer.wte.weight"]
    change_tensors(directory, lm_head__weight=table.clone())
    change_config(directory, without=("tie_word_embeddings",))
    assert torch.equal(from_hf(directory).tok.weight, table)
    change_tensors(directory, lm_head__weight=table + 1)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from wte\.weight"):
        from_hf(directory)


def test_quantized_tensors_are_refused(directory: Path) -> None:
    table = load_file(directory / "model.safetensors")["transformer.wte.weight"]
    change_tensors(directory, transformer__wte__weight=(table * 100).to(torch.int8))
    with pytest.raises(CheckpointError, match=r"wte\.weight is int8, expected floating point"):
        from_hf(directory)


def test_tensors_of_another_model_are_refused_and_old_masks_are_not(directory: Path) -> None:
    change_tensors(directory, transformer__h__0__attn__bias=torch.ones(1, 1, 16, 16, dtype=torch.uint8))
    from_hf(directory)
    change_tensors(directory, score__weight=torch.zeros(2, 24))
    with pytest.raises(CheckpointError, match=r"tensors that GPT-2 does not have: score\.weight"):
        from_hf(directory)


def test_a_tensor_under_two_names_is_refused(directory: Path) -> None:
    change_tensors(directory, wpe__weight=torch.zeros(16, 24))
    with pytest.raises(CheckpointError, match=r"wpe\.weight is there twice"):
        from_hf(directory)


def test_a_shape_is_bounded_by_the_tensors_there_are(directory: Path) -> None:
    """A config of a billion layers would never be built."""
    change_config(directory, n_layer=10**9)
    with pytest.raises(CheckpointError, match="its weights have 2 layers, its config 1000000000"):
        from_hf(directory)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors.index.json", "pytorch_model.bin", "vocab.json", "model-00001-of-00002.safetensors"],
)
def test_an_export_is_not_mixed_with_another_model(name: str, directory: Path) -> None:
    """The index of a sharded model would be read instead of the exported weights."""
    (directory / name).write_bytes(b"{}")
    before = (directory / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=f"files that would be read with the exported model: {name}"):
        to_hf(GPT(SHAPE), load_tokenizer("byte"), directory)
    assert (directory / "config.json").read_bytes() == before


def test_an_export_replaces_an_export(directory: Path) -> None:
    (directory / "README.md").write_text("mine")
    to_hf(GPT(SHAPE, seed=2), load_tokenizer("byte"), directory)
    assert torch.equal(from_hf(directory).tok.weight, GPT(SHAPE, seed=2).tok.weight)
    assert (directory / "README.md").read_text() == "mine"


def test_an_export_that_fails_leaves_no_model(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.model.weights import load as module

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        to_hf(GPT(SHAPE), load_tokenizer("byte"), directory)
    assert not (directory / "config.json").exists()
    assert not list(directory.glob(".*"))
