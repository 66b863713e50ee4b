"""Adapters of the peft library give its logits here, ours give the same logits there; others are refused by name.

Covers adapter.py beside adapter_format.py, with tests/training/test_lora.py.
"""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.errors import CheckpointError, ConfigError
from headrace.model import (
    LoraConfig,
    hf_config,
    load_model,
    target_names,
)
from headrace.model.lora.adapter_format import read_adapter, read_adapter_config, write_adapter
from small_models import random_hf_directory, small_gpt, small_llama

GPT_SHAPE = small_gpt(width=16, num_attention_heads=2)
LLAMA = small_llama(width=16)
IDS = torch.arange(24).view(2, 12) * 11 % 257


@pytest.fixture(scope="module", params=[GPT_SHAPE, LLAMA], ids=["gpt2", "llama"])
def base(request, tmp_path_factory):
    return random_hf_directory(tmp_path_factory.mktemp("base") / "hf", request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return random_hf_directory(tmp_path_factory.mktemp("base") / "llama", LLAMA)


def peft_model(base, **options):
    """A model of peft with matrices of random values."""
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    theirs = AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # peft calls what transformers deprecates, and adds fan_in_fan_out itself
        model = peft.get_peft_model(theirs, peft.LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return model


def save_adapter(base, out, **options):
    """An adapter as peft saves it."""
    model = peft_model(base, **options)
    model.save_pretrained(out)
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture(scope="module")
def adapter(llama, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapter") / "a"
    save_adapter(llama, out, r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"])
    return out


@pytest.fixture
def copy(adapter, tmp_path):
    return shutil.copytree(adapter, tmp_path / "adapter")


def edit(directory, **values):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "options",
    [
        {"r": 3, "lora_alpha": 7, "target_modules": "all-linear"},
        {"r": 4, "lora_alpha": 7, "use_rslora": True, "lora_dropout": 0.1},
        {"r": 2, "lora_alpha": 5, "layers_to_transform": [1]},
    ],
    ids=["all-linear", "default targets and rslora", "one layer"],
)
def test_an_adapter_of_peft_gives_the_logits_of_peft(base, options, tmp_path):
    expected = save_adapter(base, tmp_path / "adapter", **options)
    model, tokenizer = load_model(tmp_path / "adapter")
    assert tokenizer.vocab_size == 257
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), expected, atol=2e-5, rtol=2e-5)
        assert (load_model(base)[0](IDS) - expected).abs().max() > 0.01


def test_an_adapter_written_here_is_opened_by_peft_with_the_same_logits(base, tmp_path):
    import peft
    from transformers import AutoModelForCausalLM

    theirs = tmp_path / "theirs"
    expected = save_adapter(base, theirs, r=3, lora_alpha=7, target_modules="all-linear")
    config = hf_config(base)
    lora = LoraConfig(r=3, lora_alpha=7.0, target_modules=target_names(config, ["all-linear"]))
    write_adapter(tmp_path / "ours", read_adapter(theirs, config), lora, config, base=str(base), weights=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        again = peft.PeftModel.from_pretrained(model, tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, expected)
    one, other = (load_file(path / "adapter_model.safetensors") for path in (theirs, tmp_path / "ours"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "peft_type is 'PROMPT_TUNING'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern is"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"some_new_option": 1}, "some_new_option is 1"),
        ({"r": 0}, "r is 0; expected a whole number"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'; expected a number"),
    ],
)
def test_an_adapter_that_would_compute_something_else_is_refused_by_name(copy, values, says):
    edit(copy, **values)
    with pytest.raises(ConfigError, match=r"adapter_config\.json") as caught:
        load_model(copy)
    assert says in str(caught.value)


def test_what_is_no_json_is_refused(copy):
    (copy / "adapter_config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_adapter_config(copy)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.popitem(), "of 1 that are missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "no LoRA of this model's linear layers: extra"),
        (lambda t: t.update({n: torch.zeros(5, 5) for n in list(t)[:1]}), r"has shape \[5, 5\]"),
        (lambda t: t.update({n: t[n].int() for n in list(t)[:1]}), "is int32, expected floating point"),
        (lambda t: [t.pop(n) for n in list(t) if "layers.1" in n], "of 4 that are missing"),
    ],
    ids=["one missing", "unknown", "shape", "integers", "a layer missing"],
)
def test_every_tensor_of_an_adapter_is_used_or_the_adapter_is_refused(copy, change, says):
    path = copy / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=says):
        load_model(copy)


def test_an_adapter_as_a_pickle_is_not_opened_and_the_cure_is_named(copy):
    (copy / "adapter_model.safetensors").rename(copy / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle, which is not opened"):
        load_model(copy)


def test_an_adapter_names_its_base_by_path_or_by_name_of_a_hub(copy, llama):
    from headrace.model import adapter_base

    assert adapter_base(copy) == str(llama)
    shutil.copytree(llama, copy / "here")
    edit(copy, base_model_name_or_path="here")
    assert adapter_base(copy) == str(copy / "here")
    edit(copy, base_model_name_or_path="owner/name", revision="v1")
    assert adapter_base(copy) == "hf://owner/name@v1"
    edit(copy, base_model_name_or_path="s3://bucket/model")
    assert adapter_base(copy) == "s3://bucket/model"
    edit(copy, base_model_name_or_path="/no/such/model")
    with pytest.raises(ConfigError, match="no such directory is here"):
        adapter_base(copy)
    edit(copy, base_model_name_or_path=None)
    with pytest.raises(ConfigError, match="no base_model_name_or_path"):
        adapter_base(copy)


def test_an_adapter_in_the_directory_of_its_base_is_merged_into_it(copy, llama, adapter):
    for file in llama.iterdir():
        shutil.copy(file, copy / file.name)
    edit(copy, base_model_name_or_path=str(copy))
    with torch.no_grad():
        assert torch.equal(load_model(copy)[0](IDS), load_model(adapter)[0](IDS))


def test_an_adapter_of_an_adapter_is_refused(copy, adapter, tmp_path, llama):
    whole = shutil.copytree(llama, tmp_path / "both")
    for file in adapter.iterdir():
        shutil.copy(file, whole / file.name)
    edit(copy, base_model_name_or_path=str(whole))
    with pytest.raises(ConfigError, match="has an adapter too"):
        load_model(copy)
