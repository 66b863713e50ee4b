"""The tokens of a step of many rows -> their last hidden states: all layers by the extension in C, products included.

A step that only decodes is one call. Where prompts enter, their attention is torch's, between the halves of each layer.
Activations are float32 whatever the model's type, and each row's numbers depend neither on the other rows nor on the
number of threads.

Shapes: N tokens of the step, W width, H query heads, G key/value heads, D head width, I inner width, V vocabulary.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from headrace.generation.decoding.attention import StepPlan, attend_prompts
from headrace.generation.decoding.native_weights import NativeWeights, address_of
from headrace.generation.decoding.thread_count import ThreadCount
from headrace.model import KVCache

ATTENTION, FEED_FORWARD = 1, 2
"""Halves of a layer: STEP_ATTENTION and STEP_FEED_FORWARD in native/c/decoder_types.h."""
FLOAT32 = 0
"""The extension's form of float32, see FORMS."""


class NativeStepDecoder:
    """Runs steps of any number of tokens; not safe for threads.

    Args:
        weights: of the model, in a form whose products the extension has.
    """

    def __init__(self, weights: NativeWeights) -> None:
        self._weights = weights
        self._scratch = torch.empty(0)
        self._max_threads = 0
        self._threads = ThreadCount(1)

    @classmethod
    def can_run(cls, weights: NativeWeights) -> bool:
        """Whether the extension has the products of these weights, and they are faster than torch's."""
        return bool(weights.native.multiplies_rows(weights.form))

    def hidden(
        self, x_NW: Tensor, step: StepPlan, kv: KVCache, *, rotation: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Normalised last hidden states of the step's requested tokens, [K, W] float32.

        Steps without prompts are timed: where other processes use the cores, fewer threads run them.

        Args:
            x_NW: embeddings.
            step: whose tokens these are; their keys and values go to the cache.
            kv: of the model's type, on the CPU.
            rotation: cosines and sines of each token's position, [N, D] each, or None.
        """
        x_NW = x_NW.to(torch.float32, copy=True)  # the residual is added there
        threads = self._chosen_threads()
        started = time.perf_counter()
        self._run_layers(x_NW, step, kv, rotation, threads)
        if not step.prompts:
            self._threads.record(time.perf_counter() - started)
        one = self._weights
        x_KW = x_NW if step.keeps_all else x_NW[step.keep_K]
        out_KW = torch.empty_like(x_KW)
        one.native.normalise_rows(
            FLOAT32, threads, one.shape_address, one.norm, one.norm_bias, address_of(x_KW), None, address_of(out_KW),
            address_of(self._scratch), len(x_KW),
        )  # fmt: skip
        return out_KW

    def logits(self, x_KW: Tensor) -> Tensor:
        """Next-token logits, [K, V] float32."""
        one = self._weights
        x_KW = x_KW.float().contiguous()
        out_KV = torch.empty(len(x_KW), one.head.outs)
        one.native.product_rows(
            one.form,
            self._chosen_threads(),
            one.head_address,
            address_of(x_KW),
            address_of(out_KV),
            len(x_KW),
        )
        return out_KV

    def _run_layers(
        self,
        x_NW: Tensor,
        step: StepPlan,
        kv: KVCache,
        rotation: tuple[Tensor, Tensor] | None,
        threads: int,
    ) -> None:
        """Add all layers to the residual x_NW."""
        one, shape = self._weights, self._weights.shape
        N, H, G, D = len(x_NW), shape.heads, shape.groups, shape.head_width
        normed_NW, qkv_NO, mixed_NO, inner_NI = (
            torch.empty(N, size) for size in (shape.width, (H + 2 * G) * D, H * D, shape.inner)
        )
        cos_ND, sin_ND = (
            (None, None) if rotation is None else (part.float().contiguous() for part in rotation)
        )
        k_BGSD, v_BGSD = kv.layers[0]
        # Addresses, then numbers: as `run_step` in native/c/decoder.c takes them.
        before = (
            one.form, threads, one.shape_address, one.layers_address,
            *map(address_of, (k_BGSD, v_BGSD, step.slot_N, step.position_N, cos_ND, sin_ND)),
            *map(address_of, (x_NW, normed_NW, qkv_NO, mixed_NO, inner_NI)), self._scratch_for(kv.capacity, threads),
        )  # fmt: skip
        after = (k_BGSD.numel(), kv.capacity, N, step.decoded)
        if not step.prompts:
            one.native.run_step(*before, 0, len(one.layers), ATTENTION | FEED_FORWARD, *after)
            return
        for number, layer in enumerate(one.layers):
            one.native.run_step(*before, number, number + 1, ATTENTION, *after)
            self._attend_prompts(step, kv, number, qkv_NO, mixed_NO, window=layer.window)
            one.native.run_step(*before, number, number + 1, FEED_FORWARD, *after)

    def _attend_prompts(
        self,
        step: StepPlan,
        kv: KVCache,
        number: int,
        qkv_NO: Tensor,
        mixed_NO: Tensor,
        *,
        window: int | None,
    ) -> None:
        """Attention of the prompts' tokens, from qkv_NO to mixed_NO, in the cache's type."""
        shape = self._weights.shape
        H, G, D = shape.heads, shape.groups, shape.head_width
        qkv_NHD = qkv_NO.to(kv.k_LBHSD.dtype).view(-1, H + 2 * G, D)
        q_NHD, k_NGD, v_NGD = torch.split(qkv_NHD, [H, G, G], dim=1)
        attend_prompts(
            kv, step, number, q_NHD, k_NGD, v_NGD, mixed_NO.view(-1, H, D), scale=shape.scale, window=window
        )

    def _chosen_threads(self) -> int:
        most = torch.get_num_threads()
        if most != self._max_threads:
            self._max_threads, self._threads = most, ThreadCount(most)
        return self._threads.value

    def _scratch_for(self, capacity: int, threads: int) -> int:
        size = self._weights.native.step_scratch_size(self._weights.shape_address, capacity, threads)
        size = max(
            size, self._weights.native.rows_scratch_size(self._weights.shape_address, capacity, threads)
        )
        if size > len(self._scratch):
            self._scratch = torch.empty(size)
        return self._scratch.data_ptr()
