"""The weights of a decoder, and one token of one row -> its last hidden state and its logits: onerow.c from Python.

Decoding one row through torch costs as much between the products as in them, and torch reads the small weights of
one layer at half the speed of memory. This is for a CPU with a C compiler; elsewhere `decoder_for` gives a reason, and
torch decodes.

Shapes: W width, H query heads, G key/value heads, D head width, I inner width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from headrace.generation.decoding.compiled import NotCompiledError, compile_c
from headrace.generation.decoding.packed_linear import Layout, PackedLinear
from headrace.model.kv import KVCache

SOURCE = Path(__file__).with_suffix(".c")
DEFINES = {torch.float32: (), torch.bfloat16: ("BFLOAT16",)}


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


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layers", "width", "heads", "groups", "head_width", "inner")),
        *((name, ctypes.c_int64) for name in ("gated", "centred")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
    )


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, ctypes.c_int64) for name in ("outs", "ins", "block", "stride")),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Product) for name in PRODUCTS),
        *((name, ctypes.c_void_p) for name in VECTORS),
        ("window", ctypes.c_int64),
    )


class _Cache(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        *((name, ctypes.c_int64) for name in ("layer_stride", "capacity", "position")),
    )


class SingleRowDecoder:
    """A decoder for one token of one row at a time; not for several threads.

    Args:
        library: onerow.c, compiled for the weights' type and layout.
        shape: of every layer.
        layers: their weights.
        norm: the last normalisation, [W].
        norm_bias: [W], or None.
        head: [V, W].
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        shape: DecoderShape,
        layers: Sequence[LayerWeights],
        *,
        norm: Tensor,
        norm_bias: Tensor | None,
        head: PackedLinear,
    ) -> None:
        self._decode, self._product = library.decode, library.product
        self._decode.restype = self._product.restype = None
        library.scratch_size.restype = ctypes.c_int64
        self._scratch_size = library.scratch_size
        self._held: list[Tensor | PackedLinear] = []
        """Whatever C has the address of."""
        self._shape = _Shape(
            layers=len(layers), **{name: getattr(shape, name) for name in DecoderShape.__dataclass_fields__}
        )
        self._layers = (_Layer * len(layers))(*map(self._pointers, layers))
        self._norm, self._norm_bias = self._floats(norm), self._floats(norm_bias)
        self._head = self._product_of(head)
        self._threads = torch.get_num_threads()
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
        x_W = x_W.to(torch.float32, copy=True)  # C writes the result there
        k_BGSD, v_BGSD = kv.layers[0]
        cache = _Cache(
            k_BGSD[slot].data_ptr(), v_BGSD[slot].data_ptr(), k_BGSD.numel(), kv.capacity, position
        )
        cos_D, sin_D = (None, None) if rotation is None else (part.float().contiguous() for part in rotation)
        self._decode(
            ctypes.byref(self._shape), self._layers, ctypes.byref(cache), self._norm, self._norm_bias,
            _pointer(cos_D), _pointer(sin_D), _pointer(x_W), self._scratch_for(kv.capacity), self._threads,
        )  # fmt: skip
        return x_W[None]

    def logits(self, x_1W: Tensor) -> Tensor:
        """Next-token logits of a hidden state, [1, V] float32."""
        x_1W = x_1W.float().contiguous()
        out_1V = torch.empty(1, self._head.outs)
        self._product(ctypes.byref(self._head), _pointer(x_1W), _pointer(out_1V), self._threads)
        return out_1V

    def _scratch_for(self, capacity: int) -> ctypes.c_void_p:
        wanted = self._scratch_size(
            ctypes.byref(self._shape), ctypes.c_int64(capacity), ctypes.c_int(self._threads)
        )
        if wanted > len(self._scratch):
            self._scratch = torch.empty(wanted)
        return ctypes.c_void_p(self._scratch.data_ptr())

    def _pointers(self, layer: LayerWeights) -> _Layer:
        products = {name: self._product_of(getattr(layer, name)) for name in PRODUCTS}
        vectors = {name: self._floats(getattr(layer, name)) for name in VECTORS}
        return _Layer(**products, **vectors, window=layer.window or 0)

    def _product_of(self, one: PackedLinear) -> _Product:
        self._held.append(one)
        bias = self._floats(one.bias)
        return _Product(
            weight=one.address, bias=bias, outs=one.outs, ins=one.ins, block=one.block, stride=one.stride
        )

    def _floats(self, vector: Tensor | None) -> ctypes.c_void_p | None:
        if vector is None:
            return None
        held = vector.detach().float().contiguous()
        self._held.append(held)
        return _pointer(held)


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


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
    """A decoder in C, or None where torch is to decode; and what decodes, in words."""
    if device.type != "cpu" or dtype not in DEFINES:
        return None, f"torch: {dtype} on {device.type}"
    layouts = {head.layout, *(getattr(layer, name).layout for layer in layers for name in PRODUCTS)}
    layout = layouts.pop()
    if layouts or layout == "unknown":
        return None, "torch: oneDNN lays out weights in a way that is not known here"
    try:
        library = _compiled(dtype, layout)
    except NotCompiledError as error:
        return None, f"torch: {error}"
    return SingleRowDecoder(library, shape, layers, norm=norm, norm_bias=norm_bias, head=head), "compiled C"


@functools.cache
def _compiled(dtype: torch.dtype, layout: Layout) -> ctypes.CDLL:
    """onerow.c, compiled once a process, type and layout."""
    return compile_c(SOURCE, *DEFINES[dtype], *(("ROWS",) if layout == "rows" else ()))
