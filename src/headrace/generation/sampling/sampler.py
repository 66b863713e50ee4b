"""Logits of each row's next token, and each row's sampling options -> token ids and log-probabilities.

Shapes: N rows, V vocabulary, K candidates. Rows are independent: a row's token does not depend on the
options of other rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headrace.generation.options import SamplingOptions
from headrace.generation.sampling.likeliest import likeliest
from headrace.generation.sampling.rng import uniforms

CANDIDATES = 256
"""Sufficient for nearly every top-p; the whole vocabulary is sorted only for rows that need more."""


@dataclass(slots=True, kw_only=True)
class SamplerState:
    """Sampling options and history of one row."""

    sampling: SamplingOptions
    key: int
    """Key of its random stream, see `stream_key`."""
    index: int = 0
    """Tokens generated so far: the next number of the stream."""
    prompt_ids: Sequence[int] = ()
    counts: Counter[int] = field(default_factory=Counter)
    """Tokens generated so far, by id."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One row's next token."""

    token_id: int
    """-1 when the row's logits are not finite."""
    logprob: float | None = None
    """Natural log of its probability before temperature and penalties; None unless requested."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with their log-probabilities, when requested."""


@torch.inference_mode()
def sample(logits_NV: Tensor, rows: Sequence[SamplerState]) -> list[SampledToken]:
    """Choose every row's next token.

    Args:
        logits_NV: any float type; not changed.
        rows: one for each row of logits.
    """
    tokens, finite_N = likeliest(logits_NV)
    penalized = [i for i, row in enumerate(rows) if finite_N[i] and row.sampling.penalized]
    changed = [
        i for i, row in enumerate(rows) if finite_N[i] and (row.sampling.penalized or not row.sampling.greedy)
    ]
    if changed:
        chosen_MV = logits_NV[changed].float()
        row_of = {row: m for m, row in enumerate(changed)}
        for i in penalized:
            _penalize(chosen_MV[row_of[i]], rows[i])
        for i, token in zip(changed, _choose(chosen_MV, [rows[i] for i in changed]), strict=True):
            tokens[i] = token
    scored = [
        i
        for i, row in enumerate(rows)
        if finite_N[i] and (row.sampling.logprobs or row.sampling.top_logprobs)
    ]
    logprobs: dict[int, tuple[float, tuple[tuple[int, float], ...]]] = {}
    if scored:
        logprobs_MV = torch.log_softmax(logits_NV[scored].float(), dim=-1)
        for m, i in enumerate(scored):
            top = _top(logprobs_MV[m], rows[i].sampling.top_logprobs)
            logprobs[i] = (float(logprobs_MV[m, tokens[i]]), top)
    return [
        SampledToken(tokens[i] if finite_N[i] else -1, *logprobs.get(i, (None, ()))) for i in range(len(rows))
    ]


def _top(logprobs_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    values, ids = logprobs_V.topk(min(count, len(logprobs_V)))
    return tuple(zip(ids.tolist(), values.tolist(), strict=True))


def _penalize(logits_V: Tensor, row: SamplerState) -> None:
    sampling = row.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*row.prompt_ids, *row.counts}), dtype=torch.int64, device=logits_V.device)
        was = logits_V[seen]
        rate = sampling.repetition_penalty
        logits_V[seen] = torch.where(was > 0, was / rate, was * rate)
    if row.counts:
        made = torch.tensor(list(row.counts.keys()), dtype=torch.int64, device=logits_V.device)
        times = torch.tensor(list(row.counts.values()), dtype=torch.float32, device=logits_V.device)
        logits_V[made] -= sampling.presence_penalty + sampling.frequency_penalty * times


def _choose(logits_MV: Tensor, rows: Sequence[SamplerState]) -> list[int]:
    tokens = logits_MV.argmax(dim=-1).tolist()
    u_M = torch.from_numpy(uniforms([row.key for row in rows], [row.index for row in rows])).to(
        logits_MV.device
    )
    plain = [m for m, row in enumerate(rows) if not row.sampling.greedy and not row.sampling.truncated]
    cut = [m for m, row in enumerate(rows) if not row.sampling.greedy and row.sampling.truncated]
    for group, choose in ((plain, _choose_plain), (cut, _choose_truncated)):
        if group:
            temperature_M1 = torch.tensor(
                [[rows[m].sampling.temperature] for m in group], device=logits_MV.device
            )
            drawn = choose(logits_MV[group] / temperature_M1, u_M[group], [rows[m].sampling for m in group])
            for m, token in zip(group, drawn, strict=True):
                tokens[m] = token
    return tokens


def _choose_plain(logits_MV: Tensor, u_M: Tensor, _: Sequence[SamplingOptions]) -> list[int]:
    """Inverse of the cumulative distribution, in float64: in float32 the tail of a vocabulary is lost."""
    return _invert(torch.softmax(logits_MV, dim=-1), u_M)


def _choose_truncated(logits_MV: Tensor, u_M: Tensor, rows: Sequence[SamplingOptions]) -> list[int]:
    V = logits_MV.shape[-1]
    num_candidates = min(
        V, max([CANDIDATES, *(row.top_k for row in rows if row.top_k is not None and row.top_k <= V)])
    )
    kept_MK, ids_MK, enough_M = _candidates(logits_MV, rows, num_candidates)
    tokens: list[int] = ids_MK.gather(1, torch.tensor(_invert(kept_MK, u_M), device=u_M.device)[:, None])[
        :, 0
    ].tolist()
    short = [m for m, enough in enumerate(enough_M.tolist()) if not enough]
    if short and num_candidates < V:
        kept_MK, ids_MK, _ = _candidates(logits_MV[short], [rows[m] for m in short], V)
        for m, k in enumerate(_invert(kept_MK, u_M[short])):
            tokens[short[m]] = int(ids_MK[m, k])
    return tokens


def _candidates(
    logits_MV: Tensor, rows: Sequence[SamplingOptions], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (0 where cut) and ids of the most likely tokens, and whether these include all that are kept."""
    M, V = logits_MV.shape
    device = logits_MV.device
    values_MK, ids_MK = logits_MV.topk(count, dim=-1)
    rank_K = torch.arange(count, device=device)
    k_M1 = torch.tensor([[row.top_k or V] for row in rows], device=device)
    p_M1 = torch.tensor([[row.top_p or 1.0] for row in rows], device=device)
    least_M1 = torch.tensor([[row.min_p or 0.0] for row in rows], device=device)
    values_MK = values_MK.masked_fill(rank_K >= k_M1, -torch.inf)
    # Top-k renormalises over the k tokens; without it, probabilities are those over the whole vocabulary.
    total_M1 = torch.where(
        k_M1 < V, values_MK.logsumexp(-1, keepdim=True), logits_MV.logsumexp(-1, keepdim=True)
    )
    p_MK = (values_MK - total_M1).exp()
    before_MK = p_MK.cumsum(-1) - p_MK
    kept_MK = ((before_MK < p_M1) | (rank_K == 0)) & (p_MK >= least_M1 * p_MK[:, :1])
    enough_M = (k_M1 <= count) | (before_MK[:, -1:] >= p_M1) | (p_MK[:, -1:] < least_M1 * p_MK[:, :1])
    return (
        p_MK * kept_MK,
        ids_MK,
        (enough_M[:, 0] if count < V else torch.ones(M, dtype=torch.bool, device=device)),
    )


def _invert(weights_MK: Tensor, u_M: Tensor) -> list[int]:
    """Index at which the cumulative sum passes u times the total; weights of 0 are never chosen."""
    cumulated_MK = weights_MK.double().cumsum(-1)
    target_M1 = u_M[:, None] * cumulated_MK[:, -1:]
    found: list[int] = torch.searchsorted(cumulated_MK, target_M1, right=True)[:, 0].tolist()
    # u just below 1 can round up to the total: then the last weight above 0 is chosen.
    last = (weights_MK > 0).long().mul(torch.arange(1, weights_MK.shape[1] + 1, device=u_M.device)).amax(
        -1
    ) - 1
    return [min(k, end) for k, end in zip(found, last.tolist(), strict=True)]
