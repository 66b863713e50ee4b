"""What users can set of a generation job: sampling, the engine, prompts and output."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args

from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.types import Flag

EngineName: TypeAlias = Literal["native", "transformers", "vllm"]
DType: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
Distribute: TypeAlias = Literal["local", "ray"]
OutputFormat: TypeAlias = Literal["parquet", "jsonl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """Sampling.

    How tokens are chosen and when a sample ends. Applied in this order: penalties, temperature, top-k,
    top-p, min-p.

    >>> SamplingOptions(temperature=0.7, top_p=0.9).greedy
    False
    """

    max_new_tokens: Annotated[int, Doc("Maximum number of generated tokens of a sample.")] = 64
    temperature: Annotated[float, Doc("0 is greedy decoding.")] = 0.0
    top_k: Annotated[int | None, Doc("Sample among the k most likely tokens.")] = None
    top_p: Annotated[
        float | None, Doc("Sample among the most likely tokens with this total probability.")
    ] = None
    min_p: Annotated[
        float | None, Doc("Drop tokens less likely than this share of the most likely token's probability.")
    ] = None
    # Keskar et al. 2019: positive logits are divided, negative ones multiplied.
    repetition_penalty: Annotated[
        float, Doc("Divides the logits of tokens that are in the prompt or the output; 1 is none.")
    ] = 1.0
    presence_penalty: Annotated[
        float, Doc("Subtracted from the logit of each token that is in the output; 0 is none.")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Doc("The same, multiplied by the token's count in the output; 0 is none.")
    ] = 0.0
    stop: Annotated[
        tuple[str, ...], Doc("A string that ends a sample and is cut off; may be given several times.")
    ] = ()
    ignore_eos: Annotated[bool, Doc("Continue after an end-of-text token.")] = False
    logprobs: Annotated[
        bool, Doc("Store the log-probability of each generated token, before temperature and penalties.")
    ] = False
    prompt_logprobs: Annotated[
        bool, Doc("Store the log-probability of each token of the prompt as well.")
    ] = False
    top_logprobs: Annotated[
        int,
        Doc("Store this many of the likeliest tokens at each generated token, with their log-probabilities."),
    ] = 0
    seed: Annotated[
        int, Doc("Random seed; with the prompt's id and the sample's index it determines each sample.")
    ] = 0

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        stop: Any = self.stop  # callers without a type checker give a string or a list
        object.__setattr__(self, "stop", (stop,) if isinstance(stop, str) else tuple(stop))
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
        for name, (valid, expected) in checks.items():
            if not valid:
                raise ConfigError(f"sampling: {name} is {getattr(self, name)!r}; it must be {expected}.")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0

    @property
    def truncated(self) -> bool:
        """Whether only part of the vocabulary can be sampled."""
        return self.top_k is not None or (self.top_p or 1.0) < 1.0 or bool(self.min_p)

    @property
    def penalized(self) -> bool:
        """Whether earlier tokens change a token's logit."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def to_json(self) -> dict[str, Any]:
        """All fields, as they enter a job's run id."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCacheOptions:
    """Prefix cache.

    Keys and values of what prompts have in common at their beginning, kept so that each is computed once. None of
    these changes what is generated, beyond the rounding that a batch has as well.
    """

    directory: Annotated[
        str | None,
        Doc(
            "A local directory that keeps prefixes over restarts and shares them among workers of a machine."
        ),
        Flag("--prefix-cache"),
    ] = None
    memory_bytes: Annotated[
        int,
        Doc("Memory for prefixes, of each worker; 0 computes every prompt from its beginning."),
        Flag("--prefix-cache-memory-bytes"),
    ] = 1 << 30
    disk_bytes: Annotated[int, Doc("Bound of the directory's files."), Flag("--prefix-cache-disk-bytes")] = (
        20 << 30
    )
    keep_answers: bool = False
    """Keep generated tokens as well, for the next turn of a conversation; servers do."""

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the option.
        """
        for name in ("memory_bytes", "disk_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"prefix_cache_{name} is {getattr(self, name)}; expected 0 or more.")
        if self.directory == "":
            raise ConfigError("prefix_cache is empty. Give a local directory, or leave it out.")
        if self.directory is not None and not self.memory_bytes:
            raise ConfigError(
                "prefix_cache_memory_bytes is 0, and prefix_cache names a directory: blocks pass through memory. Give "
                "some, or leave prefix_cache out."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Engine.

    What runs the model, and on how many processes. None of these but the engine and the dtype changes what is
    generated, so that a job may be resumed with other values.
    """

    name: Annotated[
        EngineName,
        Doc("What runs the model: headrace's own engine, transformers' continuous batching, or vLLM."),
        Flag("--engine"),
    ] = "native"
    dtype: Annotated[DType, Doc("Type of the weights; auto: as they are stored, on a CPU float32.")] = "auto"
    device: Annotated[str, Doc("cpu, cuda, or auto: a GPU where there is one.")] = "auto"
    batch_size: Annotated[int, Doc("Rows that each worker generates at the same time.")] = 32
    workers: Annotated[int, Doc("Copies of the model among which the prompts are distributed.")] = 1
    distribute: Annotated[
        Distribute, Doc("Where workers run: processes of this machine, or actors of a Ray cluster.")
    ] = "local"
    prefix_cache: PrefixCacheOptions = PrefixCacheOptions()
    """What is kept of prompts that have been computed; of the native engine."""

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        _check_choice("engine", self.name, EngineName)
        _check_choice("dtype", self.dtype, DType)
        _check_choice("distribute", self.distribute, Distribute)
        for name in ("batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"generate: {name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """Prompts.

    How prompts become token ids, and how many samples each has.
    """

    num_samples: Annotated[int, Doc("Samples of each prompt.")] = 1
    add_special_tokens: Annotated[
        bool, Doc("Add what the model's tokenizer adds to a text, such as a beginning-of-text token.")
    ] = True
    split_special_tokens: Annotated[
        bool, Doc("Read special tokens that are written in a prompt, such as <|im_start|>, as plain text.")
    ] = False

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        if self.num_samples < 1:
            raise ConfigError(f"generate: num_samples is {self.num_samples}; it must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Output.

    How predictions are stored.
    """

    format: Annotated[OutputFormat, Doc("File format of the stored predictions.")] = "parquet"
    retry_errors: Annotated[bool, Doc("Generate the samples again whose stored row is an error.")] = False
    rebuild_commits: Annotated[
        bool, Doc("First rebuild the output's commit database, if it was lost, from the stored parts.")
    ] = False

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        _check_choice("format", self.format, OutputFormat)


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ConfigError(f"generate: no {name} named {value!r}; choose {', '.join(get_args(choices))}.")
