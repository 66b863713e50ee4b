"""A size's name -> its shape, batch and learning rate: Table 2.1 of the GPT-3 paper, and `tiny`.

The table contradicts itself twice, and here is what works: 1.3B is printed with 24 heads of 128
channels, which is not its width of 2048 (16 heads are); 13B is printed with width 5140, which 40
heads do not divide (5120 = 40 x 128 is). The other six agree: heads x head width = width.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import ConfigError
from headrace.model.gpt.gpt import GPTConfig
from headrace.plan import MODELS

GPT3_CONTEXT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One row of Table 2.1: a shape and how the paper trained it."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    batch_tokens: int
    """Tokens of one optimizer step."""
    lr: float
    """Peak, reached after the warm-up."""
    max_position_embeddings: int = GPT3_CONTEXT


def _size(name: str, *, batch_tokens: int, lr: float, max_position_embeddings: int = GPT3_CONTEXT) -> Size:
    """With the shape that the planner's table of models has for the name."""
    shape = MODELS[name]
    return Size(
        num_hidden_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        num_attention_heads=shape.num_heads,
        batch_tokens=batch_tokens,
        lr=lr,
        max_position_embeddings=max_position_embeddings,
    )


SIZES: dict[str, Size] = {
    # Not in the paper: what falls furthest in two minutes on two CPU cores. At equal CPU time on 31 MB of Python
    # the held-out loss was 5.09 with 6 layers and 4,096 tokens a step, 4.72 with 2,048; 4.37 with 4 layers of
    # 2,048, 3.86 with 2.
    "tiny": _size("tiny", batch_tokens=2048, lr=3e-3, max_position_embeddings=256),
    "gpt3-125m": _size("gpt3-125m", batch_tokens=500_000, lr=6e-4),
    "gpt3-350m": _size("gpt3-350m", batch_tokens=500_000, lr=3e-4),
    "gpt3-760m": _size("gpt3-760m", batch_tokens=500_000, lr=2.5e-4),
    "gpt3-1.3b": _size("gpt3-1.3b", batch_tokens=1_000_000, lr=2e-4),
    "gpt3-2.7b": _size("gpt3-2.7b", batch_tokens=1_000_000, lr=1.6e-4),
    "gpt3-6.7b": _size("gpt3-6.7b", batch_tokens=2_000_000, lr=1.2e-4),
    "gpt3-13b": _size("gpt3-13b", batch_tokens=2_000_000, lr=1e-4),
    "gpt3-175b": _size("gpt3-175b", batch_tokens=3_200_000, lr=0.6e-4),
}


def gpt_config(
    name: str, *, vocab_size: int, max_position_embeddings: int | None = None, banded: bool = False
) -> GPTConfig:
    """The shape of a named size for a vocabulary.

    Args:
        name: a key of SIZES.
        vocab_size: ids are in [0, vocab_size).
        max_position_embeddings: positions; default the size's own (2048 for the paper's).
        banded: GPT-3's alternating dense and locally banded layers.

    Raises:
        ConfigError: no such size.

    >>> gpt_config("gpt3-125m", vocab_size=50257).num_parameters
    125226240
    """
    if name not in SIZES:
        raise ConfigError(f"model: no size named {name!r}; there are {', '.join(SIZES)}.")
    size = SIZES[name]
    return GPTConfig(
        num_hidden_layers=size.num_hidden_layers,
        hidden_size=size.hidden_size,
        num_attention_heads=size.num_attention_heads,
        vocab_size=vocab_size,
        max_position_embeddings=size.max_position_embeddings
        if max_position_embeddings is None
        else max_position_embeddings,
        banded=banded,
    )
