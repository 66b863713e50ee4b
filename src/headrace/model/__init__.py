"""Token ids -> logits: GPT-3 on one page, its sizes by name, its weights in and out."""

from headrace.model.gpt import GPT, GPTConfig
from headrace.model.sizes import SIZES, Size, gpt_config

__all__ = ["GPT", "SIZES", "GPTConfig", "Size", "gpt_config"]
