import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ConfigError
from headrace.model import GPT, GPTConfig
from headrace.model.kv import KVCache


@pytest.fixture(scope="module", params=[False, True], ids=["dense", "banded"])
def model(request):
    config = GPTConfig(
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        vocab_size=50,
        max_position_embeddings=24,
        banded=request.param,
        band_width=3,
    )
    return GPT(config, seed=2).eval()


def cache_of(model, num_rows, capacity=24):
    config = model.config
    return KVCache(
        num_layers=config.num_hidden_layers,
        num_rows=num_rows,
        num_heads=config.num_attention_heads,
        capacity=capacity,
        head_dim=config.head_dim,
    )


@settings(deadline=None, max_examples=40)
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_logits_with_a_cache_equal_those_without_however_the_tokens_are_cut(model, chunks):
    ids = torch.randint(0, 50, (3, sum(chunks)), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = model(ids)
        kv, got, at = cache_of(model, 3), [], 0
        for chunk in chunks:
            got.append(model(ids[:, at : at + chunk], kv=kv))
            kv.advance(chunk)
            at += chunk
    torch.testing.assert_close(torch.cat(got, dim=1), wanted, atol=2e-5, rtol=1e-4)


def test_rows_of_different_length_padded_on_the_right_are_as_alone(model):
    """Padding is stored, then overwritten: no row sees it."""
    rng = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 50, (length,), generator=rng) for length in (7, 2, 5)]
    more = torch.randint(0, 50, (3, 4), generator=rng)
    padded = torch.zeros(3, 7, dtype=torch.int64)
    for r, row in enumerate(rows):
        padded[r, : len(row)] = row
    with torch.inference_mode():
        kv = cache_of(model, 3)
        model(padded, kv=kv)
        kv.advance([7, 2, 5])
        for t in range(4):
            got = model(more[:, t : t + 1], kv=kv, last_only=True)
            kv.advance(1)
            for r, row in enumerate(rows):
                alone = model(torch.cat([row, more[r, : t + 1]])[None], last_only=True)
                torch.testing.assert_close(got[r], alone[0], atol=2e-5, rtol=1e-4)
    assert kv.lengths == (11, 6, 9)


def test_a_cache_that_is_full_says_so():
    kv = KVCache(num_layers=1, num_rows=1, num_heads=1, capacity=3, head_dim=1)
    kv.extend(0, torch.ones(1, 1, 3, 1), torch.ones(1, 1, 3, 1))
    kv.advance(3)
    with pytest.raises(ConfigError, match="a row of 3 tokens and 1 more; the cache holds 3"):
        kv.extend(0, torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))


def test_a_truncated_cache_is_as_if_the_tokens_had_not_been(model):
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        kv = cache_of(model, 1)
        model(ids, kv=kv)
        kv.advance(10)
        kv.truncate(4)
        got = model(ids[:, 4:6], kv=kv)
        wanted = model(ids[:, :6])[:, 4:]
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)


def test_memory_is_taken_once_and_returned_keys_are_views_of_it():
    kv = KVCache(num_layers=2, num_rows=2, num_heads=3, capacity=8, head_dim=4)
    assert kv.nbytes == 2 * 2 * 2 * 3 * 8 * 4 * 4
    k, v, mask = kv.extend(1, torch.ones(2, 3, 5, 4), torch.ones(2, 3, 5, 4))
    assert mask is None
    assert k.data_ptr() == kv.k_LBHSD[1].data_ptr()
    assert v.data_ptr() == kv.v_LBHSD[1].data_ptr()


def test_a_resized_cache_keeps_its_tokens():
    kv = KVCache(num_layers=1, num_rows=3, num_heads=1, capacity=4, head_dim=1)
    kv.layers[0][0][0, 0, 0] = 1.0
    kv.layers[0][0][1, 0, 1] = 2.0
    other = kv.resized(num_rows=2, capacity=9, keep_rows=2, keep_tokens=2)
    assert (other.num_rows, other.capacity) == (2, 9)
    assert other.k_LBHSD[0, 0, 0, :2, 0].tolist() == [1.0, 0.0]
    assert other.k_LBHSD[0, 1, 0, :2, 0].tolist() == [0.0, 2.0]
    other.move(1, 0, length=2)
    assert other.k_LBHSD[0, 0, 0, :2, 0].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("counts", [[1], [1, -1], [1, 1, 1]])
def test_counts_that_do_not_fit_the_rows_are_refused(counts):
    kv = KVCache(num_layers=1, num_rows=2, num_heads=1, capacity=4, head_dim=1)
    with pytest.raises(ConfigError, match="2 rows"):
        kv.advance(counts)


def test_a_cache_without_rows_is_refused():
    with pytest.raises(ConfigError, match="each must be >= 1"):
        KVCache(num_layers=1, num_rows=0, num_heads=1, capacity=4, head_dim=1)
