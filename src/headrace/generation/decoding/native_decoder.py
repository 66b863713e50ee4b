"""A decoder's weights -> its steps by the extension in C, where it can be used; else why torch decodes."""

from __future__ import annotations

from torch import Tensor

from headrace.generation.decoding.attention import StepPlan
from headrace.generation.decoding.many_rows import ManyRowsDecoder
from headrace.generation.decoding.native_step import NativeStepDecoder
from headrace.generation.decoding.native_weights import NativeWeights
from headrace.generation.decoding.single_row import SingleRowDecoder
from headrace.model import KVCache
from headrace.native import native_target


class NativeDecoder:
    """Steps of one token and of many; not safe for threads.

    Args:
        weights: of the model.
    """

    def __init__(self, weights: NativeWeights) -> None:
        self._single = SingleRowDecoder(weights)
        self._many: NativeStepDecoder | ManyRowsDecoder = (
            NativeStepDecoder(weights) if NativeStepDecoder.can_run(weights) else ManyRowsDecoder(weights)
        )
        self.name = f"native {native_target()}"

    def hidden(
        self, x_NW: Tensor, step: StepPlan, kv: KVCache, *, rotation: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Normalised last hidden states of the requested tokens, [K, W].

        Args:
            x_NW: embeddings of the step's tokens.
            step: whose tokens these are.
            kv: of the model's type, on the CPU.
            rotation: cosines and sines of each token's position, [N, D] each, or None.
        """
        if step.only_token is None:
            return self._many.hidden(x_NW, step, kv, rotation=rotation)
        slot, position = step.only_token
        one = None if rotation is None else (rotation[0][0], rotation[1][0])
        return self._single.hidden(x_NW[0], kv, slot=slot, position=position, rotation=one)

    def logits(self, x_KW: Tensor) -> Tensor:
        """Next-token logits, [K, V]."""
        return self._single.logits(x_KW) if len(x_KW) == 1 else self._many.logits(x_KW)
