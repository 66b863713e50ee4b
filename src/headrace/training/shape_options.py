"""What users write about a model's shape -> one frozen dataclass of options, with transformers' names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from typing_extensions import Doc

from headrace.errors import ConfigError

ModelType = Literal["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "gpt2"]
_LARGEST: Final = {"num_hidden_layers": 10_000, "depth": 1_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeOptions:
    """Model shape, instead of a name."""

    model_type: Annotated[
        ModelType | None, Doc("Architecture, in whose format the run is exported. Default: llama.")
    ] = None
    num_hidden_layers: Annotated[int | None, Doc("Layers.")] = None
    hidden_size: Annotated[int | None, Doc("Width of the residual stream.")] = None
    num_attention_heads: Annotated[int | None, Doc("Query heads.")] = None
    num_key_value_heads: Annotated[int | None, Doc("Key/value heads. Default: as many as query heads.")] = (
        None
    )
    head_dim: Annotated[
        int | None, Doc("Channels of a head. Default: hidden_size / num_attention_heads.")
    ] = None
    intermediate_size: Annotated[
        int | None, Doc("Width of the feed-forward layer. Default: 8/3 hidden_size, rounded up to 64.")
    ] = None
    max_position_embeddings: Annotated[
        int | None, Doc("Longest row. Default: seq_len, and 2,048 without one.")
    ] = None
    tie_word_embeddings: Annotated[bool, Doc("One matrix for embeddings and output.")] = False
    depth: Annotated[
        int | None,
        Doc(
            "nanochat's dial: this many layers of width 64 x depth, 524,288 tokens a step, 20 tokens a parameter, lr "
            "6e-4 x (width / 768)^-0.5; each may be given by its own option."
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse what does not go together, and numbers below 1."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in {"model_type", "tie_word_embeddings"} or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"train: {field.name} is {value!r}; expected a whole number, at least 1.")
            if value > (largest := _LARGEST.get(field.name, 2**31 - 1)):
                raise ConfigError(f"train: {field.name} is {value}; expected from 1 to {largest}.")
        if self.model_type is not None and self.model_type not in get_args(ModelType):
            raise ConfigError(
                f"train: model_type is {self.model_type!r}; expected one of {', '.join(get_args(ModelType))}."
            )
        if not self.is_given:
            return
        needed = ("num_hidden_layers", "hidden_size", "num_attention_heads")
        if self.depth is not None:
            if both := [name for name in needed[:2] if getattr(self, name) is not None]:
                raise ConfigError(f"train: depth decides {' and '.join(both)}. Give one of them.")
        elif missing := [name for name in needed if getattr(self, name) is None]:
            raise ConfigError(
                f"train: a shape needs {', '.join(missing)} too; or give a model's name, or depth alone."
            )
        if self.model_type == "gpt2":
            alien = ("num_key_value_heads", "head_dim", "intermediate_size", "depth")
            if given := [name for name in alien if getattr(self, name) is not None]:
                raise ConfigError(f"train: gpt2 has no {', '.join(given)}. Leave it out, or choose llama.")

    @property
    def is_given(self) -> bool:
        """Whether any option differs from its default."""
        return any(getattr(self, field.name) != field.default for field in dataclasses.fields(self))
