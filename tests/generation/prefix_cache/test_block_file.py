import pytest
import torch

from headrace.generation.prefix_cache.block_file import BlockDamagedError, decode_block, encode_block

SHAPE = (2, 1, 2, 3, 4)
HEADER = {"key": "00ff", "model": "m", "dtype": "float32", "shape": list(SHAPE)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_block_comes_back_bit_for_bit(dtype):
    block = torch.randn(SHAPE).to(dtype)
    got = decode_block(encode_block(block, HEADER), HEADER, dtype=dtype, shape=SHAPE)
    assert got.dtype == dtype
    assert torch.equal(got, block)


def test_every_flipped_bit_and_every_cut_is_detected():
    content = encode_block(torch.randn(SHAPE), HEADER)
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        for bad in (bytes(damaged), content[:at]):
            with pytest.raises(BlockDamagedError):
                decode_block(bad, HEADER, dtype=torch.float32, shape=SHAPE)


@pytest.mark.parametrize("field", ["key", "model", "dtype"])
def test_a_whole_block_of_another_name_or_model_is_refused(field):
    content = encode_block(torch.randn(SHAPE), HEADER | {field: "xx"})
    with pytest.raises(BlockDamagedError, match="its header is"):
        decode_block(content, HEADER, dtype=torch.float32, shape=SHAPE)
