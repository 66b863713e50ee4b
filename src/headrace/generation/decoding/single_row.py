"""One token of one row -> its last hidden state and its logits, by the extension in C.

Decoding one row through torch costs as much between the products as in them, and torch reads the small weights of
one layer at half the speed of memory.
"""

from __future__ import annotations

import ctypes
import time

import torch
from torch import Tensor

from headrace.generation.decoding.native_weights import NativeWeights, address_of
from headrace.generation.decoding.thread_count import ThreadCount
from headrace.model import KVCache
from headrace.native import CacheStruct


class SingleRowDecoder:
    """Decodes one token of one row at a time; not safe for threads.

    Args:
        weights: of the model.
    """

    def __init__(self, weights: NativeWeights) -> None:
        self._weights = weights
        self._max_threads = torch.get_num_threads()
        self._threads = ThreadCount(self._max_threads)
        self._scratch = torch.empty(0)

    def hidden(
        self, x_W: Tensor, kv: KVCache, *, slot: int, position: int, rotation: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Normalised last hidden state of a token, [1, W] float32; its keys and values go to the cache.

        Args:
            x_W: its embedding.
            kv: of the model's type, on the CPU.
            slot: row of the cache.
            position: of the token in its row; the tokens before it are in the cache.
            rotation: cosines and sines of the position, [D] each, or None.
        """
        x_W = x_W.to(torch.float32, copy=True)  # the result is written there
        k_BGSD, v_BGSD = kv.layers[0]
        cache = CacheStruct(
            k_BGSD[slot].data_ptr(), v_BGSD[slot].data_ptr(), k_BGSD.numel(), kv.capacity, position
        )
        cos_D, sin_D = (None, None) if rotation is None else (part.float().contiguous() for part in rotation)
        one = self._weights
        started = time.perf_counter()
        one.native.decode(
            one.form, self._threads.value, one.shape_address, one.layers_address, ctypes.addressof(cache), one.norm,
            one.norm_bias, address_of(cos_D), address_of(sin_D), address_of(x_W), self._scratch_for(kv.capacity),
        )  # fmt: skip
        self._threads.record(time.perf_counter() - started)
        return x_W[None]

    def logits(self, x_1W: Tensor) -> Tensor:
        """Next-token logits of a hidden state, [1, V] float32."""
        one = self._weights
        x_1W = x_1W.float().contiguous()
        out_1V = torch.empty(1, one.head.outs)
        one.native.product(
            one.form, self._threads.value, one.head_address, address_of(x_1W), address_of(out_1V)
        )
        return out_1V

    def _scratch_for(self, capacity: int) -> int:
        size = self._weights.native.scratch_size(self._weights.shape_address, capacity, self._max_threads)
        if size > len(self._scratch):
            self._scratch = torch.empty(size)
        return self._scratch.data_ptr()
