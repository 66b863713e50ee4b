"""The chunked loss is torch's cross-entropy, its gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.model import loss as module
from headrace.model.loss import linear_cross_entropy


def both(rows: int, vocab: int, dtype: torch.dtype, ignored: float, seed: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, rows, 8, generator=generator) * 3
    table = torch.randn(vocab, 8, generator=generator)
    labels = torch.randint(0, vocab, (2, rows), generator=generator)
    labels[torch.rand(2, rows, generator=generator) < ignored] = -100
    found = []
    for ours in (True, False):
        x_leaf, table_leaf = x.clone().requires_grad_(), table.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            if ours:
                loss = linear_cross_entropy(x_leaf, table_leaf, labels)
            else:
                logits = F.linear(x_leaf, table_leaf).flatten(0, 1).float()
                loss = F.cross_entropy(logits, labels.flatten(), reduction="sum")
        (loss * 0.5).backward()
        found.append([loss.detach(), x_leaf.grad, table_leaf.grad])
    return found


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9), vocab=st.integers(2, 50), at_once=st.integers(1, 300), in_cache=st.integers(1, 300),
    ignored=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_loss_and_gradients_equal_torchs_for_any_chunk(
    *, rows: int, vocab: int, at_once: int, in_cache: int, ignored: float, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module._LOGITS_AT_ONCE, "cpu", at_once)
        patch.setitem(module._LOGITS_IN_CACHE, "cpu", in_cache)
        ours, theirs = both(rows, vocab, torch.float32, ignored, seed)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


def test_under_bfloat16_products_it_stays_within_their_rounding() -> None:
    ours, theirs = both(20, 40, torch.bfloat16, 0.2, 0)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-3, rtol=1e-5)
    for got, want in zip(ours[1:], theirs[1:], strict=True):
        assert (got - want).norm() < 0.01 * want.norm()


def test_logits_too_large_for_exp_give_a_finite_loss() -> None:
    x, table = torch.full((1, 1, 1), 500.0), torch.tensor([[1.0], [-1.0]])
    assert linear_cross_entropy(x, table, torch.tensor([[1]])).item() == pytest.approx(1000.0)


def test_a_second_backward_is_refused_not_scaled_twice() -> None:
    x = torch.randn(1, 3, 4, requires_grad=True)
    loss = linear_cross_entropy(x, torch.randn(5, 4), torch.tensor([[0, 1, 2]]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        (2 * loss).backward()
