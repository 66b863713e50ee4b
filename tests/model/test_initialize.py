"""First weights: each value depends on (seed, name) and its place, however and by whom it is drawn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.model import GPT, GPTConfig
from headrace.model import initialize as module
from headrace.model.initialize import fresh_weight, init_weights

SHAPE = GPTConfig(
    num_hidden_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=257, max_position_embeddings=16
)


def test_values_never_change() -> None:
    """Checkpoints of step 0 and tests of losses rest on them."""
    weight = fresh_weight("blocks.0.attn.qkv.weight", (96, 32), num_layers=2, seed=5)
    assert weight.flatten()[[0, 1, 31, 3071]].tolist() == pytest.approx(GOLDEN, abs=1e-9)
    assert fresh_weight("tok.weight", (3, 4), num_layers=2, seed=5).flatten()[:2].tolist() == pytest.approx(
        GOLDEN_SMALL, abs=1e-9
    )


GOLDEN = [0.0036369822919368744, 0.016512414440512657, -0.009467264637351036, -0.01039887685328722]
GOLDEN_SMALL = [-0.005949235055595636, -0.0066336034797132015]


def test_parameters_drawn_at_once_are_those_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = GPT(SHAPE, seed=3).state_dict()
    monkeypatch.setattr(module, "_PART_ELEMENTS", 1)
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 4)
    at_once = GPT(SHAPE, seed=3).state_dict()
    assert all(torch.equal(at_once[name], one_by_one[name]) for name in one_by_one)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), part=st.integers(1, 200), data=st.data())
def test_a_part_of_a_matrix_has_the_values_of_the_whole(
    rows: int, columns: int, part: int, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    height, width = data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left))
    name = "blocks.1.mlp.up.weight"
    whole = fresh_weight(name, (rows, columns), num_layers=2, seed=9)
    local = torch.empty(height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART_ELEMENTS", part)
        draw = module._normal(name, num_layers=2, seed=9)
        module._fill_part(local, (rows, columns), (height, width), (top, left), draw)
    assert torch.equal(local, whole[top : top + height, left : left + width])


def test_parameters_without_memory_are_left_alone() -> None:
    with torch.device("meta"):
        model = GPT(SHAPE)
    init_weights(model, num_layers=2, seed=0)
    assert all(parameter.is_meta for parameter in model.parameters())
