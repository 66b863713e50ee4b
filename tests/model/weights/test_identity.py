"""A copy of a directory has its hash, changed weights have another; an adapter beside other weights is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from headrace.errors import CheckpointError
from headrace.model import (
    LoraConfig,
    build_model,
    hf_config,
    load_model,
    to_hf,
    verify_base,
    weights_identity,
)
from headrace.model.lora.adapter_format import write_adapter
from headrace.model.lora.layers import empty_lora_tensors
from headrace.tokens.byte import ByteTokenizer
from headrace.training import import_model
from small_models import small_gpt

SHAPE = small_gpt(width=16, num_hidden_layers=1)


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    return to_hf(build_model(SHAPE), ByteTokenizer(), tmp_path / "base")


@pytest.fixture
def adapter(base, tmp_path):
    lora = LoraConfig(r=2, lora_alpha=4.0, target_modules=("c_attn",))
    tensors = {name: torch.ones_like(tensor) for name, tensor in empty_lora_tensors(SHAPE, lora).items()}
    out = tmp_path / "adapter"
    write_adapter(out, tensors, lora, hf_config(base), base=str(base), weights=weights_identity(base))
    return out


def change_a_weight(directory):
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_copy_has_the_hash_of_the_original_and_a_changed_weight_has_another(base, tmp_path):
    copy = shutil.copytree(base, tmp_path / "copy")
    assert weights_identity(copy) == weights_identity(base)
    change_a_weight(copy)
    assert weights_identity(copy) != weights_identity(base)


def test_an_adapters_hash_covers_its_base(base, adapter):
    before = weights_identity(adapter)
    assert before != weights_identity(base)
    change_a_weight(base)
    assert weights_identity(adapter) != before


def test_an_adapter_beside_other_weights_than_it_was_trained_with_is_refused(base, adapter):
    load_model(adapter)
    change_a_weight(base)
    with pytest.raises(
        CheckpointError, match=r"trained beside weights with the hash .*If these are the same"
    ):
        load_model(adapter)
    (adapter / "headrace_adapter.json").unlink()  # as an adapter of peft: it does not say which
    load_model(adapter)


def test_a_copy_of_a_run_has_its_hash(base, tmp_path):
    import_model(base, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert weights_identity(tmp_path / "run") == weights_identity(f"{tmp_path / 'copy'}@0")


def test_frozen_weights_that_are_gone_damaged_or_others_are_told(base, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="frozen weights that the run tunes are gone"):
        verify_base(run, "0")
    import_model(base, run)
    (run / "checkpoints").rename(run / "base")
    with pytest.raises(CheckpointError, match="other weights than those that the run tunes"):
        verify_base(run, "0")
    part = next((run / "base" / "step-00000000").glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=part.name):
        verify_base(run, "0")


def test_a_hash_that_cannot_be_read_is_an_error(adapter):
    (adapter / "headrace_adapter.json").write_text(json.dumps([1]))
    with pytest.raises(CheckpointError, match=r"headrace_adapter\.json: cannot be read"):
        load_model(adapter)
