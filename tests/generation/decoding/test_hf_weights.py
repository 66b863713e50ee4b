"""A transformers model gets the same weights from our reader as from transformers, or transformers reads them."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.errors import CheckpointError
from headrace.generation.decoding import hf_weights
from headrace.generation.decoding.hf_weights import load_transformers

transformers = pytest.importorskip("transformers")
SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64,
}  # fmt: skip


def save(path, *, tied=True, dtype=torch.float32):
    config = transformers.LlamaConfig(**SMALL, tie_word_embeddings=tied)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(dtype).save_pretrained(path)
    return transformers.AutoConfig.from_pretrained(path)


def reference(path, dtype):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


def assert_same(model, expected):
    ours, theirs = model.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in [*theirs.items(), *expected.named_buffers()]:
        got = ours.get(name, dict(model.named_buffers()).get(name))
        assert got.dtype == tensor.dtype, name
        assert torch.equal(got, tensor), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_our_reader_gives_every_tensor_and_buffer_of_transformers(tmp_path, tied, dtype, monkeypatch):
    config = save(tmp_path, tied=tied, dtype=torch.bfloat16)
    expected = reference(tmp_path, dtype)
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("mapped")
    )
    seen = []
    model = load_transformers(tmp_path, config, dtype=dtype, progress=lambda *now: seen.append(now))
    assert_same(model, expected)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert seen[-1][0] == seen[-1][1] > 0
    ids = torch.arange(10)[None]
    assert torch.equal(model.eval()(ids).logits, expected.eval()(ids).logits)


def test_files_with_other_names_are_read_by_transformers_and_the_log_says_why(tmp_path, caplog):
    config = save(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    with caplog.at_level(logging.INFO, logger="headrace.load"):
        model = load_transformers(tmp_path, config, dtype=torch.float32)
    assert "read by transformers, by memory map: the files have no model.embed_tokens.weight" in caplog.text
    assert_same(model, reference(tmp_path, torch.float32))


def test_a_tied_matrix_that_the_files_have_as_well_is_left_to_transformers(tmp_path):
    config = save(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": torch.zeros(96, 32)}, path, metadata={"format": "pt"})
    model = load_transformers(tmp_path, config, dtype=torch.float32)
    assert_same(model, reference(tmp_path, torch.float32))


def test_layers_that_stay_in_float32_are_left_to_transformers():
    class Model:
        _keep_in_fp32_modules = ("norm",)

    assert hf_weights._difference(Model(), {}, {}) == "some layers stay in float32"


def test_tensors_that_the_files_lack_are_an_error_and_not_drawn_at_random(tmp_path):
    config = save(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"lack 2 tensors of the model, the first is model\.layers\.1\.mlp\.up"
    ):
        load_transformers(tmp_path, config, dtype=torch.float32)


def test_a_config_of_more_layers_than_there_are_tensors_is_refused_before_any_is_made(tmp_path):
    config = save(tmp_path)
    config.num_hidden_layers = 10**9
    with pytest.raises(CheckpointError, match=r"config\.json has 1000000000 layers, its weights 20 tensors"):
        load_transformers(tmp_path, config, dtype=torch.float32)
