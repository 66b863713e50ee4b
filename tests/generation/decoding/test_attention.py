import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.generation.decoding.attention import PromptSpan, attend, plan_step
from headrace.model.kv import KVCache


def by_hand(q_THD, k_TGD, v_TGD, *, window, scale):
    """Attention of one whole row by its definition."""
    T, H, D = q_THD.shape
    k_THD, v_THD = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (k_TGD, v_TGD))
    scores_HTT = torch.einsum("thd,shd->hts", q_THD, k_THD) * (scale or D**-0.5)
    t, s = torch.arange(T)[:, None], torch.arange(T)
    seen = (s <= t) if window is None else (s <= t) & (s > t - window)
    return torch.einsum("hts,shd->thd", scores_HTT.masked_fill(~seen, -torch.inf).softmax(-1), v_THD)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=5),
    groups=st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    window=st.sampled_from([None, 1, 3, 100]),
    scale=st.sampled_from([None, 0.3]),
)
def test_prompts_and_decoded_tokens_attend_as_whole_rows_would(lengths, groups, window, scale):
    """Rows enter one after the other, some as the others are decoded already."""
    H, G = groups
    rng = torch.Generator().manual_seed(0)
    rows = [
        [torch.randn(prompt + more, heads, 8, generator=rng) for heads in (H, G, G)]
        for prompt, more in lengths
    ]
    kv = KVCache(num_layers=2, num_rows=len(rows), num_heads=G, capacity=16, head_dim=8)
    expected = [by_hand(*row, window=window, scale=scale) for row in rows]
    # Longest first, so that rows that end early leave the slots at the end.
    order = sorted(range(len(rows)), key=lambda r: -lengths[r][1])
    got = {r: [] for r in range(len(rows))}
    for turn in range(6):
        decoding = [r for r in order if turn > 0 and lengths[r][1] >= turn]
        decoded = [(0, lengths[r][0] + turn - 1) for r in decoding]
        prompts = [(slot, [0] * lengths[r][0], False) for slot, r in enumerate(order)] if turn == 0 else []
        if not decoded and not prompts:
            continue
        step = plan_step(decoded, prompts)
        spans = (
            [(r, slice(0, lengths[r][0])) for r in order]
            if turn == 0
            else [(r, slice(lengths[r][0] + turn - 1, lengths[r][0] + turn)) for r in decoding]
        )
        q, k, v = (torch.cat([rows[r][i][span] for r, span in spans]) for i in range(3))
        out = attend(kv, step, 1, q, k, v, window=window, scale=scale)
        at = 0
        for r, span in spans:
            got[r].append(out[at : at + span.stop - span.start])
            at += span.stop - span.start
    for r in range(len(rows)):
        torch.testing.assert_close(torch.cat(got[r]), expected[r], atol=1e-5, rtol=1e-4)


def test_a_step_with_prompts_and_decoded_rows_keeps_them_apart():
    step = plan_step([(7, 3), (8, 5)], [(2, [1, 2, 3], False), (3, [4, 5], True)])
    assert step.ids_N.tolist() == [7, 8, 1, 2, 3, 4, 5]
    assert step.position_N.tolist() == [3, 5, 0, 1, 2, 0, 1]
    assert step.slot_N.tolist() == [0, 1, 2, 2, 2, 3, 3]
    assert step.prompts == (PromptSpan(2, 5, 2, 0), PromptSpan(5, 7, 3, 0))
    assert step.keep_K.tolist() == [0, 1, 4, 5, 6]
    assert (step.decoded, step.seen, step.ragged) == (2, 6, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_an_earlier_row_left_in_the_cache_is_not_seen(dtype):
    kv = KVCache(num_layers=1, num_rows=2, num_heads=1, capacity=8, head_dim=4, dtype=dtype)
    kv.k_LBHSD.fill_(100.0)
    kv.v_LBHSD.fill_(100.0)
    q = torch.ones(2, 1, 4, dtype=dtype)
    step = plan_step([(0, 0), (0, 2)], [])
    for cached in kv.layers[0]:
        cached[1, :, :2] = 0.0
    out = attend(kv, step, 0, q, q, q)
    torch.testing.assert_close(out[0], torch.ones(1, 4, dtype=dtype))
    assert float(out[1].max()) <= 1.0


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 5)), min_size=1, max_size=4),
    groups=st.sampled_from([(4, 4), (4, 2)]),
    window=st.sampled_from([None, 1, 3, 100]),
    softcap=st.sampled_from([None, 1e6]),
)
def test_prompts_behind_a_prefix_in_the_cache_attend_as_whole_rows_would(lengths, groups, window, softcap):
    """Several rows with prefixes of other lengths, or none, in one step."""
    H, G = groups
    rng = torch.Generator().manual_seed(0)
    rows = [
        [torch.randn(before + new, heads, 8, generator=rng) for heads in (H, G, G)] for before, new in lengths
    ]
    kv = KVCache(num_layers=2, num_rows=len(rows), num_heads=G, capacity=16, head_dim=8)
    for slot, (before, _) in enumerate(lengths):
        kv.k_LBHSD[1, slot, :, :before] = rows[slot][1][:before].transpose(0, 1)
        kv.v_LBHSD[1, slot, :, :before] = rows[slot][2][:before].transpose(0, 1)
    step = plan_step(
        [],
        [(slot, [0] * new, False) for slot, (_, new) in enumerate(lengths)],
        cached=[before for before, _ in lengths],
    )
    news = [[part[before:] for part in row] for row, (before, _) in zip(rows, lengths, strict=True)]
    q, k, v = (torch.cat([row[i] for row in news]) for i in range(3))
    out = attend(kv, step, 1, q, k, v, window=window, softcap=softcap)
    expected = [
        by_hand(*row, window=window, scale=None)[before:]
        for row, (before, _) in zip(rows, lengths, strict=True)
    ]
    torch.testing.assert_close(out, torch.cat(expected), atol=1e-4, rtol=1e-3)
