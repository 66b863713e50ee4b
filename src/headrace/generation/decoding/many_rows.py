"""The tokens of a step of many rows -> their last hidden states: products by torch, what is between them in C.

The products are oneDNN's, which reads each weight once for all rows. What stands between two of them (residual and
norm; rotation, cache and attention; activation) is one call of the extension instead of some twenty operations of
torch, each with a parallel region that waits for its slowest thread. The residual is float32 whatever the model's type.

Shapes: N tokens of the step, n of them decoded rows, W width, H query heads, G key/value heads, D head width, I inner
width.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from headrace.generation.decoding.attention import StepPlan, attend_prompts
from headrace.generation.decoding.native_weights import NativeWeights, address_of
from headrace.generation.decoding.thread_count import ThreadCount
from headrace.model import KVCache
from headrace.native import LayerStruct


class ManyRowsDecoder:
    """Runs steps of any number of tokens; not safe for threads.

    Args:
        weights: of the model.
    """

    def __init__(self, weights: NativeWeights) -> None:
        self._weights = weights
        self._scratch = torch.empty(0)
        self._max_threads = 0
        self._threads = ThreadCount(1)

    def hidden(
        self, x_NW: Tensor, step: StepPlan, kv: KVCache, *, rotation: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Normalised last hidden states of the step's requested tokens, [K, W] in the model's type.

        Steps without prompts are timed: where other processes use the cores, fewer threads run them.

        Args:
            x_NW: embeddings.
            step: whose tokens these are; their keys and values go to the cache.
            kv: of the model's type, on the CPU.
            rotation: cosines and sines of each token's position, [N, D] each, or None.
        """
        with self._chosen_threads():
            started = time.perf_counter()
            out_KW = self._hidden(x_NW, step, kv, rotation)
            if not step.prompts:
                self._threads.record(time.perf_counter() - started)
        return out_KW

    def logits(self, x_KW: Tensor) -> Tensor:
        """Next-token logits, [K, V] in the model's type."""
        with self._chosen_threads():
            return self._weights.head(x_KW)

    def _hidden(
        self, x_NW: Tensor, step: StepPlan, kv: KVCache, rotation: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        one, shape = self._weights, self._weights.shape
        N, H, G, D = len(x_NW), shape.heads, shape.groups, shape.head_width
        x_NW = x_NW.to(torch.float32, copy=True)  # the residual is added there
        threads = torch.get_num_threads()
        scratch = self._scratch_for(kv.capacity, threads)
        common = (one.form, threads, one.shape_address)
        normed_NW, mixed_NHD, inner_NI = (
            kv.k_LBHSD.new_empty(N, size) for size in (shape.width, H * D, shape.inner)
        )
        x, normed, mixed, inner = map(address_of, (x_NW, normed_NW, mixed_NHD, inner_NI))
        cos_ND, sin_ND = (
            (None, None) if rotation is None else (part.float().contiguous() for part in rotation)
        )
        slots, positions, cos, sin = map(address_of, (step.slot_N, step.position_N, cos_ND, sin_ND))
        added_NW: Tensor | None = None
        for number, layer in enumerate(one.layers):
            struct = one.layer_structs[number]
            one.native.normalise_rows(
                *common, struct.norm1, struct.norm1_bias, x, address_of(added_NW), normed, scratch, N
            )
            qkv = layer.qkv(normed_NW)
            k_BGSD, v_BGSD = kv.layers[number]
            one.native.attend_rows(
                *common, one.layers_address + number * ctypes.sizeof(LayerStruct), address_of(k_BGSD),
                address_of(v_BGSD), slots, positions, cos, sin, address_of(qkv), mixed, scratch, kv.capacity, N,
                step.decoded,
            )  # fmt: skip
            if step.prompts:
                q_NHD, k_NGD, v_NGD = torch.split(qkv.view(N, H + 2 * G, D), [H, G, G], dim=1)
                attend_prompts(
                    kv, step, number, q_NHD, k_NGD, v_NGD, mixed_NHD.view(N, H, D),
                    scale=shape.scale, window=layer.window,
                )  # fmt: skip
            added_NW = layer.out(mixed_NHD)
            one.native.normalise_rows(
                *common, struct.norm2, struct.norm2_bias, x, address_of(added_NW), normed, scratch, N
            )
            up = layer.up(normed_NW)
            one.native.activate_rows(*common, address_of(up), inner, scratch, N)
            added_NW = layer.down(inner_NI)
        assert added_NW is not None
        if not step.keeps_all:
            x_NW, added_NW = x_NW[step.keep_K], added_NW[step.keep_K]
        out_KW = torch.empty_like(added_NW)
        one.native.normalise_rows(
            *common, one.norm, one.norm_bias, address_of(x_NW), address_of(added_NW), address_of(out_KW), scratch,
            len(x_NW),
        )  # fmt: skip
        return out_KW

    @contextmanager
    def _chosen_threads(self) -> Iterator[None]:
        """Run torch's products with the number of threads that has been fastest lately."""
        most = torch.get_num_threads()
        if most != self._max_threads:
            self._max_threads, self._threads = most, ThreadCount(most)
        value = self._threads.value
        if value == most:
            yield
            return
        torch.set_num_threads(value)
        try:
            yield
        finally:
            torch.set_num_threads(most)

    def _scratch_for(self, capacity: int, threads: int) -> int:
        size = self._weights.native.rows_scratch_size(self._weights.shape_address, capacity, threads)
        if size > len(self._scratch):
            self._scratch = torch.empty(size)
        return self._scratch.data_ptr()
