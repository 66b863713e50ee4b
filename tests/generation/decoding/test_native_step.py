"""Products of many rows in C: those of the weights in float64, for any sizes, and each row for itself."""

import ctypes

import pytest
import torch

from headrace.generation.decoding.packed_linear import PackedLinear
from headrace.native import LinearStruct, NativeUnavailableError, available_targets, load_decoder, use_target

BFLOAT16_BLOCKS = 2


@pytest.fixture(params=["avx2", "avx512"])
def module(request):
    if request.param not in available_targets():
        pytest.skip(f"{request.param}: not built, or not on this processor")
    with use_target(request.param):
        try:
            yield load_decoder()
        except NativeUnavailableError as error:
            pytest.skip(str(error))


def product_of(module, linear, x_NI, *, threads=1):
    if linear.layout != "blocks":
        pytest.skip("oneDNN has no blocks of bfloat16 on this processor")
    bias = None if linear.bias is None else linear.bias.float().contiguous()
    struct = LinearStruct(
        weight=linear.address, bias=None if bias is None else bias.data_ptr(), outs=linear.outs, ins=linear.ins,
        block=linear.block, stride=linear.stride,
    )  # fmt: skip
    out_NO = torch.full((len(x_NI), linear.outs), torch.nan)
    module.product_rows(
        BFLOAT16_BLOCKS, threads, ctypes.addressof(struct), x_NI.data_ptr(), out_NO.data_ptr(), len(x_NI)
    )
    return out_NO


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 13, 64, 203])
@pytest.mark.parametrize(
    ("outs", "ins", "biased"), [(96, 48, False), (101, 33, True), (48, 7, True), (1100, 5, False)]
)
def test_it_is_the_product_of_the_weights(module, outs, ins, biased, rows):
    torch.manual_seed(outs * ins)
    weight_OI = torch.randn(outs, ins).bfloat16()
    bias_O = torch.randn(outs).bfloat16() if biased else None
    x_NI = torch.randn(rows, ins)
    got = product_of(module, PackedLinear(weight_OI, bias_O), x_NI)
    expected = x_NI.double() @ weight_OI.double().T + (0 if bias_O is None else bias_O.double())
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-5)


def test_a_row_depends_neither_on_the_others_nor_on_the_threads(module):
    torch.manual_seed(5)
    linear = PackedLinear(torch.randn(101, 33).bfloat16())
    x_NI = torch.randn(203, 33)
    together = product_of(module, linear, x_NI)
    for threads in (2, 3):
        assert torch.equal(product_of(module, linear, x_NI, threads=threads), together)
    for row in (0, 7, 100, 202):
        assert torch.equal(product_of(module, linear, x_NI[row : row + 1].contiguous())[0], together[row])
    x_NI[9] = torch.nan
    spoiled = product_of(module, linear, x_NI)
    assert spoiled[9].isnan().all()
    assert torch.equal(spoiled[10:], together[10:])


def test_instruction_sets_give_the_same_bits(module):
    torch.manual_seed(6)
    linear = PackedLinear(torch.randn(101, 33).bfloat16())
    x_NI = torch.randn(21, 33)
    here = product_of(module, linear, x_NI)
    with use_target("avx2"):
        assert torch.equal(product_of(load_decoder(), linear, x_NI), here)
