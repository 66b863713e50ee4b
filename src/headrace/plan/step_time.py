"""Set-ups and a system's constants -> seconds of an optimizer step, by part: arithmetic over arrays of set-ups.

A layer's time is the sum of its matrix products (FLOPs at the reached share of the peak, plus their bytes at the
memory's bandwidth: a roofline that is smooth at its edge), of its attention, and of its element-wise work, and never
less than what launching its kernels takes. Tensor parallelism adds four all-reduces a layer, the pipeline its bubble,
data parallelism what its collectives cannot hide behind compute.

Sources: Narayanan et al. 2021 (FLOPs, bubble (p - 1) / (v m)); Korthikanti et al. 2022 (bytes of activations);
Williams et al. 2009 (roofline); Thakur et al. 2005 (ring all-reduce 2 (n - 1) / n bytes / bandwidth).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.plan.points import Column, Points

CONSTANTS: Final = (
    # name, start, standard deviation of its logarithm between systems
    ("matmul_share", 0.75, 0.3),
    ("elementwise_passes", 1.0, 0.5),
    ("attention_passes", 1.0, 0.5),
    ("layer_launch_s", 250e-6, 1.0),
    ("tensor_bandwidth_share", 0.6, 0.5),
    ("tensor_latency_s", 25e-6, 1.0),
    ("data_bandwidth_share", 0.6, 0.7),
    ("step_overhead_s", 8e-3, 1.2),
    ("micro_batch_overhead_s", 1e-3, 1.2),
    ("overlap_odds", 4.5, 1.6),
    ("logits_cost", 1.0, 0.5),
)
"""The few constants of a system (software and cluster), each a positive number; calibration fits their logarithms."""

NAMES: Final = tuple(name for name, _, _ in CONSTANTS)
START: Final = np.array([start for _, start, _ in CONSTANTS])
SPREAD: Final = np.array([spread for _, _, spread in CONSTANTS])
HOST: Final = np.array([name.endswith("_s") for name in NAMES])
"""Latencies: constants of the host more than of the software."""

_MEMORY_SHARE = 0.8  # of the data sheet's bandwidth, which long streams reach
# Share of matmul_share that products in this dtype reach, by generation: lower precision leaves less time to hide
# everything else. Medians of published points (docs/plan.md).
_DTYPE_SHARE: Final = {0: 0.95, 1: 0.84, 2: 0.76, 3: 0.5}
_AMPERE_PEAK: Final = 400e12  # up to here bf16 products reach matmul_share itself


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of a step by part; each an array [N]. Their sum is `total`."""

    matmul: Column
    attention: Column
    elementwise: Column
    launch: Column
    """What kernels' launches add where the device waits for them."""
    recompute: Column
    logits: Column
    tensor_parallel: Column
    context_parallel: Column
    bubble: Column
    pipeline: Column
    """Sending between stages and the fixed cost of each micro-batch."""
    sharded_weights: Column
    """Gathering and scattering sharded weights, as far as compute does not hide it."""
    data_parallel: Column
    """Reducing gradients, as far as compute does not hide it."""
    optimizer: Column
    overhead: Column
    """Once a step."""

    @property
    def total(self) -> Column:
        """Seconds of a step."""
        total: Column = np.sum([getattr(self, f.name) for f in fields(self)], axis=0)
        return total


def step_time(p: Points, logs: NDArray[np.float64]) -> StepTime:
    """Seconds of a step of each set-up.

    Args:
        p: N set-ups.
        logs: [N, len(CONSTANTS)] or [len(CONSTANTS)]: natural logarithms of the constants over START.
    """
    (
        share,
        passes,
        attention_passes,
        launch_s,
        tp_share,
        tp_latency_s,
        dp_share,
        step_s,
        micro_s,
        odds,
        logits_cost,
    ) = (START * np.exp(np.broadcast_to(logs, (len(p), len(CONSTANTS))))).T
    h, tp, pp, cp = p.hidden_size, p.tp, p.pp, p.cp
    tokens = p.micro_batch * p.seq_len / cp
    kv = p.num_kv_heads / p.num_heads
    memory = p.memory_bytes_s * _MEMORY_SHARE
    peak = p.peak * np.minimum(share * _dtype_share(p), 0.98)
    peak_bf16 = p.peak_bf16 * np.minimum(
        share * np.where(p.peak_bf16 > _AMPERE_PEAK, _DTYPE_SHARE[1], 1.0), 0.98
    )

    def product(k: Column, n: Column, flops: Column) -> Column:
        seconds: Column = 2 * tokens * k * n / flops + passes * 2 * (tokens * k + k * n + tokens * n) / memory
        return seconds

    matmul = (
        product(h, p.attention_size * (1 + 2 * kv) / tp, peak)
        + product(p.attention_size / tp, h, peak)
        + (1 + p.gated) * product(h, p.ffn_size / tp, peak)
        + product(p.ffn_size / tp, h, peak)
    )
    forward_att, backward_att = _attention(p, attention_passes, peak_bf16, memory)
    elementwise = passes * (tokens * h * (28 + 8 * (1 + p.gated) * p.ffn_size / h / tp)) / memory
    forward = np.hypot(matmul + forward_att + elementwise, launch_s)
    backward = np.hypot(2 * matmul + backward_att + 1.5 * elementwise, 2 * launch_s)
    launch = forward + backward - (3 * matmul + forward_att + backward_att + 2.5 * elementwise)

    all_reduce, cp_pass, sending = _transfers(p, tokens, kv, tp_share, tp_latency_s, micro_s)
    full = p.recompute == 2
    again = np.where(full, forward, np.where(p.recompute == 1, forward_att, 0.0))
    layers = np.ceil(p.num_layers / (pp * p.interleave)) * p.interleave  # of the fullest stage
    logits = 3 * logits_cost * product(h, p.vocab_size / tp, peak_bf16)
    logits += logits_cost * passes * tokens * p.vocab_size / tp * 12 / memory
    tp_layer = all_reduce * np.where(full, 6, 4)
    cp_layer = cp_pass * np.where(full, 4, 3)
    stage = layers * (forward + backward + again + tp_layer + cp_layer) + sending

    m = p.num_micro_batches
    hidden = 1 / (1 + np.exp(-np.log(odds)))
    exposed_shards = _exposed_shards(p, stage + logits, dp_share, hidden)
    exposed_gradients = _exposed_gradients(p, dp_share, hidden, layers * backward + 2 / 3 * logits)
    local = _local_parameters(p)
    optimizer = local / p.fsdp / np.where(p.zero >= 1, p.dp, 1) * 24 / memory
    return StepTime(
        matmul=m * layers * 3 * matmul,
        attention=m * layers * (forward_att + backward_att),
        elementwise=m * layers * 2.5 * elementwise,
        launch=m * layers * launch,
        recompute=m * layers * again,
        logits=m * logits,
        tensor_parallel=m * layers * tp_layer,
        context_parallel=m * layers * cp_layer,
        bubble=(pp - 1) * stage / p.interleave,
        pipeline=m * sending,
        sharded_weights=m * exposed_shards,
        data_parallel=exposed_gradients,
        optimizer=optimizer,
        overhead=step_s,
    )


def _transfers(
    p: Points, tokens: Column, kv: Column, tp_share: Column, tp_latency_s: Column, micro_s: Column
) -> tuple[Column, Column, Column]:
    """Seconds of one all-reduce of a layer, of one pass of keys and values, and of sending one micro-batch on."""
    h, tp, pp, cp = p.hidden_size, p.tp, p.pp, p.cp
    tp_link = np.where(
        tp <= p.gpus_per_node, p.link_bytes_s, p.network_bytes_s * np.minimum(p.gpus_per_node, tp)
    )
    all_reduce = np.where(
        tp > 1,
        tp_latency_s * np.log2(np.maximum(tp, 2)) + 2 * (tp - 1) / tp * 2 * tokens * h / (tp_link * tp_share),
        0.0,
    )
    cp_link = np.where(tp * cp <= p.gpus_per_node, p.link_bytes_s, p.network_bytes_s)
    cp_pass = np.where(cp > 1, 2 * tokens * p.attention_size * kv * (cp - 1) / (cp_link * tp_share * tp), 0.0)
    pp_link = np.where(tp * pp <= p.gpus_per_node, p.link_bytes_s, p.network_bytes_s)
    sending = np.where(pp > 1, 4 * tokens * h / (pp_link * tp_share), 0.0) + micro_s * np.where(
        pp > 1, 1.0, 0.3
    )
    return all_reduce, cp_pass, sending


def _dtype_share(p: Points) -> Column:
    share = np.ones(len(p))
    for value, one in _DTYPE_SHARE.items():
        share = np.where(p.dtype == value, one, share)
    # Before 8-bit units the peak was low enough that products reached it like any others.
    return np.where((p.dtype == 1) & (p.peak <= _AMPERE_PEAK), 1.0, share)


def _attention(p: Points, passes: Column, peak: Column, memory: Column) -> tuple[Column, Column]:
    """Seconds of one layer's attention scores and values, forward and backward."""
    flash = p.flash > 0
    flops = (
        4
        * p.micro_batch
        * p.seq_len
        * (p.seq_len / p.cp)
        * p.attention_size
        / p.tp
        * np.where(flash, 0.5, 1.0)
    )
    scores = p.micro_batch * p.num_heads / p.tp * p.seq_len * p.seq_len / p.cp
    forward = flops / (peak * np.where(flash, 0.7, 0.8)) + np.where(flash, 0, 14 * scores) / memory
    backward = flops * np.where(flash, 2.5 / 0.6, 2 / 0.8) / peak + np.where(flash, 0, 18 * scores) / memory
    return passes * forward, passes * backward


def _local_parameters(p: Points) -> Column:
    """Weights of one rank's stage and tensor-parallel slice, before data-parallel sharding."""
    return (p.num_layers * p.layer_parameters / p.pp + p.hidden_size * p.vocab_size) / p.tp


def _ring(p: Points, ranks: Column, inside: Column, share: Column) -> Column:
    """Bandwidth of a ring over `ranks`, of which a node holds those that fit beside `inside` others, bytes/s."""
    in_node = np.minimum(ranks, np.maximum(p.gpus_per_node / np.minimum(inside, p.gpus_per_node), 1))
    across = np.minimum(p.network_bytes_s * in_node, p.link_bytes_s)
    return np.where(ranks * inside <= p.gpus_per_node, p.link_bytes_s, across) * share


def _exposed_shards(p: Points, compute: Column, share: Column, hidden: Column) -> Column:
    """Seconds of a micro-batch's gathers and scatters of sharded weights that compute does not hide."""
    traffic = 2 * _local_parameters(p) * (p.fsdp - 1) / p.fsdp
    # ZeRO-3 gathers for each pass of a micro-batch. ZeRO-2, and a pipeline, which keeps what it gathered: once a step.
    once = np.where((p.zero >= 3) & (p.pp == 1), 3.0, 2.0 / p.num_micro_batches)
    seconds = np.where(p.fsdp > 1, once * traffic / _ring(p, p.fsdp, p.tp, share), 0.0)
    return np.maximum(seconds - hidden * compute, 0) + (1 - hidden) * 0.3 * np.minimum(seconds, compute)


def _exposed_gradients(p: Points, share: Column, hidden: Column, backward: Column) -> Column:
    """Seconds of the gradients' all-reduce over the copies that the last backward pass does not hide."""
    traffic = 2 * (p.dp - 1) / p.dp * 2 * _local_parameters(p) / p.fsdp
    seconds = np.where(p.dp > 1, traffic / _ring(p, p.dp, p.tp * p.fsdp, share), 0.0)
    return (1 - hidden) * seconds + np.maximum(hidden * seconds - backward, 0)
