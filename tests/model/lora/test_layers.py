"""Low-rank matrices beside linear layers: which layers, what they compute, what learns, and merged weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from headrace.errors import CheckpointError, ConfigError
from headrace.model import (
    LoraConfig,
    LoraLinear,
    add_lora,
    build_model,
    init_weights,
    is_lora_name,
    meta_lora_model,
    target_names,
)
from headrace.model.lora.layers import empty_lora_tensors, linear_names, merge_lora
from small_models import small_gpt, small_llama

GPT_SHAPE = small_gpt(width=16, vocab_size=65, num_attention_heads=2)
LLAMA = small_llama(width=16, vocab_size=65)
LORA = LoraConfig(r=3, lora_alpha=6.0, target_modules=("all-linear",))


def tuned_model(config, lora=LORA, *, trained=True):
    model = build_model(config)
    add_lora(model, config, lora)
    init_weights(model, num_layers=config.num_hidden_layers, seed=1)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if trained and name.endswith(".lora_B"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(params=[GPT_SHAPE, LLAMA], ids=["gpt2", "llama"])
def config(request):
    return request.param


def logits(model, ids=None):
    with torch.no_grad():
        return model(torch.arange(24).view(2, 12) % 65 if ids is None else ids)


def test_before_the_first_step_logits_are_those_of_the_base(config):
    model = tuned_model(config, trained=False)
    base = build_model(config)
    base.load_state_dict({n: p for n, p in model.state_dict().items() if not is_lora_name(n)})
    assert torch.equal(logits(model), logits(base))


def test_merged_weights_give_the_logits_of_the_matrices_beside_them(config):
    model = tuned_model(config)
    tensors = {n: p for n, p in model.state_dict().items() if is_lora_name(n)}
    base = build_model(config)
    base.load_state_dict({n: p for n, p in model.state_dict().items() if n not in tensors})
    before = logits(base)
    merge_lora(base, tensors, LORA.scaling)
    torch.testing.assert_close(logits(base), logits(model), atol=1e-5, rtol=1e-5)
    assert (logits(base) - before).abs().max() > 0.01


def test_the_matrices_alone_have_gradients(config):
    model = tuned_model(config)
    model(torch.arange(12)[None]).square().mean().backward()
    with_gradients = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradients == {name for name, _ in model.named_parameters() if is_lora_name(name)}
    assert len(with_gradients) == 2 * len(linear_names(config)) * config.num_hidden_layers


def test_first_values_depend_on_seed_and_name_alone(config):
    whole, same = tuned_model(config, trained=False), tuned_model(config, trained=False)
    values = dict(whole.named_parameters())
    for name, parameter in same.named_parameters():
        assert torch.equal(values[name], parameter)
    first, second = (values[f"blocks.{n}.mlp.up.lora_A"] for n in (0, 1))
    assert not torch.equal(first, second)
    assert first.abs().max() <= 16**-0.5
    assert first.std() > 0.5 * 16**-0.5 / 3**0.5
    assert not values["blocks.0.mlp.up.lora_B"].any()


@pytest.mark.parametrize(
    ("shape", "targets", "expected"),
    [
        (LLAMA, ["q_proj", "v_proj"], ("q_proj", "v_proj")),
        (LLAMA, ["v_proj", "q_proj", "q_proj"], ("q_proj", "v_proj")),
        (LLAMA, ["mlp.up_proj", "self_attn.o_proj"], ("o_proj", "up_proj")),
        (
            LLAMA,
            ["all-linear"],
            ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        ),
        (GPT_SHAPE, ["c_attn"], ("c_attn",)),
        (GPT_SHAPE, ["c_proj"], ("attn.c_proj", "mlp.c_proj")),
        (GPT_SHAPE, ["all-linear"], ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")),
    ],
)
def test_targets_are_named_as_peft_names_them_once_and_in_order(shape, targets, expected):
    assert target_names(shape, targets) == expected


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "proj", "layers.0.q_proj", "q_proj.0", ""])
def test_a_target_that_no_linear_layer_has_is_refused_with_those_there_are(target):
    with pytest.raises(ConfigError, match=r"q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"):
        target_names(LLAMA, [target])


def test_scaling_is_by_the_rank_or_by_its_root():
    assert LORA.scaling == 2.0
    assert dataclasses.replace(LORA, r=4, use_rslora=True).scaling == 3.0


def test_dropout_applies_in_training_and_not_in_evaluation():
    model = tuned_model(LLAMA, dataclasses.replace(LORA, lora_dropout=0.5))
    ids = torch.arange(12)[None]
    model.train()
    assert not torch.equal(model(ids), model(ids))
    assert torch.equal(logits(model, ids), logits(model.eval(), ids))


def test_a_model_without_memory_counts_what_learns():
    model = meta_lora_model(LLAMA, LORA)
    assert all(parameter.is_meta for parameter in model.parameters())
    learns = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert learns == sum(tensor.numel() for tensor in empty_lora_tensors(LLAMA, LORA).values())


@pytest.mark.parametrize("values", [{}, {"r": 2}, {"target_modules": 5}, {"r": 1, "unknown": 1}])
def test_a_recipe_with_another_content_is_told_as_damage(values):
    with pytest.raises(CheckpointError, match=r"run\.json: its lora is no LoRA configuration"):
        LoraConfig.from_json(values, "run.json")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("learns_below", [False, True])
def test_a_step_of_a_layer_has_the_values_and_gradients_of_its_formula(
    *, bias: bool, learns_below: bool
) -> None:
    torch.manual_seed(0)
    layer = LoraLinear(
        torch.nn.Linear(8, 6, bias=bias), LoraConfig(r=2, lora_alpha=6.0, target_modules=("all-linear",))
    )
    torch.nn.init.normal_(layer.lora_A)
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(3, 5, 8, requires_grad=learns_below)
    learn = [layer.lora_A, layer.lora_B, *([x] if learns_below else [])]
    out = layer(x)
    low_rank = layer.scaling * (x @ layer.lora_A.T) @ layer.lora_B.T
    formula = torch.nn.functional.linear(x, layer.weight, layer.bias) + low_rank
    torch.testing.assert_close(out, formula)
    for ours, theirs in zip(
        torch.autograd.grad(out.square().sum(), learn),
        torch.autograd.grad(formula.square().sum(), learn),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
