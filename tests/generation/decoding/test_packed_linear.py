import ctypes

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch knows
from torch import nn

from headrace.generation.decoding import packed_linear
from headrace.generation.decoding.packed_linear import PackedLinear


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(7, 16), (16, 7), (33, 33), (1200, 640)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_layers_own_numbers_for_any_number_of_rows(threads, shape, bias):
    out, inner = shape
    layer = nn.Linear(inner, out, bias=bias)
    packed = PackedLinear.of(layer)
    for count in (1, 2, 5, 70):
        x = torch.randn(count, inner)
        with torch.inference_mode():
            torch.testing.assert_close(packed(x), layer(x), atol=1e-4, rtol=1e-4)


def test_layers_side_by_side_give_their_outputs_side_by_side():
    one, two = nn.Linear(8, 3), nn.Linear(8, 6)
    x, scale = torch.randn(4, 8), torch.rand(8)
    packed = PackedLinear.of(one, two, scale_I=scale)
    with torch.inference_mode():
        expected = torch.cat([one(x * scale), two(x * scale)], dim=1)
        torch.testing.assert_close(packed(x), expected, atol=1e-5, rtol=1e-5)


def test_bfloat16_runs_with_or_without_the_instructions_for_it():
    weight, x = torch.randn(12, 8).bfloat16(), torch.randn(3, 8).bfloat16()
    got = PackedLinear(weight)(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, F.linear(x, weight), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 64), (130, 7), (200, 33)])
def test_the_memory_of_a_packed_weight_is_what_its_layout_says(threads, dtype, shape):
    """C reads it: number by number, whatever this CPU's oneDNN made of it."""
    weight = torch.randn(shape).to(dtype)
    packed = PackedLinear(weight)
    if packed.layout == "unknown":
        pytest.skip("this CPU's layout is not known, so nothing reads it")
    size = weight.element_size()
    width, block = 4 // size if packed.layout == "blocks" else 1, packed.block
    for o, i in ((0, 0), (shape[0] - 1, shape[1] - 1), (shape[0] // 2, 3)):
        place = o // block * packed.stride + (i // width * block + o % block) * width + i % width
        number = (ctypes.c_char * size).from_address(packed.address + place * size)
        assert torch.frombuffer(number, dtype=dtype)[0] == weight[o, i]


def test_a_layout_that_is_not_the_known_one_is_seen():
    weight = torch.randn(70, 8)
    blocks = torch.zeros(2, 8, 64)
    assert not packed_linear._in_blocks(blocks.view(-1), weight, 64)
    blocks[0], blocks[1, :, :6] = weight[:64].t(), weight[64:].t()
    assert packed_linear._in_blocks(blocks.view(-1), weight, 64)
    assert not packed_linear._in_blocks(blocks.view(-1), weight, 32)
    assert not packed_linear._in_blocks(blocks.view(-1)[:-1], weight, 64)
