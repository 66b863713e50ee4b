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

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    batch_tokens: int
    """Tokens of one optimizer step."""
    lr: float
    """Peak, reached after the warm-up."""
    max_position_embeddings: int = GPT3_CONTEXT


SIZES: dict[str, Size] = {
    # Not in the paper: what falls furthest in two minutes on two CPU cores. At equal CPU time on 31 MB of Python
    # the held-out loss was 5.09 with 6 layers and 4,096 tokens a step, 4.72 with 2,048; 4.37 with 4 layers of
    # 2,048, 3.86 with 2.
    "tiny": Size(
        num_hidden_layers=2,
        hidden_size=256,
        num_attention_heads=4,
        batch_tokens=2048,
        lr=3e-3,
        max_position_embeddings=256,
    ),
    "gpt3-125m": Size(
        num_hidden_layers=12, hidden_size=768, num_attention_heads=12, batch_tokens=500_000, lr=6e-4
    ),
    "gpt3-350m": Size(
        num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, batch_tokens=500_000, lr=3e-4
    ),
    "gpt3-760m": Size(
        num_hidden_layers=24, hidden_size=1536, num_attention_heads=16, batch_tokens=500_000, lr=2.5e-4
    ),
    "gpt3-1.3b": Size(
        num_hidden_layers=24, hidden_size=2048, num_attention_heads=16, batch_tokens=1_000_000, lr=2e-4
    ),
    "gpt3-2.7b": Size(
        num_hidden_layers=32, hidden_size=2560, num_attention_heads=32, batch_tokens=1_000_000, lr=1.6e-4
    ),
    "gpt3-6.7b": Size(
        num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, batch_tokens=2_000_000, lr=1.2e-4
    ),
    "gpt3-13b": Size(
        num_hidden_layers=40, hidden_size=5120, num_attention_heads=40, batch_tokens=2_000_000, lr=1e-4
    ),
    "gpt3-175b": Size(
        num_hidden_layers=96, hidden_size=12288, num_attention_heads=96, batch_tokens=3_200_000, lr=0.6e-4
    ),
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
