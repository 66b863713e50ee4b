"""Token ids -> logits: GPT-3's decoder.

Shapes: B batch, T tokens given now, S tokens seen in all (cache + T), W width, H heads, D head width,
V vocabulary.
Source: Brown et al. 2020, section 2.1, which is Radford et al. 2019 (GPT-2) plus alternating dense and
locally banded attention (Child et al. 2019). Equal to transformers' GPT2LMHeadModel with the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.model.initialize import init_weights
from headrace.model.loss import linear_cross_entropy
from headrace.model.products import Embedding, Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig:
    """The shape of a model; two models with the same config can exchange weights."""

    num_hidden_layers: int
    hidden_size: int
    """Width of the residual stream; a multiple of num_attention_heads."""
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    """Longest sequence: the number of learned positions."""
    banded: bool = False
    """GPT-3's pattern: odd layers see only the last band_width tokens. Off for exported models."""
    band_width: int = 256

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built, before memory is allocated."""
        for name in (
            "num_hidden_layers",
            "hidden_size",
            "num_attention_heads",
            "vocab_size",
            "max_position_embeddings",
            "band_width",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"model: {name} is {value!r}; expected a whole number, at least 1.")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"model: hidden_size {self.hidden_size} is not divisible by num_attention_heads "
                f"{self.num_attention_heads}; each head needs the same number of channels."
            )

    @property
    def head_dim(self) -> int:
        """Channels of one head (D)."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        """As many as query heads."""
        return self.num_attention_heads

    @property
    def tie_word_embeddings(self) -> bool:
        """The head is the token table."""
        return True

    @property
    def num_parameters(self) -> int:
        """Weights and biases, the tied head counted once."""
        width = self.hidden_size
        block = 12 * width**2 + 13 * width
        tables = (self.vocab_size + self.max_position_embeddings) * width
        return tables + self.num_hidden_layers * block + 2 * width

    def is_banded(self, layer: int) -> bool:
        """Whether a layer sees only the last band_width tokens (every second one, the first is dense)."""
        return self.banded and layer % 2 == 1

    def flops_per_token(self, seq_len: int) -> float:
        """Floating point operations of one training token, forward and backward, nothing recomputed.

        72 L W^2 (1 + T/6W + V/12LW): 6 for each weight of a matrix product, and attention's 12 L W T.
        """
        layers, width = self.num_hidden_layers, self.hidden_size
        matrices = 12 * layers * width**2 + self.vocab_size * width
        return 6.0 * matrices + 12.0 * layers * width * seq_len


class KeyValueCache(Protocol):
    """Keys and values of earlier tokens, as `headrace.model.kv.KVCache` keeps them."""

    def positions(self, num_tokens: int) -> Tensor:
        """Position of each of the next num_tokens, int64 [B, T]."""
        ...

    def extend(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store keys and values; return all so far, [B, H, S, D], and a mask.

        The mask is bool [B or 1, 1, T, S], True where seen. Slot s of a row holds
        its position s. No mask means: causal when S = T, all seen when T = 1.
        """
        ...


class GPT(nn.Module):
    """GPT-3's decoder: learned positions, pre-LayerNorm blocks, tied head.

    >>> model = GPT(
    ...     GPTConfig(
    ...         num_hidden_layers=2,
    ...         hidden_size=16,
    ...         num_attention_heads=2,
    ...         vocab_size=257,
    ...         max_position_embeddings=8,
    ...     )
    ... )
    >>> tuple(model(torch.zeros(3, 8, dtype=torch.int64)).shape)
    (3, 8, 257)
    """

    def __init__(self, config: GPTConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tok = Embedding(config.vocab_size, config.hidden_size)
        self.pos = Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(
            TransformerBlock(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        init_weights(self, num_layers=config.num_hidden_layers, seed=seed)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        labels_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        kv: KeyValueCache | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits of the next token, or the loss when labels are given.

        Args:
            ids_BT: int64 [B, T], in [0, V).
            labels_BT: int64 [B, T], the next token of each; -100 is not counted.
            positions_BT: int64 [B, T]; default 0..T-1, or the cache's.
            documents_BT: int [B, T], number of the document that each token belongs to: attention does
                not cross documents. Default: it does, as in the paper.
            kv: keys and values of earlier tokens; the caller advances it afterwards.
            last_only: logits of the last token only, [B, 1, V].

        Returns:
            Logits [B, T, V]; with labels the **sum** of the cross-entropies in nats, float32 scalar
            (a mean of means is wrong where rows have different numbers of counted labels).

        Raises:
            ConfigError: more tokens than the model has positions.
        """
        x_BTW = self.hidden(ids_BT, positions_BT=positions_BT, documents_BT=documents_BT, kv=kv)
        if labels_BT is not None:
            return linear_cross_entropy(x_BTW, self.tok.weight, labels_BT)
        return self.logits(x_BTW[:, -1:] if last_only else x_BTW)

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        kv: KeyValueCache | None = None,
    ) -> Tensor:
        """The residual stream after the last normalisation, [B, T, W]."""
        T = ids_BT.shape[1]
        if self.config.max_position_embeddings < T:
            raise ConfigError(
                f"model: {T} tokens given, it has {self.config.max_position_embeddings} positions. "
                f"Shorten the rows (seq_len)."
            )
        if positions_BT is None:
            positions_BT = torch.arange(T, device=ids_BT.device)[None] if kv is None else kv.positions(T)
        x_BTW = self.tok(ids_BT) + self.pos(positions_BT)
        masks = None if kv is not None else attention_masks(self.config, T, documents_BT, ids_BT.device)
        for layer, block in enumerate(self.blocks):
            mask = None if masks is None else masks[self.config.is_banded(layer)]
            x_BTW = block(x_BTW, mask=mask, kv=kv, positions_BT=positions_BT)
        out: Tensor = self.norm(x_BTW)
        return out

    def logits(self, x_BTW: Tensor) -> Tensor:
        """Tied head: the token table read the other way, [B, T, V]."""
        return F.linear(x_BTW, self.tok.weight)


def attention_masks(
    config: GPTConfig, num_tokens: int, documents_BT: Tensor | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Masks of dense and banded layers without a cache; None is plain causal, which has a fast path."""
    if documents_BT is None and not config.banded:
        return None, None
    query, key = torch.arange(num_tokens, device=device)[:, None], torch.arange(num_tokens, device=device)
    seen = (key <= query)[None, None]
    band = seen & (key > query - config.band_width)
    if documents_BT is None:
        return None, band
    same_B1TT = (documents_BT[:, :, None] == documents_BT[:, None, :])[:, None]
    return seen & same_B1TT, band & same_B1TT


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward layer, each on a normalised copy and added to the stream."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.attn = Attention(config, layer)
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.mlp = FeedForward(config)

    def forward(
        self,
        x_BTW: Tensor,
        *,
        mask: Tensor | None = None,
        kv: KeyValueCache | None = None,
        positions_BT: Tensor | None = None,
    ) -> Tensor:
        """[B, T, W] -> [B, T, W]; positions are needed by banded layers with a cache only."""
        x_BTW = x_BTW + self.attn(self.norm1(x_BTW), mask=mask, kv=kv, positions_BT=positions_BT)
        out: Tensor = x_BTW + self.mlp(self.norm2(x_BTW))
        return out


class Attention(nn.Module):
    """Multi-head self-attention, causal; banded when the config says so for this layer."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.band_width = config.band_width if config.is_banded(layer) else None
        # Rows are ordered head, then q/k/v, then channel: any contiguous slice of whole heads is a
        # smaller attention, which is what tensor parallelism needs.
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        x_BTW: Tensor,
        *,
        mask: Tensor | None = None,
        kv: KeyValueCache | None = None,
        positions_BT: Tensor | None = None,
    ) -> Tensor:
        """[B, T, W] -> [B, T, W]."""
        B, T, _ = x_BTW.shape
        q_BHTD, k_BHTD, v_BHTD = (
            part.transpose(1, 2) for part in self.qkv(x_BTW).view(B, T, -1, 3, self.head_dim).unbind(3)
        )
        if kv is not None:
            k_BHTD, v_BHTD, mask = kv.extend(self.layer, k_BHTD, v_BHTD)
            S = k_BHTD.shape[2]
            if self.band_width is not None and positions_BT is not None and self.band_width < S:
                slot = torch.arange(S, device=x_BTW.device)
                query_B1T1 = positions_BT[:, None, :, None]
                band = (slot <= query_B1T1) & (slot > query_B1T1 - self.band_width)
                mask = band if mask is None else mask & band
        causal = mask is None and k_BHTD.shape[2] == T
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=mask, is_causal=causal)
        out: Tensor = self.out(y_BHTD.transpose(1, 2).reshape(B, T, -1))
        return out


class FeedForward(nn.Module):
    """Four times wider, GELU in GPT-2's tanh approximation, and back."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, 4 * config.hidden_size)
        self.down = Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, x_BTW: Tensor) -> Tensor:
        """[B, T, W] -> [B, T, W]."""
        out: Tensor = self.down(F.gelu(self.up(x_BTW), approximate="tanh"))
        return out
