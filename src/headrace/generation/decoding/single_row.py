"""A decoder's weights and one token of one row -> its last hidden state and its logits, by the extension in C.

Decoding one row through torch costs as much between the products as in them, and torch reads the small weights of
one layer at half the speed of memory. This is for CPUs; where it cannot be used, `decoder_for` gives the reason and
torch decodes.

Shapes: W width, H query heads, G key/value heads, D head width, I inner width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headrace.generation.decoding.packed_linear import PackedLinear
from headrace.generation.decoding.thread_count import ThreadCount
from headrace.model import KVCache
from headrace.native import (
    CacheStruct,
    LayerStruct,
    LinearStruct,
    NativeUnavailableError,
    ShapeStruct,
    load_decoder,
    native_target,
)

FORMS = {
    (torch.float32, "blocks"): 0,
    (torch.float32, "rows"): 1,
    (torch.bfloat16, "blocks"): 2,
    (torch.bfloat16, "rows"): 3,
}
"""Types and layouts of weights that the extension reads, by its numbers for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """What all layers have in common."""

    width: int
    heads: int
    groups: int
    """Key/value heads; divides heads."""
    head_width: int
    inner: int
    gated: bool
    """silu(gate) * up; else GELU in its tanh form."""
    centred: bool
    """LayerNorm; else root mean square."""
    eps: float
    scale: float
    """Of the products of queries and keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer. Weights and biases are in the model's type, and are not copied."""

    qkv: PackedLinear
    """Heads of queries, then of keys, then of values: [(H + 2G) D, W]."""
    out: PackedLinear
    up: PackedLinear
    """[I, W]; gated [2I, W], gates first."""
    down: PackedLinear
    norm1: Tensor
    norm2: Tensor
    norm1_bias: Tensor | None = None
    norm2_bias: Tensor | None = None
    q_norm: Tensor | None = None
    """[D], of each head before its rotation."""
    k_norm: Tensor | None = None
    window: int | None = None
    """Tokens seen, the token itself counted; None sees all."""


PRODUCTS = ("qkv", "out", "up", "down")
VECTORS = ("norm1", "norm1_bias", "norm2", "norm2_bias", "q_norm", "k_norm")


class SingleRowDecoder:
    """Decodes one token of one row at a time; not safe for threads.

    Args:
        native: from `headrace.native.load_decoder`.
        form: of FORMS.
        shape: of every layer.
        layers: their weights.
        norm: the last normalisation, [W].
        norm_bias: [W], or None.
        head: [V, W].
    """

    def __init__(
        self,
        native: Any,
        form: int,
        shape: DecoderShape,
        layers: Sequence[LayerWeights],
        *,
        norm: Tensor,
        norm_bias: Tensor | None,
        head: PackedLinear,
    ) -> None:
        self._native, self._form = native, form
        self._kept: list[Tensor | PackedLinear] = []
        """Everything whose address the extension has."""
        self._shape = ShapeStruct(
            layers=len(layers),
            hidden_size=shape.width,
            heads=shape.heads,
            kv_heads=shape.groups,
            head_size=shape.head_width,
            intermediate_size=shape.inner,
            gated=shape.gated,
            centred=shape.centred,
            eps=shape.eps,
            scale=shape.scale,
        )
        self._layers = (LayerStruct * len(layers))(*map(self._layer, layers))
        self._norm, self._norm_bias = self._floats(norm), self._floats(norm_bias)
        self._head = self._linear(head)
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
        started = time.perf_counter()
        self._native.decode(
            self._form, self._threads.value, ctypes.addressof(self._shape), ctypes.addressof(self._layers),
            ctypes.addressof(cache), self._norm, self._norm_bias, _address(cos_D), _address(sin_D), _address(x_W),
            self._scratch_for(kv.capacity),
        )  # fmt: skip
        self._threads.record(time.perf_counter() - started)
        return x_W[None]

    def logits(self, x_1W: Tensor) -> Tensor:
        """Next-token logits of a hidden state, [1, V] float32."""
        x_1W = x_1W.float().contiguous()
        out_1V = torch.empty(1, self._head.outs)
        self._native.product(
            self._form, self._threads.value, ctypes.addressof(self._head), _address(x_1W), _address(out_1V)
        )
        return out_1V

    def _scratch_for(self, capacity: int) -> int:
        size = self._native.scratch_size(ctypes.addressof(self._shape), capacity, self._max_threads)
        if size > len(self._scratch):
            self._scratch = torch.empty(size)
        return self._scratch.data_ptr()

    def _layer(self, layer: LayerWeights) -> LayerStruct:
        linears = {name: self._linear(getattr(layer, name)) for name in PRODUCTS}
        vectors = {name: self._floats(getattr(layer, name)) for name in VECTORS}
        return LayerStruct(**linears, **vectors, window=layer.window or 0)

    def _linear(self, one: PackedLinear) -> LinearStruct:
        self._kept.append(one)
        bias = self._floats(one.bias)
        return LinearStruct(
            weight=one.address, bias=bias, outs=one.outs, ins=one.ins, block=one.block, stride=one.stride
        )

    def _floats(self, vector: Tensor | None) -> int | None:
        if vector is None:
            return None
        kept = vector.detach().float().contiguous()
        self._kept.append(kept)
        return kept.data_ptr()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def decoder_for(
    shape: DecoderShape,
    layers: Sequence[LayerWeights],
    *,
    norm: Tensor,
    norm_bias: Tensor | None,
    head: PackedLinear,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[SingleRowDecoder | None, str]:
    """The extension's decoder, or None where torch decodes; and which of them decodes, in words."""
    layouts = {head.layout, *(getattr(layer, name).layout for layer in layers for name in PRODUCTS)}
    if device.type != "cpu" or dtype not in {known for known, _ in FORMS}:
        return None, f"torch: {dtype} on {device.type}"
    if len(layouts) > 1 or "unknown" in layouts:
        return None, "torch: oneDNN lays out weights in a way that is not known here"
    try:
        native = load_decoder()
    except NativeUnavailableError as error:
        return None, f"torch: {error}"
    form = FORMS[dtype, head.layout]
    decoder = SingleRowDecoder(native, form, shape, layers, norm=norm, norm_bias=norm_bias, head=head)
    return decoder, f"native {native_target()}"
