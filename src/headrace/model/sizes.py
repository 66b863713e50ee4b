"""A size's name -> its shape, batch and learning rate: Table 2.1 of the GPT-3 paper, and `tiny`.

The table contradicts itself twice, and here is what works: 1.3B is printed with 24 heads of 128
channels, which is not its width of 2048 (16 heads are); 13B is printed with width 5140, which 40
heads do not divide (5120 = 40 x 128 is). The other six agree: heads x head width = width.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import ConfigError
from headrace.model.gpt import GPTConfig

GPT3_CONTEXT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One row of Table 2.1: a shape and how the paper trained it."""

    num_layers: int
    width: int
    num_heads: int
    batch_tokens: int
    """Tokens of one optimizer step."""
    learning_rate: float
    """Peak, reached after the warm-up."""
    context: int = GPT3_CONTEXT


SIZES: dict[str, Size] = {
    # Not in the paper: what falls furthest in two minutes on two CPU cores. At equal CPU time on 31 MB of Python
    # the held-out loss was 5.09 with 6 layers and 4,096 tokens a step, 4.72 with 2,048; 4.37 with 4 layers of
    # 2,048, 3.86 with 2.
    "tiny": Size(num_layers=2, width=256, num_heads=4, batch_tokens=2048, learning_rate=3e-3, context=256),
    "gpt3-125m": Size(num_layers=12, width=768, num_heads=12, batch_tokens=500_000, learning_rate=6e-4),
    "gpt3-350m": Size(num_layers=24, width=1024, num_heads=16, batch_tokens=500_000, learning_rate=3e-4),
    "gpt3-760m": Size(num_layers=24, width=1536, num_heads=16, batch_tokens=500_000, learning_rate=2.5e-4),
    "gpt3-1.3b": Size(num_layers=24, width=2048, num_heads=16, batch_tokens=1_000_000, learning_rate=2e-4),
    "gpt3-2.7b": Size(num_layers=32, width=2560, num_heads=32, batch_tokens=1_000_000, learning_rate=1.6e-4),
    "gpt3-6.7b": Size(num_layers=32, width=4096, num_heads=32, batch_tokens=2_000_000, learning_rate=1.2e-4),
    "gpt3-13b": Size(num_layers=40, width=5120, num_heads=40, batch_tokens=2_000_000, learning_rate=1e-4),
    "gpt3-175b": Size(num_layers=96, width=12288, num_heads=96, batch_tokens=3_200_000, learning_rate=0.6e-4),
}


def gpt_config(name: str, *, vocab_size: int, context: int | None = None, banded: bool = False) -> GPTConfig:
    """The shape of a named size for a vocabulary.

    Args:
        name: a key of SIZES.
        vocab_size: ids are in [0, vocab_size).
        context: positions; default the size's own (2048 for the paper's).
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
        num_layers=size.num_layers,
        width=size.width,
        num_heads=size.num_heads,
        vocab_size=vocab_size,
        context=size.context if context is None else context,
        banded=banded,
    )
