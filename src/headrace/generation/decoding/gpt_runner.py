"""A GPT and the tokens of one step -> the requested hidden states, by the key/value cache.

The weights and the arithmetic are the model's own, without padding: the result equals `GPT.forward`.
N tokens of the step, K of them requested, W width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor

from headrace.generation.decoding.attention import StepPlan, attend
from headrace.generation.decoding.fingerprint import fingerprint_of, fingerprint_of_cache
from headrace.generation.decoding.native_decoder import NativeDecoder
from headrace.generation.decoding.native_weights import (
    DecoderShape,
    LayerWeights,
    NativeWeights,
    native_weights,
)
from headrace.generation.decoding.packed_linear import PackedLinear
from headrace.model import GPT, Attention, KVCache, TransformerBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTLayer:
    """One block and its linear layers."""

    block: TransformerBlock
    qkv: PackedLinear
    out: PackedLinear
    up: PackedLinear
    down: PackedLinear


class GPTRunner:
    """Runs headrace's GPT step by step; its only state is the weights.

    Args:
        model: it is not changed.
    """

    name = "native"

    def __init__(self, model: GPT) -> None:
        self.model = model.eval()
        self.vocab_size = model.config.vocab_size
        self.context = model.config.max_position_embeddings
        self.fingerprint = fingerprint_of(model.state_dict())
        self.kv_fingerprint = fingerprint_of_cache(self.fingerprint, asdict(model.config))
        weight = model.tok.weight.detach()
        self.dtype, self.device = weight.dtype, weight.device
        self._layers = [
            GPTLayer(
                block=block,
                qkv=_heads_together(block.attn),
                out=PackedLinear.of(block.attn.out),
                up=PackedLinear.of(block.mlp.up),
                down=PackedLinear.of(block.mlp.down),
            )
            for block in cast("Iterable[TransformerBlock]", model.blocks)
        ]
        self._head = PackedLinear(weight)
        weights = self._weights()
        self._native = None if isinstance(weights, str) else NativeDecoder(weights)
        self.decoder_name = f"torch: {weights}" if self._native is None else self._native.name

    def new_cache(self, *, num_rows: int, capacity: int) -> KVCache:
        """An empty cache that fits this model."""
        config = self.model.config
        return KVCache(
            num_layers=config.num_hidden_layers,
            num_rows=num_rows,
            num_heads=config.num_attention_heads,
            capacity=capacity,
            head_dim=config.head_dim,
            dtype=self.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def hidden(self, step: StepPlan, kv: KVCache) -> Tensor:
        """Normalised hidden states of the requested tokens, [K, W]."""
        model = self.model
        x_NW = model.tok(step.ids_N) + model.pos(step.position_N)
        if self._native is not None:
            return self._native.hidden(x_NW, step, kv, rotation=None)
        N, W = x_NW.shape
        for number, layer in enumerate(self._layers):
            block = layer.block
            qkv = layer.qkv(block.norm1(x_NW)).view(N, 3, -1, block.attn.head_dim)
            y_NHD = attend(kv, step, number, *qkv.unbind(1), window=block.attn.band_width)
            x_NW = x_NW + layer.out(y_NHD.view(N, W))
            inner = F.gelu(layer.up(block.norm2(x_NW)), approximate="tanh")
            x_NW = x_NW + layer.down(inner)
        out: Tensor = model.norm(x_NW if step.keeps_all else x_NW[step.keep_K])
        return out

    @torch.inference_mode()
    def logits(self, x_KW: Tensor) -> Tensor:
        """Next-token logits, [K, V]."""
        return self._head(x_KW) if self._native is None else self._native.logits(x_KW)

    def _weights(self) -> NativeWeights | str:
        config, norm = self.model.config, self.model.norm
        layers = [
            LayerWeights(
                qkv=one.qkv, out=one.out, up=one.up, down=one.down,
                norm1=one.block.norm1.weight, norm1_bias=one.block.norm1.bias,
                norm2=one.block.norm2.weight, norm2_bias=one.block.norm2.bias,
                window=one.block.attn.band_width,
            )
            for one in self._layers
        ]  # fmt: skip
        shape = DecoderShape(
            width=config.hidden_size, heads=config.num_attention_heads, groups=config.num_attention_heads,
            head_width=config.head_dim,
            inner=layers[0].down.ins, gated=False, centred=True, eps=norm.eps,
            scale=1 / math.sqrt(config.head_dim),
        )  # fmt: skip
        return native_weights(
            shape,
            layers,
            norm=norm.weight,
            norm_bias=norm.bias,
            head=self._head,
            dtype=self.dtype,
            device=self.device,
        )


def _heads_together(attention: Attention) -> PackedLinear:
    """The linear layer for queries, keys and values, in this order; in training the three alternate by head."""
    D = attention.head_dim
    weight_OW, bias_O = attention.qkv.weight.detach(), attention.qkv.bias.detach()
    return PackedLinear(
        weight_OW.view(-1, 3, D, weight_OW.shape[1]).transpose(0, 1).reshape(weight_OW.shape),
        bias_O.view(-1, 3, D).transpose(0, 1).reshape(-1),
    )
