"""Queries, keys and values of one step's tokens -> attention of each token over its own row.

A step is one flat list of tokens of many rows: one token of every row that is being decoded, then the tokens of every
prompt that enters, all of them or those behind a prefix whose keys and values are in the cache. There is no padding,
so the matrix products around attention compute nothing in vain, and the weights are read once for both kinds.

Shapes: N tokens of the step, n of them decoded rows, H query heads, G key/value heads, D head width,
S slots up to the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor

from headrace.model import KVCache


@dataclass(frozen=True, slots=True)
class PromptSpan:
    """Tokens of one entering prompt: [start, stop) of a step's tokens, behind some that are in the cache."""

    start: int
    stop: int
    slot: int
    cached: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """The tokens of a step, and the row and position of each."""

    ids_N: Tensor
    """int64"""
    position_N: Tensor
    """int64; of each token in its row"""
    slot_N: Tensor
    """int64; row of the cache; decoded rows are 0 to n - 1, in this order"""
    decoded: int
    """n: the first n tokens are one new token of each row that is being decoded."""
    prompts: tuple[PromptSpan, ...]
    """Of each entering prompt, all tokens that are not in the cache."""
    seen: int
    """S: slots up to the longest decoded row, after this step."""
    ragged: bool
    """Whether decoded rows differ in length."""
    keep_K: Tensor
    """int64; tokens whose next-token logits are requested"""
    keeps_all: bool
    """Whether those of every token are."""
    only_token: tuple[int, int] | None
    """Slot and position of the token, where the step has only one."""
    masks: dict[int | None, Tensor | None]
    """By window; made once a step for all layers with that window."""
    prompt_masks: dict[tuple[int, int, int | None], Tensor]
    """By tokens, tokens in the cache, and window: of prompts with a prefix in the cache."""


def plan_step(
    decoded: Sequence[tuple[int, int]],
    prompts: Sequence[tuple[int, Sequence[int], bool]],
    *,
    cached: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> StepPlan:
    """Lay out a step.

    Args:
        decoded: (last token id, tokens in the row before it) of slots 0, 1, ...
        prompts: (slot, token ids, whether logits of every token are requested) of rows that enter.
        cached: of each prompt, tokens before these ids whose keys and values are in the row's slot; default none.
        device: where the model is.
    """
    ids = [token for token, _ in decoded]
    positions = [length for _, length in decoded]
    slots = list(range(len(decoded)))
    keep = list(range(len(decoded)))
    spans = []
    for (slot, tokens, every), before in zip(prompts, cached or [0] * len(prompts), strict=True):
        start = len(ids)
        ids.extend(tokens)
        positions.extend(range(before, before + len(tokens)))
        slots.extend([slot] * len(tokens))
        keep.extend(range(start, len(ids)) if every else [len(ids) - 1])
        spans.append(PromptSpan(start, len(ids), slot, before))
    lengths = [length for _, length in decoded]
    packed = torch.tensor([ids, positions, slots], dtype=torch.int64).to(device)
    return StepPlan(
        ids_N=packed[0],
        position_N=packed[1],
        slot_N=packed[2],
        decoded=len(decoded),
        prompts=tuple(spans),
        seen=max(lengths, default=0) + 1,
        ragged=len(set(lengths)) > 1,
        keep_K=torch.tensor(keep, dtype=torch.int64, device=device),
        keeps_all=len(keep) == len(ids),
        only_token=(slots[0], positions[0]) if len(ids) == 1 else None,
        masks={},
        prompt_masks={},
    )


def attend(
    kv: KVCache,
    step: StepPlan,
    layer: int,
    q_NHD: Tensor,
    k_NGD: Tensor,
    v_NGD: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Store the step's keys and values, and attend: [N, H, D].

    Args:
        kv: the cache.
        step: whose tokens these are.
        layer: in [0, L).
        q_NHD: queries.
        k_NGD: keys; G divides H (grouped queries).
        v_NGD: values.
        scale: of the products; default 1/sqrt(D).
        window: attend to this many tokens only, the token itself included; None: to all.
        softcap: scores become softcap * tanh(score / softcap), as in Gemma 2.
    """
    k_BGSD, v_BGSD = kv.layers[layer]
    if step.only_token is None:
        k_BGSD[step.slot_N, :, step.position_N] = k_NGD
        v_BGSD[step.slot_N, :, step.position_N] = v_NGD
    else:
        slot, position = step.only_token
        k_BGSD.select(0, slot).select(1, position).copy_(k_NGD[0])
        v_BGSD.select(0, slot).select(1, position).copy_(v_NGD[0])
    N, H, D = q_NHD.shape
    G, n = k_NGD.shape[1], step.decoded
    product = F.scaled_dot_product_attention if softcap is None else partial(_capped, softcap=softcap)
    if n:
        # The query heads of a key head take the place of tokens: grouped queries need no copy of the keys.
        out_nHD = product(
            q_NHD[:n].reshape(n, G, H // G, D),
            k_BGSD[:n].narrow(2, 0, step.seen),
            v_BGSD[:n].narrow(2, 0, step.seen),
            attn_mask=_decode_mask(step, window, q_NHD.dtype),
            scale=scale,
        ).reshape(n, H, D)
        if n == N:
            return out_nHD
    out_NHD = q_NHD.new_empty(N, H, D)
    if n:
        out_NHD[:n] = out_nHD
    attend_prompts(kv, step, layer, q_NHD, k_NGD, v_NGD, out_NHD, scale=scale, window=window, softcap=softcap)
    return out_NHD


def attend_prompts(
    kv: KVCache,
    step: StepPlan,
    layer: int,
    q_NHD: Tensor,
    k_NGD: Tensor,
    v_NGD: Tensor,
    out_NHD: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> None:
    """Attention of the tokens of the entering prompts, written to `out_NHD`; arguments as for `attend`.

    The step's keys and values are in the cache.
    """
    k_BGSD, v_BGSD = kv.layers[layer]
    H, G = q_NHD.shape[1], k_NGD.shape[1]
    product = F.scaled_dot_product_attention if softcap is None else partial(_capped, softcap=softcap)
    for span in step.prompts:
        tokens = slice(span.start, span.stop)
        T = span.stop - span.start
        if span.cached:
            k_GSD, v_GSD = (x[span.slot].narrow(1, 0, span.cached + T) for x in (k_BGSD, v_BGSD))
            mask: Tensor | None = _prompt_mask(step, T, span.cached, window)
        else:
            k_GSD, v_GSD = k_NGD[tokens].transpose(0, 1), v_NGD[tokens].transpose(0, 1)
            mask = _band(T, window, q_NHD.device) if window is not None and window < T else None
        out = product(
            q_NHD[tokens].transpose(0, 1)[None],
            k_GSD[None],
            v_GSD[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=G != H,
        )
        out_NHD[tokens] = out[0].transpose(0, 1)


def _capped(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    *,
    softcap: float,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` with a cap on the scores, which torch's does not have."""
    if enable_gqa:
        each = q_BHTD.shape[1] // k_BGSD.shape[1]
        k_BGSD, v_BGSD = (x.repeat_interleave(each, dim=1) for x in (k_BGSD, v_BGSD))
    scores_BHTS = q_BHTD @ k_BGSD.transpose(-1, -2) * (scale or q_BHTD.shape[-1] ** -0.5)
    scores_BHTS = softcap * torch.tanh(scores_BHTS / softcap)
    if is_causal:
        attn_mask = _band(q_BHTD.shape[2], q_BHTD.shape[2], q_BHTD.device)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores_BHTS = scores_BHTS.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores_BHTS = scores_BHTS + attn_mask
    return torch.softmax(scores_BHTS.float(), dim=-1).to(v_BGSD.dtype) @ v_BGSD


def _decode_mask(step: StepPlan, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """Additive mask [n, 1, 1, S]: -inf for slots after a row's token or before its window."""
    if window is not None and window >= step.seen:
        window = None
    if window not in step.masks:
        position_n1 = step.position_N[: step.decoded, None]
        slot_S = torch.arange(step.seen, device=step.position_N.device)
        hidden_nS = slot_S > position_n1
        if window is not None:
            hidden_nS |= slot_S <= position_n1 - window
        elif not step.ragged:
            step.masks[window] = None
            return None
        zeros_nS = torch.zeros(hidden_nS.shape, dtype=dtype, device=hidden_nS.device)
        step.masks[window] = zeros_nS.masked_fill_(hidden_nS, -torch.inf)[:, None, None]
    return step.masks[window]


def _prompt_mask(step: StepPlan, num_tokens: int, cached: int, window: int | None) -> Tensor:
    """Bool mask [T, S] of tokens behind a prefix: the slots that each attends to."""
    key = num_tokens, cached, window
    if key not in step.prompt_masks:
        stop = cached + num_tokens
        position_T1 = torch.arange(cached, stop, device=step.position_N.device)[:, None]
        slot_S = torch.arange(stop, device=step.position_N.device)
        seen_TS = slot_S <= position_T1
        if window is not None:
            seen_TS &= slot_S > position_T1 - window
        step.prompt_masks[key] = seen_TS
    return step.prompt_masks[key]


def _band(num_tokens: int, window: int, device: torch.device) -> Tensor:
    query_T1, key_T = (
        torch.arange(num_tokens, device=device)[:, None],
        torch.arange(num_tokens, device=device),
    )
    return (key_T <= query_T1) & (key_T > query_T1 - window)
