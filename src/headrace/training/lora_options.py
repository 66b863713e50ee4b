"""What users write about LoRA tuning -> one frozen dataclass of options, with peft's names."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.types import Flag


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions:
    """LoRA: low-rank matrices beside frozen weights learn, instead of all weights.

    What is not given (None) keeps the value that a run or an adapter has.
    """

    r: Annotated[
        int | None, Flag("--lora-r"), Doc("Rank; this option turns LoRA on. It needs --init-from.")
    ] = None
    lora_alpha: Annotated[
        float | None, Doc("The change is scaled by lora_alpha / r. Default: twice the rank.")
    ] = None
    target_modules: Annotated[
        tuple[str, ...],
        Flag("--lora-target-modules"),
        Doc(
            "Linear layers by transformers' names, such as q_proj or c_attn, or all-linear; may be repeated. "
            "Default: q_proj and v_proj; gpt2: c_attn."
        ),
    ] = ()
    lora_dropout: Annotated[
        float | None, Doc("Share of the input of the low-rank matrices set to zero. Default: 0.")
    ] = None
    use_rslora: Annotated[bool | None, Doc("Scale by lora_alpha / sqrt(r) instead.")] = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.r is not None and (isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1):
            raise ConfigError(f"train: r (--lora-r) is {self.r!r}; expected a whole number, at least 1.")
        alpha, dropout = self.lora_alpha, self.lora_dropout
        if alpha is not None and (isinstance(alpha, bool) or not 0 < alpha < math.inf):
            raise ConfigError(f"train: lora_alpha is {alpha!r}; expected a number above 0.")
        if dropout is not None and (isinstance(dropout, bool) or not 0 <= dropout < 1):
            raise ConfigError(f"train: lora_dropout is {dropout!r}; expected a number from 0 to below 1.")
        if not isinstance(self.target_modules, tuple | list):  # a string is a sequence of letters
            raise ConfigError(
                f"train: target_modules is {self.target_modules!r}; expected several names, such as ('q_proj',)."
            )

    @property
    def is_given(self) -> bool:
        """Whether any option differs from its default."""
        return any(getattr(self, field.name) != field.default for field in dataclasses.fields(self))
