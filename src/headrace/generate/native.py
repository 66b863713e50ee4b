"""A GPT and one step's flat tokens -> the hidden states that are wanted, through the slot cache.

The model's own weights and the model's own arithmetic, without padding: equal to `GPT.forward`.
N tokens of the step, K of them wanted, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor

from headrace.generate.attend import Step, attend
from headrace.model.gpt import GPT, Block
from headrace.model.kv import KVCache


class GPTRunner:
    """Runs headrace's GPT step by step; holds no state but the weights."""

    name = "native"

    def __init__(self, model: GPT) -> None:
        self.model = model.eval()
        self.vocab_size = model.config.vocab_size
        self.context = model.config.context
        weight = model.tok.weight
        self.dtype, self.device = weight.dtype, weight.device

    def new_cache(self, *, num_rows: int, capacity: int) -> KVCache:
        """An empty cache that fits this model."""
        config = self.model.config
        return KVCache(
            num_layers=config.num_layers,
            num_rows=num_rows,
            num_heads=config.num_heads,
            capacity=capacity,
            head_width=config.head_width,
            dtype=self.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def hidden(self, step: Step, kv: KVCache) -> Tensor:
        """Normalised hidden states of the wanted tokens, [K, W]."""
        model = self.model
        x_NW = model.tok(step.ids_N) + model.pos(step.position_N)
        N, W = x_NW.shape
        for layer, block in enumerate(cast("Iterable[Block]", model.blocks)):
            attention = block.attn
            qkv = attention.qkv(block.norm1(x_NW)).view(N, -1, 3, attention.head_width)
            y_NHD = attend(kv, step, layer, *qkv.unbind(2), window=attention.band_width)
            x_NW = x_NW + attention.out(y_NHD.view(N, W))
            x_NW = x_NW + block.mlp(block.norm2(x_NW))
        out: Tensor = model.norm(x_NW[step.keep_K])
        return out

    @torch.inference_mode()
    def logits(self, x_KW: Tensor) -> Tensor:
        """Next-token logits, [K, V]."""
        return F.linear(x_KW, self.model.tok.weight)
