"""The likeliest token in C is torch's, ties, infinities and NaN included."""

import pytest
import torch

from headrace.generation.sampling.likeliest import likeliest
from headrace.native import use_target


def torchs(logits_NV):
    with use_target("off"):
        return likeliest(logits_NV)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [1, 5, 16, 511, 512, 513, 1500, 2048])
def test_it_is_torchs(native_target, dtype, vocabulary):
    torch.manual_seed(vocabulary)
    random = torch.randn(9, vocabulary)
    tied = torch.randint(-2, 3, (9, vocabulary)).float()  # most rows have their highest logit many times
    zeros = torch.zeros(3, vocabulary)
    zeros[1] = -0.0
    for logits in (random, tied, zeros, -random.abs() - 1e30):
        assert likeliest(logits.to(dtype)) == torchs(logits.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_found_wherever_it_stands(native_target, dtype, value):
    """-inf masks a token; NaN and +inf spoil the row, and no other."""
    for place in (0, 3, 511, 512, 1022, 1023, 1026):
        logits = torch.randn(3, 1027).to(dtype)
        logits[1, place] = value
        ids, finite = likeliest(logits)
        assert finite == [True, value == -torch.inf, True]
        expected, _ = torchs(logits)
        assert [ids[0], ids[2]] == [expected[0], expected[2]]
        assert value != -torch.inf or ids[1] == expected[1]
    ids, finite = likeliest(torch.full((1, 1027), -torch.inf, dtype=dtype))
    assert finite == [False]


def test_rows_need_not_be_contiguous_and_threads_share_them(native_target):
    logits = torch.randn(700, 33).T
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert likeliest(logits) == torchs(logits)
    finally:
        torch.set_num_threads(before)


def test_other_types_are_torchs(native_target):
    logits = torch.randn(4, 50, dtype=torch.float64)
    assert likeliest(logits) == torchs(logits)
