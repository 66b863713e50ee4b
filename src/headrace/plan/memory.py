"""Set-ups -> bytes of device memory at the fullest rank, by part.

State per weight: AdamW in mixed precision keeps 2 (weight) + 2 or 4 (gradient) + 12 (float32 weight and two moments)
bytes; ZeRO shares the last, the last two or all three over its ranks. Activations per layer and micro-batch, in bytes:
tokens x width x (32 + 5 a s / h) without flash attention, 32 with it (Korthikanti et al. count 34: without dropout's
masks 32, of which 16 are the feed-forward layer's and 4 keys and values), shared by tensor parallelism where sequence
parallelism is on, 2 with full recomputation, which holds all of one layer again. The first stage of 1F1B holds p
micro-batches at once. Logits are kept in bfloat16 and in float32, and their gradient in float32: 10 bytes each.

Sources: Rajbhandari et al. 2020 (ZeRO); Korthikanti et al. 2022, equations 1 to 6; Narayanan et al. 2021 (1F1B).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.plan.points import Column, Points

CONSTANTS: Final = (
    # name, start, standard deviation of its logarithm between systems
    ("gradient_bytes", 4.0, 0.1),
    ("activation_factor", 1.0, 0.12),
    ("logits_bytes", 10.0, 0.3),
    ("fixed_bytes", 1.6e9, 0.4),
)
"""Constants of a system's memory; calibration fits their logarithms."""

NAMES: Final = tuple(name for name, _, _ in CONSTANTS)
START: Final = np.array([start for _, start, _ in CONSTANTS])
SPREAD: Final = np.array([spread for _, _, spread in CONSTANTS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes at the fullest rank (or the first stage's, where `first_stage`), by part; arrays [N] of sum `total`."""

    weights: Column
    gradients: Column
    optimizer: Column
    gathered: Column
    """Layers whose sharded weights are gathered for compute."""
    activations: Column
    logits: Column
    fixed: Column
    """The runtime, communication buffers, fragmentation."""

    @property
    def total(self) -> Column:
        """Bytes of the fullest rank."""
        total: Column = np.sum([getattr(self, f.name) for f in fields(self)], axis=0)
        return total


def memory(p: Points, logs: NDArray[np.float64]) -> Memory:
    """Bytes of device memory of each set-up at its fullest rank.

    Args:
        p: N set-ups.
        logs: [N, len(CONSTANTS)] or [len(CONSTANTS)]: natural logarithms of the constants over START.
    """
    gradient_bytes, factor, logits_bytes, fixed = (
        START * np.exp(np.broadcast_to(logs, (len(p), len(CONSTANTS))))
    ).T
    h, tp = p.hidden_size, p.tp
    # A table at each end of a pipeline; one rank with a tied head holds it once.
    tables = np.where((p.pp > 1) | (p.tied > 0), 1.0, 2.0)
    own = (np.ceil(p.num_layers / p.pp) * p.layer_parameters + tables * p.vocab_size * h) / tp
    weight_bytes = np.where(p.dtype == 0, 4.0, 2.0)
    state_bytes = np.where(p.dtype == 0, 8.0, 12.0)
    # Context-parallel ranks hold the same weights, and share them as data-parallel ranks do.
    ranks = np.maximum(np.where(p.fsdp > 1, p.fsdp, p.dp), 1) * p.cp
    shared = [np.where(p.zero >= stage, ranks, 1.0) for stage in (1, 2, 3)]
    tokens = p.micro_batch * p.seq_len / p.cp
    # The inputs of two norms and of four groups of products, queries, attention's output; keys, values; feed-forward.
    products = 12 + 4 * p.num_kv_heads / p.num_heads + (4 + 4 * p.gated) * p.ffn_size / h
    whole = products + np.where(p.flash > 0, 0.0, 5 * p.num_heads * p.seq_len / p.cp / h)
    # With flash attention there are no scores to drop: selective means every other matrix product (torchtitan).
    selective = np.where(p.flash > 0, 0.5 * products, products)
    kept = np.select([p.recompute == 2, p.recompute == 1], [np.full(len(p), 2.0), selective], whole)
    # Megatron's full recomputation keeps each layer's input unsharded; everything else is sequence-parallel.
    a_layer = factor * tokens * h * kept / tp
    in_flight = np.minimum(p.pp, p.num_micro_batches) * np.where(
        p.interleave > 1, 1 + (p.pp - 1) / (p.pp * p.interleave), 1.0
    )
    layers = np.ceil(p.num_layers / p.pp)
    working = np.where(p.recompute == 2, factor * tokens * h * whole / tp, 0.0)
    logits = logits_bytes * tokens * p.vocab_size / tp
    activations = in_flight * layers * a_layer + working
    # The first stage holds most activations, the last one the logits: the fuller one counts.
    last = layers * a_layer + working + logits
    fuller = np.where(p.first_stage > 0, activations, np.maximum(activations, last))
    more = np.where(p.pp > 1, fuller, activations + logits)
    return Memory(
        weights=weight_bytes * own / shared[2],
        # A pipeline with FSDP reduces once a step: until then gradients are whole.
        gradients=gradient_bytes * own / np.where((p.zero >= 3) & (p.pp > 1), 1.0, shared[1]),
        optimizer=state_bytes * own / shared[0],
        # A pipeline keeps its gathered weights between micro-batches.
        gathered=np.where(
            p.zero >= 3, weight_bytes * np.where(p.pp > 1, own, 2 * p.layer_parameters / tp), 0.0
        ),
        activations=np.minimum(activations, more),
        logits=np.maximum(more - activations, 0),
        fixed=fixed,
    )
