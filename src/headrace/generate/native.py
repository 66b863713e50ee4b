"""A GPT and one step's flat tokens -> the hidden states that are wanted, through the slot cache.

The model's own weights and the model's own arithmetic, without padding: equal to `GPT.forward`.
N tokens of the step, K of them wanted, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor

from headrace.generate.attend import Step, attend
from headrace.generate.fingerprint import fingerprint_of
from headrace.generate.pack import Packed
from headrace.model.gpt import GPT, Block
from headrace.model.kv import KVCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One block's products, laid out for the number of rows."""

    block: Block
    qkv: Packed
    out: Packed
    up: Packed
    down: Packed


class GPTRunner:
    """Runs headrace's GPT step by step; holds no state but the weights.

    Args:
        model: its weights are read, not changed.
        rows: rows that will be decoded at once; the weights are laid out for them.
    """

    name = "native"

    def __init__(self, model: GPT, *, rows: int = 32) -> None:
        self.model = model.eval()
        self.vocab_size = model.config.vocab_size
        self.context = model.config.context
        self.fingerprint = fingerprint_of(model.state_dict())
        weight = model.tok.weight.detach()
        self.dtype, self.device = weight.dtype, weight.device
        self._layers = [
            Layer(
                block=block,
                qkv=Packed.of(block.attn.qkv, rows=rows),
                out=Packed.of(block.attn.out, rows=rows),
                up=Packed.of(block.mlp.up, rows=rows),
                down=Packed.of(block.mlp.down, rows=rows),
            )
            for block in cast("Iterable[Block]", model.blocks)
        ]
        self._head = Packed(weight, rows=rows)

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
        for number, layer in enumerate(self._layers):
            block = layer.block
            qkv = layer.qkv(block.norm1(x_NW)).view(N, -1, 3, block.attn.head_width)
            y_NHD = attend(kv, step, number, *qkv.unbind(2), window=block.attn.band_width)
            x_NW = x_NW + layer.out(y_NHD.view(N, W))
            inner = F.gelu(layer.up(block.norm2(x_NW)), approximate="tanh")
            x_NW = x_NW + layer.down(inner)
        out: Tensor = model.norm(x_NW if step.keeps_all else x_NW[step.keep_K])
        return out

    @torch.inference_mode()
    def logits(self, x_KW: Tensor) -> Tensor:
        """Next-token logits, [K, V]."""
        return self._head(x_KW)
