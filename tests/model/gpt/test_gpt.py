"""GPT: equal to the references, causal, banded where asked, and initialised by name."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.errors import ConfigError
from headrace.model.gpt.gpt import GPT, GPTConfig

SMALL = GPTConfig(
    num_hidden_layers=4, hidden_size=32, num_attention_heads=4, vocab_size=61, max_position_embeddings=24
)


def shaken(config: GPTConfig, seed: int = 3) -> GPT:
    """A model whose every weight and bias matters (fresh ones have zero biases and tiny weights)."""
    model = GPT(config, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def ids_for(config: GPTConfig, rows: int = 3, tokens: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randint(
        0, config.vocab_size, (rows, tokens or config.max_position_embeddings), generator=generator
    )


def split_qkv(model: GPT, layer: int) -> list[tuple[Tensor, Tensor]]:
    """Our rows (head, q/k/v, channel) -> [(weight, bias)] of q, k and v, each with rows (head, channel)."""
    config, qkv = model.config, model.blocks[layer].attn.qkv
    weight = qkv.weight.view(config.num_attention_heads, 3, config.head_dim, config.hidden_size)
    bias = qkv.bias.view(config.num_attention_heads, 3, config.head_dim)
    return [
        (weight[:, i].reshape(config.hidden_size, config.hidden_size), bias[:, i].reshape(-1))
        for i in range(3)
    ]


@torch.no_grad()
def test_logits_equal_gpt2_with_the_same_weights() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = shaken(SMALL)
    theirs = GPT2LMHeadModel(
        GPT2Config(
            n_layer=4,
            n_embd=32,
            n_head=4,
            vocab_size=61,
            n_positions=24,
            attn_pdrop=0,
            embd_pdrop=0,
            resid_pdrop=0,
        )
    ).eval()
    theirs.transformer.wte.weight.copy_(model.tok.weight)
    theirs.transformer.wpe.weight.copy_(model.pos.weight)
    theirs.transformer.ln_f.load_state_dict(model.norm.state_dict())
    for layer, (ours, block) in enumerate(zip(model.blocks, theirs.transformer.h, strict=True)):
        block.ln_1.load_state_dict(ours.norm1.state_dict())
        block.ln_2.load_state_dict(ours.norm2.state_dict())
        parts = split_qkv(model, layer)
        block.attn.c_attn.weight.copy_(torch.cat([weight for weight, _ in parts]).T)
        block.attn.c_attn.bias.copy_(torch.cat([bias for _, bias in parts]))
        for conv, linear in (
            (block.attn.c_proj, ours.attn.out), (block.mlp.c_fc, ours.mlp.up),
            (block.mlp.c_proj, ours.mlp.down),
        ):  # fmt: skip
            conv.weight.copy_(linear.weight.T)
            conv.bias.copy_(linear.bias)
    ids = ids_for(SMALL)
    torch.testing.assert_close(model(ids), theirs(ids).logits, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_banded_logits_equal_gpt_neos_attention_pattern() -> None:
    """GPT-Neo has no 1/sqrt(d) and no q/k/v bias: its queries are ours times 1/sqrt(d), our biases zero."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = dataclasses.replace(SMALL, banded=True, band_width=5)
    model = shaken(config)
    for block in model.blocks:
        block.attn.qkv.bias.zero_()
    theirs = GPTNeoForCausalLM(
        GPTNeoConfig(
            num_layers=4, hidden_size=32, num_heads=4, vocab_size=61, max_position_embeddings=24,
            window_size=5, attention_types=[[["global", "local"], 2]], attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    theirs.transformer.wte.weight.copy_(model.tok.weight)
    theirs.transformer.wpe.weight.copy_(model.pos.weight)
    theirs.transformer.ln_f.load_state_dict(model.norm.state_dict())
    for layer, (ours, block) in enumerate(zip(model.blocks, theirs.transformer.h, strict=True)):
        block.ln_1.load_state_dict(ours.norm1.state_dict())
        block.ln_2.load_state_dict(ours.norm2.state_dict())
        (q, _), (k, _), (v, _) = split_qkv(model, layer)
        block.attn.attention.q_proj.weight.copy_(q / math.sqrt(config.head_dim))
        block.attn.attention.k_proj.weight.copy_(k)
        block.attn.attention.v_proj.weight.copy_(v)
        block.attn.attention.out_proj.load_state_dict(ours.attn.out.state_dict())
        block.mlp.c_fc.load_state_dict(ours.mlp.up.state_dict())
        block.mlp.c_proj.load_state_dict(ours.mlp.down.state_dict())
    ids = ids_for(config)
    torch.testing.assert_close(model(ids), theirs(ids).logits, atol=2e-5, rtol=1e-5)
    dense = GPT(dataclasses.replace(config, banded=False)).eval()
    dense.load_state_dict(model.state_dict())
    assert not torch.allclose(model(ids), dense(ids), atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(changed=st.integers(0, 23), banded=st.booleans())
def test_a_token_changes_no_earlier_logits(changed: int, banded: bool) -> None:
    config = dataclasses.replace(SMALL, banded=banded, band_width=4)
    model, ids = shaken(config), ids_for(config, rows=1)
    other = ids.clone()
    other[0, changed] = (other[0, changed] + 1) % config.vocab_size
    with torch.no_grad():
        before, after = model(ids), model(other)
    torch.testing.assert_close(before[:, :changed], after[:, :changed], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, changed], after[:, changed])


def test_documents_in_one_row_do_not_see_each_other() -> None:
    model = shaken(SMALL)
    first, second = ids_for(SMALL, 1, 10), ids_for(SMALL, 1, 7).flip(1)
    both = model(
        torch.cat([first, second], 1),
        positions_BT=torch.cat([torch.arange(10), torch.arange(7)])[None],
        documents_BT=torch.tensor([[0] * 10 + [1] * 7]),
    )
    torch.testing.assert_close(both[:, :10], model(first), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[:, 10:], model(second), atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_sum_over_counted_labels() -> None:
    model, ids = shaken(SMALL), ids_for(SMALL)
    labels = ids.roll(-1, 1)
    labels[:, -3:] = -100
    logits = model(ids)
    want = -logits.log_softmax(-1)[:, :-3].gather(2, labels[:, :-3, None]).sum()
    torch.testing.assert_close(model(ids, labels_BT=labels), want)


def test_the_last_logits_alone_equal_the_last_of_all() -> None:
    model, ids = shaken(SMALL), ids_for(SMALL)
    torch.testing.assert_close(model(ids, last_only=True), model(ids)[:, -1:])


def test_a_fresh_model_is_as_unsure_as_its_vocabulary_is_large() -> None:
    model = GPT(dataclasses.replace(SMALL, vocab_size=1000))
    ids = torch.randint(0, 1000, (8, 25), generator=torch.Generator().manual_seed(0))
    loss = model(ids[:, :-1], labels_BT=ids[:, 1:]) / ids[:, 1:].numel()
    assert loss.item() == pytest.approx(math.log(1000), abs=0.05)


def test_residual_layers_start_smaller_with_depth() -> None:
    model = GPT(
        GPTConfig(
            num_hidden_layers=8,
            hidden_size=128,
            num_attention_heads=2,
            vocab_size=64,
            max_position_embeddings=8,
        )
    )
    block = model.blocks[3]
    assert block.mlp.up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)  # sqrt(2 * 8) = 4
    assert block.attn.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert not block.attn.qkv.bias.any()
    assert (block.norm1.weight == 1).all()


def test_initial_weights_depend_on_seed_and_name_and_not_on_order() -> None:
    torch.manual_seed(1)
    a = GPT(SMALL, seed=5).state_dict()
    torch.manual_seed(2)
    b = GPT(SMALL, seed=5).state_dict()
    c = GPT(SMALL, seed=6).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["tok.weight"], c["tok.weight"])
    assert not torch.equal(a["blocks.0.mlp.up.weight"], a["blocks.1.mlp.up.weight"])


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ConfigError, match="25 tokens given, it has 24 positions"):
        GPT(SMALL)(ids_for(SMALL, tokens=25))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("num_attention_heads", 5, "not divisible"), ("num_hidden_layers", 0, "at least 1")],
)
def test_an_impossible_shape_is_refused(field: str, value: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(SMALL, **{field: value})
