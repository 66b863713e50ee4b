"""A model, hardware and layouts -> columns of N set-ups: one float64 array for each quantity."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from headrace.plan.hardware import Hardware
from headrace.plan.shapes import ModelShape

Column = NDArray[np.float64]

RECOMPUTE = ("none", "selective", "full")
"""What of the forward pass is computed again in the backward pass: nothing, attention scores, everything."""

LOW_PRECISION = {"float32": 0, "bf16": 1, "fp8": 2, "fp4": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """N set-ups; every field is a float64 array [N]."""

    num_layers: Column
    hidden_size: Column
    ffn_size: Column
    gated: Column
    num_heads: Column
    num_kv_heads: Column
    attention_size: Column
    """Width of all heads together: hidden_size in most models."""
    vocab_size: Column
    tied: Column
    seq_len: Column
    global_batch: Column
    """Rows of an optimizer step."""
    micro_batch: Column
    """Rows that one data-parallel rank runs at once."""
    dp: Column
    """Data-parallel copies that do not share weights."""
    fsdp: Column
    """Ranks that share weights, gradients and optimizer state."""
    zero: Column
    """What dp or fsdp ranks share: 0 nothing, 1 optimizer state, 2 also gradients, 3 also weights."""
    tp: Column
    pp: Column
    cp: Column
    interleave: Column
    """Stages that a pipeline rank holds (virtual stages)."""
    recompute: Column
    """Index into RECOMPUTE."""
    flash: Column
    """1: attention in one kernel; 0: the scores are written to memory."""
    dtype: Column
    """Value of LOW_PRECISION."""
    peak: Column
    """Dense peak of matrix products in dtype, FLOP/s."""
    peak_bf16: Column
    """The same in bfloat16: attention and logits are not computed in 8 or 4 bits."""
    memory_bytes: Column
    memory_bytes_s: Column
    link_bytes_s: Column
    network_bytes_s: Column
    gpus_per_node: Column
    first_stage: Column
    """1: memory means that of the pipeline's first stage, which some tables report; 0: of the fullest one."""

    def __len__(self) -> int:
        """N."""
        return len(self.num_layers)

    def __getitem__(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Self:
        """The set-ups at these places."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """All set-ups of several tables, one after the other."""
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(cls)}
        )

    @property
    def gpus(self) -> Column:
        """Accelerators of each set-up."""
        return self.dp * self.fsdp * self.tp * self.pp * self.cp

    @property
    def data_ranks(self) -> Column:
        """Ranks that read different rows."""
        return self.dp * self.fsdp

    @property
    def num_micro_batches(self) -> Column:
        """Micro-batches that each data-parallel rank runs in a step; at least 1."""
        return np.maximum(self.global_batch / (self.data_ranks * self.micro_batch), 1.0)

    @property
    def layer_parameters(self) -> Column:
        """Weights of one layer's matrices."""
        kv = self.num_kv_heads / self.num_heads
        return self.hidden_size * self.attention_size * (2 + 2 * kv) + self.hidden_size * self.ffn_size * (
            2 + self.gated
        )

    @property
    def num_parameters(self) -> Column:
        """Weights of the model: layers, token table, untied head."""
        tables = np.where(self.tied > 0, 1.0, 2.0) * self.vocab_size * self.hidden_size
        return self.num_layers * self.layer_parameters + tables

    @property
    def flops_per_token(self) -> Column:
        """Model FLOPs of a token, forward and backward, without recomputation (as ModelShape.flops_per_token)."""
        matrices = self.num_layers * self.layer_parameters + self.vocab_size * self.hidden_size
        return 6 * matrices + 12 * self.num_layers * self.attention_size * self.seq_len


def points(
    shape: ModelShape,
    hardware: Hardware,
    *,
    seq_len: int,
    global_batch: int,
    layout: Mapping[str, Column | float],
    dtype: str = "bf16",
    flash: bool = True,
    first_stage: bool = False,
) -> Points:
    """Many layouts of one model on one kind of hardware.

    Args:
        shape: the model.
        hardware: each accelerator.
        seq_len: tokens of a row.
        global_batch: rows of an optimizer step.
        dtype: of matrix products: float32, bf16, fp8 or fp4.
        flash: attention in one kernel.
        first_stage: memory means that of the pipeline's first stage, not of the fullest one.
        layout: micro_batch, dp, fsdp, zero, tp, pp, cp, interleave, recompute: numbers or arrays [N]; default 1,
            zero and recompute 0.
    """
    defaults = {"micro_batch": 1, "dp": 1, "fsdp": 1, "zero": 0, "tp": 1, "pp": 1, "cp": 1, "interleave": 1}
    columns = {**defaults, "recompute": 0, **layout}
    n = max(np.size(value) for value in columns.values())
    constant = {
        "num_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "ffn_size": shape.ffn_size,
        "gated": shape.gated,
        "num_heads": shape.num_heads,
        "num_kv_heads": shape.num_kv_heads,
        "attention_size": shape.attention_size,
        "vocab_size": shape.vocab_size,
        "tied": shape.tied,
        "seq_len": seq_len,
        "global_batch": global_batch,
        "flash": flash,
        "dtype": LOW_PRECISION[dtype],
        "peak": hardware.peak_flops(dtype),
        "peak_bf16": hardware.float32_flops if dtype == "float32" else hardware.bf16_flops,
        "memory_bytes": hardware.memory_bytes,
        "memory_bytes_s": hardware.memory_bytes_s,
        "link_bytes_s": hardware.link_bytes_s,
        "network_bytes_s": hardware.network_bytes_s,
        "gpus_per_node": hardware.gpus_per_node,
        "first_stage": first_stage,
    }
    return Points(
        **{
            name: np.broadcast_to(np.asarray(v, dtype=np.float64), n).copy()
            for name, v in {**constant, **columns}.items()
        }
    )
