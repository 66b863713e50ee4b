"""Products by oneDNN are torch's, their gradients included."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from headrace.model import products
from headrace.model.products import Linear, product


@pytest.fixture(scope="module", autouse=True)
def by_onednn() -> Iterator[None]:
    """As on a CPU where it is taken, whatever this one is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "mkl_is_slow", lambda: True)
        yield


@settings(max_examples=30, deadline=None)
@given(m=st.integers(1, 70), k=st.integers(1, 70), n=st.integers(1, 70), seed=st.integers(0, 99))
def test_a_product_is_torchs_for_any_shape_and_for_transposed_operands(
    *, m: int, k: int, n: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(m, k, generator=generator), torch.randn(k, n, generator=generator)
    want = (a.double() @ b.double()).float()
    torch.testing.assert_close(product(a, b), want, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(product(b.T, a.T), want.T, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12)])
def test_a_layer_and_its_gradients_are_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(12, 9), nn.Linear(12, 9)
    ours.load_state_dict(theirs.state_dict())
    found = []
    for layer in (ours, theirs):
        x = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        found.append([y.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_a_layer_under_bfloat16_products_is_torchs_own() -> None:
    layer, x = Linear(12, 9), torch.randn(3, 12)
    layer.load_state_dict(nn.Linear(12, 9).state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_a_model_without_weights_is_made_without_the_compiler_of_torch() -> None:
    """Torch's own first weights import it where there is no memory: 1.5 s of CPU time before a model answers."""
    script = (
        "import sys\n"
        "from headrace.model import DecoderConfig, GPTConfig\n"
        "from headrace.model.families import empty_model\n"
        "shape = dict(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=32,\n"
        "             max_position_embeddings=8)\n"
        "more = dict(model_type='llama', intermediate_size=32, num_key_value_heads=2, head_dim=8)\n"
        "empty_model(GPTConfig(**shape))\n"
        "empty_model(DecoderConfig(**more, **shape))\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
