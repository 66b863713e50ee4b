import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch knows
from torch import nn

from headrace.generate.pack import Packed


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [1, 2, 3, 64])
@pytest.mark.parametrize("shape", [(7, 16), (16, 7), (33, 33), (1200, 640)])
@pytest.mark.parametrize("bias", [True, False])
def test_any_layout_gives_the_layers_own_numbers_for_any_number_of_rows(threads, rows, shape, bias):
    out, inner = shape
    layer = nn.Linear(inner, out, bias=bias)
    packed = Packed.of(layer, rows=rows)
    for count in (1, 2, 5, 70):
        x = torch.randn(count, inner)
        with torch.inference_mode():
            torch.testing.assert_close(packed(x), layer(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 8])
def test_layers_side_by_side_give_their_outputs_side_by_side(rows):
    one, two = nn.Linear(8, 3), nn.Linear(8, 6)
    x, scale = torch.randn(4, 8), torch.rand(8)
    packed = Packed.of(one, two, rows=rows, scale_I=scale)
    with torch.inference_mode():
        wanted = torch.cat([one(x * scale), two(x * scale)], dim=1)
        torch.testing.assert_close(packed(x), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 8])
def test_bfloat16_runs_with_or_without_the_instructions_for_it(rows):
    weight, x = torch.randn(12, 8).bfloat16(), torch.randn(3, 8).bfloat16()
    got = Packed(weight, rows=rows)(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, F.linear(x, weight), atol=0.1, rtol=0.05)
