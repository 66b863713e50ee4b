"""What a caller asks of each sample -> one checked, frozen value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from headrace.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How tokens are chosen and when a row ends; temperature 0 is greedy.

    Applied in this order: penalties, temperature, top-k, top-p, min-p.

    >>> SamplingOptions(temperature=0.7, top_p=0.9).greedy
    False
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None
    """Choose among the k likeliest tokens."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together have this probability."""
    min_p: float | None = None
    """Leave out tokens less likely than this share of the likeliest."""
    repetition_penalty: float = 1.0
    """Divide positive and multiply negative logits of tokens in prompt or output (Keskar et al. 2019)."""
    presence_penalty: float = 0.0
    """Subtract from the logit of each token in the output."""
    frequency_penalty: float = 0.0
    """Subtract this times its number in the output from the logit of a token."""
    stop: tuple[str, ...] = ()
    """Text that ends a row; it is cut from the text, its tokens stay in token_ids."""
    ignore_eos: bool = False
    """Go on after the end-of-document id."""
    seed: int = 0
    logprobs: bool = False
    """Log-probability of each generated token, before temperature and penalties."""
    prompt_logprobs: bool = False
    """The same for each token of the prompt but the first."""
    top_logprobs: int = 0
    """Alternatives to report at each token with their log-probabilities; for servers, not stored."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning, naming the field."""
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 0, "0 or more"),
            "temperature": (math.isfinite(self.temperature) and self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (self.top_k is None or self.top_k >= 1, "1 or more, or None"),
            "top_p": (self.top_p is None or 0 < self.top_p <= 1, "in (0, 1], or None"),
            "min_p": (self.min_p is None or 0 <= self.min_p <= 1, "in [0, 1], or None"),
            "repetition_penalty": (
                math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
                "more than 0; 1 is none",
            ),
            "presence_penalty": (math.isfinite(self.presence_penalty), "a finite number; 0 is none"),
            "frequency_penalty": (math.isfinite(self.frequency_penalty), "a finite number; 0 is none"),
            "stop": (all(self.stop), "strings of at least one character"),
            "top_logprobs": (0 <= self.top_logprobs <= 100, "0 to 100"),
        }
        for name, (good, wanted) in checks.items():
            if not good:
                raise ConfigError(f"sampling: {name} is {getattr(self, name)!r}; it must be {wanted}.")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0

    @property
    def truncated(self) -> bool:
        """Whether only some tokens can be drawn."""
        return self.top_k is not None or (self.top_p or 1.0) < 1.0 or bool(self.min_p)

    @property
    def penalized(self) -> bool:
        """Whether earlier tokens change a token's logit."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def to_json(self) -> dict[str, Any]:
        """All fields, as a job's run id counts them."""
        return asdict(self)
