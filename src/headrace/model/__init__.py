"""Token ids -> logits: GPT-3 on one page, its sizes by name, its weights in and out."""

from headrace.model.gpt import GPT, GPTConfig
from headrace.model.sizes import SIZES, Size, gpt_config
from headrace.model.weights import from_hf, load_model, load_weights, save_weights, to_hf

__all__ = [
    "GPT",
    "SIZES",
    "GPTConfig",
    "Size",
    "from_hf",
    "gpt_config",
    "load_model",
    "load_weights",
    "save_weights",
    "to_hf",
]
