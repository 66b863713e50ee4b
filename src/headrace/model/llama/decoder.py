"""Token ids -> logits: the decoder of Llama, Mistral, Qwen, Gemma, OLMo 2 and SmolLM.

Shapes: B batch, T tokens, W width, H query heads, G key/value heads, D head dimension, V vocabulary.
Source: Touvron et al. 2023 (Llama) on Vaswani et al. 2017: rotary positions (Su et al. 2021), RMSNorm (Zhang and
Sennrich 2019), SwiGLU (Shazeer 2020), grouped queries (Ainslie et al. 2023). Equal to transformers' classes of these
names with the same weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate

from headrace.errors import ConfigError
from headrace.model.initialize import init_weights
from headrace.model.llama.decoder_config import DecoderConfig
from headrace.model.llama.rope import RopeParameters, rotate, rotation
from headrace.model.loss import linear_cross_entropy
from headrace.model.products import Embedding, Linear

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class Decoder(nn.Module):
    """A decoder of Llama's family, or some consecutive layers of one: a pipeline stage.

    >>> config = DecoderConfig(
    ...     model_type="llama",
    ...     num_hidden_layers=2,
    ...     hidden_size=16,
    ...     intermediate_size=32,
    ...     num_attention_heads=4,
    ...     num_key_value_heads=2,
    ...     head_dim=4,
    ...     vocab_size=257,
    ...     max_position_embeddings=8,
    ... )
    >>> tuple(Decoder(config)(torch.zeros(3, 8, dtype=torch.int64)).shape)
    (3, 8, 257)
    """

    def __init__(self, config: DecoderConfig, *, seed: int = 0, layers: range | None = None) -> None:
        """Build the model with its first weights.

        Args:
            config: the shape.
            seed: of the weights.
            layers: of a pipeline stage, which keeps the whole model's names; default all. The stage with the first
                layer embeds, the one with the last gives logits or the loss.
        """
        super().__init__()
        self.config = config
        whole = range(config.num_hidden_layers)
        layers = whole if layers is None else layers
        self.is_stage = layers != whole
        self.first, self.last = layers.start == 0, layers.stop == whole.stop
        if self.first or (self.last and config.tie_word_embeddings):
            self.tok = Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleDict({str(layer): DecoderBlock(config, layer) for layer in layers})
        if self.last:
            self.norm = RMSNorm(config.hidden_size, config)
            if not config.tie_word_embeddings:
                self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        init_weights(self, num_layers=config.num_hidden_layers, seed=seed)

    def forward(
        self,
        x: Tensor,
        *,
        labels_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits of the next token, or the loss when labels are given.

        Args:
            x: ids, int64 [B, T]; of a stage behind the first the residual stream [B, T, W].
            labels_BT: int64 [B, T], the next token of each; -100 is not counted.
            positions_BT: int64 [B, T]; default 0..T-1.
            documents_BT: int [B, T], number of the document that each token belongs to: attention does
                not cross documents. Default: it does.

        Returns:
            Logits [B, T, V]; with labels the **sum** of the cross-entropies in nats, float32 scalar. Of a stage
            before the last the residual stream; of the last one the loss as [1].

        Raises:
            ConfigError: more tokens than max_position_embeddings.
        """
        # Of the whole row: between stages the stream may be cut by token.
        T = x.shape[1] if labels_BT is None else labels_BT.shape[1]
        x_BTW = self._embed(x, T) if self.first else x
        if positions_BT is None:
            positions_BT = torch.arange(T, device=x.device)[None]
        rotations = self._rotations(positions_BT)
        full, sliding = attention_masks_of(self.config, T, documents_BT, x.device)
        for layer, block in self.blocks.items():
            number = int(layer)
            x_BTW = block(
                x_BTW,
                rotation=rotations[self.config.rope_of(number)],
                mask=sliding if self.config.is_sliding(number) else full,
            )
        if not self.last:
            return x_BTW
        x_BTW = self.norm(x_BTW)
        if labels_BT is None:
            return self.logits(x_BTW)
        loss = linear_cross_entropy(
            x_BTW, self.head_weight, labels_BT, softcap=self.config.final_logit_softcapping
        )
        return (
            torch.stack([loss]) if self.is_stage else loss
        )  # not a view: FSDP hangs hooks on what comes out

    @property
    def head_weight(self) -> Tensor:
        """The matrix from the last hidden state to logits, [V, W]."""
        return self.tok.weight if self.config.tie_word_embeddings else self.head.weight

    def logits(self, x_BTW: Tensor) -> Tensor:
        """Normalised hidden states -> logits [B, T, V]."""
        logits_BTV = F.linear(x_BTW, self.head_weight)
        cap = self.config.final_logit_softcapping
        return logits_BTV if cap is None else cap * torch.tanh(logits_BTV / cap)

    def _embed(self, ids_BT: Tensor, num_tokens: int) -> Tensor:
        if self.config.max_position_embeddings < num_tokens:
            raise ConfigError(
                f"model: {num_tokens} tokens given, it has {self.config.max_position_embeddings} positions. "
                f"Shorten the rows (seq_len)."
            )
        x_BTW: Tensor = self.tok(ids_BT)
        return x_BTW * math.sqrt(self.config.hidden_size) if self.config.scale_embeddings else x_BTW

    def _rotations(self, positions_BT: Tensor) -> dict[RopeParameters, tuple[Tensor, Tensor]]:
        """Cosines and sines by the kinds of rotary positions that these layers have."""
        kinds = {self.config.rope_of(int(layer)) for layer in self.blocks}
        return {rope: rotation(rope, positions_BT, self.config.head_dim) for rope in kinds}


def attention_masks_of(
    config: DecoderConfig, num_tokens: int, documents_BT: Tensor | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Masks of full and sliding layers; None is plain causal, which has a fast path."""
    window = config.sliding_window
    slides = window is not None and window < num_tokens
    if documents_BT is None and not slides:
        return None, None
    query, key = torch.arange(num_tokens, device=device)[:, None], torch.arange(num_tokens, device=device)
    seen = (key <= query)[None, None]
    band = seen if window is None else seen & (key > query - window)
    if documents_BT is None:
        return None, band
    same_B1TT = (documents_BT[:, :, None] == documents_BT[:, None, :])[:, None]
    return seen & same_B1TT, band & same_B1TT


class DecoderBlock(nn.Module):
    """Attention, then a gated feed-forward layer, each added to the stream; norms before, behind or around them."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.pre, self.post = config.norm_placement != "post", config.norm_placement != "pre"
        self.attn = GroupedAttention(config, layer)
        self.mlp = GatedFeedForward(config)
        if self.pre:
            self.norm1, self.norm2 = (
                RMSNorm(config.hidden_size, config),
                RMSNorm(config.hidden_size, config),
            )
        if self.post:
            self.post_norm1 = RMSNorm(config.hidden_size, config)
            self.post_norm2 = RMSNorm(config.hidden_size, config)

    def forward(self, x_BTW: Tensor, *, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """[B, T, W] -> [B, T, W]."""
        out: Tensor = self.attn(self.norm1(x_BTW) if self.pre else x_BTW, rotation=rotation, mask=mask)
        x_BTW = x_BTW + (self.post_norm1(out) if self.post else out)
        out = self.mlp(self.norm2(x_BTW) if self.pre else x_BTW)
        return x_BTW + (self.post_norm2(out) if self.post else out)


class GroupedAttention(nn.Module):
    """Causal self-attention with rotary positions; several query heads share a key/value head."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim, self.scale = config.head_dim, config.attention_scale
        self.softcap = config.attn_logit_softcapping
        width, D = config.hidden_size, config.head_dim
        num_q, num_kv = config.num_attention_heads * D, config.num_key_value_heads * D
        self.q = Linear(width, num_q, bias=config.qkv_bias)
        self.k = Linear(width, num_kv, bias=config.qkv_bias)
        self.v = Linear(width, num_kv, bias=config.qkv_bias)
        self.out = Linear(num_q, width, bias=config.attention_out_bias)
        self.qk_norm = config.qk_norm
        if config.qk_norm != "none":
            by_head = config.qk_norm == "head"
            self.q_norm = RMSNorm(D if by_head else num_q, config)
            self.k_norm = RMSNorm(D if by_head else num_kv, config)

    def forward(self, x_BTW: Tensor, *, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """[B, T, W] -> [B, T, W]."""
        q, k, v = self.q(x_BTW), self.k(x_BTW), self.v(x_BTW)
        if self.qk_norm == "projection":
            q, k = self.q_norm(q), self.k_norm(k)
        q_BHTD, k_BGTD, v_BGTD = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (q, k, v)
        )
        if self.qk_norm == "head":
            q_BHTD, k_BGTD = self.q_norm(q_BHTD), self.k_norm(k_BGTD)
        q_BHTD, k_BGTD = rotate(q_BHTD, *rotation), rotate(k_BGTD, *rotation)
        y_BHTD = self._attend(q_BHTD, k_BGTD, v_BGTD, mask)
        out: Tensor = self.out(y_BHTD.transpose(1, 2).flatten(2))
        return out

    def _attend(self, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, mask: Tensor | None) -> Tensor:
        if self.softcap is None:
            return F.scaled_dot_product_attention(
                q_BHTD, k_BGTD, v_BGTD, attn_mask=mask, is_causal=mask is None, scale=self.scale,
                enable_gqa=q_BHTD.shape[1] != k_BGTD.shape[1],
            )  # fmt: skip
        groups, T = q_BHTD.shape[1] // k_BGTD.shape[1], q_BHTD.shape[2]
        k_BHTD, v_BHTD = k_BGTD.repeat_interleave(groups, 1), v_BGTD.repeat_interleave(groups, 1)
        score_BHTT = (q_BHTD @ k_BHTD.transpose(2, 3)).float() * self.scale
        score_BHTT = self.softcap * torch.tanh(score_BHTT / self.softcap)
        if mask is None:
            mask = torch.ones(T, T, dtype=torch.bool, device=q_BHTD.device).tril()
        weight_BHTT = score_BHTT.masked_fill(~mask, -math.inf).softmax(-1).to(v_BHTD.dtype)
        return weight_BHTT @ v_BHTD


class GatedFeedForward(nn.Module):
    """SwiGLU, GeGLU: activation(gate) * up, and down."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate = Linear(width, inner, bias=config.mlp_bias)
        self.up = Linear(width, inner, bias=config.mlp_bias)
        self.down = Linear(inner, width, bias=config.mlp_bias)
        self.activation = _ACTIVATIONS[config.hidden_act]

    def forward(self, x_BTW: Tensor) -> Tensor:
        """[B, T, W] -> [B, T, W]."""
        out: Tensor = self.down(self.activation(self.gate(x_BTW)) * self.up(x_BTW))
        return out


class RMSNorm(nn.Module):
    """Division by the root mean square, times a weight, in float32."""

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        self.eps, self.offset = config.rms_norm_eps, float(config.norm_unit_offset)
        self.first_value = 1.0 - self.offset
        """Of the weight: see init_weights."""
        self.width = width
        self.weight = nn.Parameter(torch.full((width,), self.first_value))

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        weight, wide = self.weight, x.float()
        if isinstance(weight, DTensor) and not isinstance(x, DTensor):
            return self._of_heads(wide, weight).to(x.dtype)
        return F.rms_norm(wide, (self.width,), weight + self.offset, self.eps).to(x.dtype)

    def _of_heads(self, x: Tensor, weight: DTensor) -> Tensor:
        """Norm of the queries or keys of this rank's heads; the weight is cut like them, or all ranks share it."""
        if weight.placements[0].is_replicate():
            # Each rank's gradient is of its heads: a partial sum.
            own = weight.to_local(grad_placements=[Partial()])
            return F.rms_norm(x, (self.width,), own + self.offset, self.eps)
        square = x.square().sum(-1, keepdim=True)
        total = DTensor.from_local(square, weight.device_mesh, [Partial()]).redistribute(
            placements=[Replicate()]
        )
        mean = total.to_local(grad_placements=[Partial()]) / self.width
        return x * torch.rsqrt(mean + self.eps) * (weight.to_local() + self.offset)
