"""A transformers model of the Llama family -> the same arithmetic in fewer operations, or None for other models.

Decoding few rows is a read of the weights with Python between the reads: transformers takes some fifty small
operations a layer, this takes twenty, and where one row is decoded, the extension in C takes none. Queries, keys
and values are one product, and so are the gate and the feed-forward's first layer. What a layer has is looked up by
name, and any other part gives None; the caller compares logits with the model's own before it uses the decoder.

Shapes: N tokens, W width, H query heads, G key/value heads, D head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor

from headrace.generation.decoding.attention import StepPlan, attend
from headrace.generation.decoding.native_decoder import NativeDecoder
from headrace.generation.decoding.native_weights import (
    DecoderShape,
    LayerWeights,
    NativeWeights,
    native_weights,
)
from headrace.generation.decoding.packed_linear import PackedLinear
from headrace.model import KVCache

FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}
ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}
LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedLayer:
    """One decoder layer's weights."""

    norm1_W: Tensor | None
    """None where its weight is in the following product; norm2_W likewise."""
    qkv: PackedLinear
    q_norm_D: Tensor | None
    k_norm_D: Tensor | None
    out: PackedLinear
    norm2_W: Tensor | None
    gate_up: PackedLinear
    down: PackedLinear
    window: int | None


class FusedDecoder:
    """The decoder of a Llama-like model, from ids to last hidden states."""

    def __init__(self, model: Any) -> None:
        base = model.base_model
        self._config = config = model.config
        first = base.layers[0].self_attn
        self.head_width = int(first.head_dim)
        self.scale = float(first.scaling)
        self.eps = float(config.rms_norm_eps)
        device = first.q_proj.weight.device
        self._floor = torch.tensor(math.sqrt(config.hidden_size * self.eps), device=device)
        self._root_eps = torch.tensor(math.sqrt(self.eps), device=device)
        self.embed, self.rotary = base.embed_tokens, base.rotary_emb
        # In float32 a norm's weight is multiplied into the following product: one operation less, and as exact.
        self._folds = first.q_proj.weight.dtype == torch.float32
        self.norm_W = None if self._folds else base.norm.weight.detach()
        self.layers = [self._layer(layer) for layer in base.layers]
        self.num_heads = first.q_proj.out_features // self.head_width
        self.num_groups = first.k_proj.out_features // self.head_width
        self.head = PackedLinear.of(model.get_output_embeddings(), scale_I=self._fold(base.norm))
        weights = self._weights(first.q_proj.weight)
        self._native = None if isinstance(weights, str) else NativeDecoder(weights)
        self.decoder_name = f"torch: {weights}" if self._native is None else self._native.name

    @classmethod
    def of(cls, model: Any) -> FusedDecoder | None:
        """The fused form of a model, or None where the model has parts that are not known here.

        Args:
            model: of transformers, with its head.
        """
        base = model.base_model
        if model.config.model_type not in FAMILIES or model.config.hidden_act != "silu":
            return None
        if not {name for name, _ in base.named_children()} <= {
            "embed_tokens",
            "layers",
            "norm",
            "rotary_emb",
        }:
            return None
        for layer in base.layers:
            attention, mlp = layer.self_attn, layer.mlp
            if (
                {name for name, _ in layer.named_children()} != LAYER_PARTS
                or not {name for name, _ in attention.named_children()} <= ATTENTION_PARTS
                or {name for name, _ in mlp.named_children()}
                != {"gate_proj", "up_proj", "down_proj", "act_fn"}
            ):
                return None
        return cls(model)

    def __call__(self, step: StepPlan, kv: KVCache) -> Tensor:
        """Last hidden states of the requested tokens, [K, W]."""
        if self._native is not None:
            x_NW = self.embed(step.ids_N).float()
            cos_1ND, sin_1ND = self.rotary(x_NW[None], step.position_N[None])
            return self._native.hidden(x_NW, step, kv, rotation=(cos_1ND[0], sin_1ND[0]))
        H, G, D = self.num_heads, self.num_groups, self.head_width
        x_NW = self.embed(step.ids_N)
        cos_1ND, sin_1ND = self.rotary(x_NW[None], step.position_N[None])
        cos_N1D = cos_1ND[0, :, None]
        # (-b, a) * sin = roll(a, b) * (-sin, sin): one rotation without a negated copy.
        sin_N1D = sin_1ND[0, :, None].clone()
        sin_N1D[..., : D // 2].neg_()
        for number, layer in enumerate(self.layers):
            qkv_NHD = layer.qkv(self._normalised(x_NW, layer.norm1_W)).view(-1, H + 2 * G, D)
            qk_NHD, v_NGD = qkv_NHD[:, : H + G], qkv_NHD[:, H + G :]
            if layer.q_norm_D is not None and layer.k_norm_D is not None:
                q_NHD = self._normalised(qk_NHD[:, :H], layer.q_norm_D)
                qk_NHD = torch.cat([q_NHD, self._normalised(qk_NHD[:, H:], layer.k_norm_D)], dim=1)
            qk_NHD = torch.addcmul(qk_NHD * cos_N1D, qk_NHD.roll(D // 2, -1), sin_N1D)
            y_NHD = attend(
                kv, step, number, qk_NHD[:, :H], qk_NHD[:, H:], v_NGD, scale=self.scale, window=layer.window
            )
            x_NW = x_NW + layer.out(y_NHD.view(-1, H * D))
            gate_NI, up_NI = layer.gate_up(self._normalised(x_NW, layer.norm2_W)).chunk(2, dim=1)
            x_NW = x_NW + layer.down(F.silu(gate_NI).mul_(up_NI))
        return self._normalised(x_NW if step.keeps_all else x_NW[step.keep_K], self.norm_W)

    def logits(self, x_KW: Tensor) -> Tensor:
        """Next-token logits, [K, V]."""
        return self.head(x_KW) if self._native is None else self._native.logits(x_KW)

    def _normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """Root mean square norm; without a weight, sqrt(W) smaller, which the following product corrects."""
        # sqrt(|x|^2 + W eps): two operations where rms_norm takes ten.
        if weight is None:
            return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floor)
        # In place: 512 tokens of bfloat16 take 63 us, and rms_norm's copies 930.
        wide = x.to(torch.float32, copy=True)
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        rate = torch.hypot(size / math.sqrt(len(weight)), self._root_eps)
        return wide.div_(rate).mul_(weight).to(x.dtype)

    def _fold(self, norm: Any) -> Tensor | None:
        """The norm's weight to multiply a product's input with, where the product includes it."""
        weight: Tensor = norm.weight.detach()
        return weight * math.sqrt(len(weight)) if self._folds else None

    def _layer(self, layer: Any) -> FusedLayer:
        attention, mlp = layer.self_attn, layer.mlp
        # Mistral has its window in the config, Qwen in each layer.
        window = getattr(attention, "sliding_window", getattr(self._config, "sliding_window", None))
        norms = (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
        return FusedLayer(
            norm1_W=None if self._folds else layer.input_layernorm.weight.detach(),
            qkv=PackedLinear.of(
                attention.q_proj,
                attention.k_proj,
                attention.v_proj,
                scale_I=self._fold(layer.input_layernorm),
            ),
            q_norm_D=None if norms[0] is None else norms[0].weight.detach(),
            k_norm_D=None if norms[1] is None else norms[1].weight.detach(),
            out=PackedLinear.of(attention.o_proj),
            norm2_W=None if self._folds else layer.post_attention_layernorm.weight.detach(),
            gate_up=PackedLinear.of(
                mlp.gate_proj,
                mlp.up_proj,
                scale_I=self._fold(layer.post_attention_layernorm),
            ),
            down=PackedLinear.of(mlp.down_proj),
            window=window,
        )

    def _weights(self, weight: Tensor) -> NativeWeights | str:
        layers = [
            LayerWeights(
                qkv=layer.qkv, out=layer.out, up=layer.gate_up, down=layer.down,
                norm1=self._unfolded(layer.norm1_W), norm2=self._unfolded(layer.norm2_W),
                q_norm=layer.q_norm_D, k_norm=layer.k_norm_D, window=layer.window,
            )
            for layer in self.layers
        ]  # fmt: skip
        shape = DecoderShape(
            width=self.head.ins, heads=self.num_heads, groups=self.num_groups, head_width=self.head_width,
            inner=layers[0].down.ins, gated=True, centred=False, eps=self.eps, scale=self.scale,
        )  # fmt: skip
        return native_weights(
            shape,
            layers,
            norm=self._unfolded(self.norm_W),
            norm_bias=None,
            head=self.head,
            dtype=weight.dtype,
            device=weight.device,
        )

    def _unfolded(self, weight: Tensor | None) -> Tensor:
        """A norm's weight; a constant where the following product includes the weight."""
        return torch.full((self.head.ins,), 1 / math.sqrt(self.head.ins)) if weight is None else weight
