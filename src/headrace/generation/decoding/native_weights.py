"""A decoder's weights -> what the extension in C reads: their addresses, in structures that are kept.

Shapes: W width, H query heads, G key/value heads, D head width, I inner width, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headrace.generation.decoding.packed_linear import PackedLinear
from headrace.native import LayerStruct, LinearStruct, NativeUnavailableError, ShapeStruct, load_decoder

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


class NativeWeights:
    """The weights of a decoder, and the extension for its type.

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
        self.native, self.form, self.shape = native, form, shape
        self.layers, self.head = tuple(layers), head
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
        self.layer_structs = (LayerStruct * len(layers))(*map(self._layer, layers))
        self._head = self._linear(head)
        self.norm, self.norm_bias = self._floats(norm), self._floats(norm_bias)
        """Addresses; None where there is no bias."""
        self.shape_address, self.layers_address = (
            ctypes.addressof(self._shape),
            ctypes.addressof(self.layer_structs),
        )
        self.head_address = ctypes.addressof(self._head)

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


def address_of(tensor: Tensor | None) -> int | None:
    """Of a contiguous tensor's memory; None for None."""
    return None if tensor is None else tensor.data_ptr()


def native_weights(
    shape: DecoderShape,
    layers: Sequence[LayerWeights],
    *,
    norm: Tensor,
    norm_bias: Tensor | None,
    head: PackedLinear,
    dtype: torch.dtype,
    device: torch.device,
) -> NativeWeights | str:
    """The weights for the extension, or why torch decodes."""
    layouts = {head.layout, *(getattr(layer, name).layout for layer in layers for name in PRODUCTS)}
    if device.type != "cpu" or dtype not in {known for known, _ in FORMS}:
        return f"{dtype} on {device.type}"
    if len(layouts) > 1 or "unknown" in layouts:
        return "oneDNN lays out weights in a way that is not known here"
    try:
        native = load_decoder()
    except NativeUnavailableError as error:
        return str(error)
    form = FORMS[dtype, head.layout]
    return NativeWeights(native, form, shape, layers, norm=norm, norm_bias=norm_bias, head=head)
