"""Options of a diagnosis: what is measured, how precisely, and what it may cost; each checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from typing_extensions import Doc

from headrace.errors import ConfigError

_MOST_TOKENS: Final = 2**28
_MOST_THREADS: Final = 1024
_MOST_SECONDS: Final = 3600

Method = Literal["auto", "blocks", "waits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseOptions:
    """Measurement."""

    steps: Annotated[int, Doc("Steps to measure at most; it ends earlier when the interval is narrow.")] = (
        1000
    )
    warmup_steps: Annotated[int, Doc("First steps that are left out: compilation, caches, first reads.")] = 5
    precision: Annotated[
        float, Doc("Half the width of the 95 % interval at which it ends, as a share of a step.")
    ] = 0.02
    block_steps: Annotated[int, Doc("Steps of a block whose batches are held in memory first.")] = 4
    max_cost: Annotated[float, Doc("Share of the loop's time that measuring may take.")] = 0.02
    method: Annotated[
        Method,
        Doc(
            'Compare steps that wait for data with steps whose data is in memory ("blocks"), add up the waits only '
            '("waits"), or choose ("auto"): waits only for loaders that save their position, that accelerate '
            "prepared, or that use a batch's memory again."
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        for name, low in (("steps", 10), ("warmup_steps", 0), ("block_steps", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"{name}={value!r}: expected an integer of at least {low}")
        for name in ("precision", "max_cost"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise ConfigError(f"{name}={value!r}: expected a share above 0 and below 1, such as 0.02")
        if self.method not in ("auto", "blocks", "waits"):
            raise ConfigError(f'method={self.method!r}: use "auto", "blocks" or "waits"')


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """Loader (of a store)."""

    model: Annotated[
        str | None, Doc("What reads the store: a run, or a name such as gpt3-125m. Does the loader keep up?")
    ] = None
    gpu: Annotated[str, Doc("GPU that a model given by name trains on; see `headrace plan --list-gpus`.")] = (
        "h100-80gb"
    )
    seq_len: Annotated[int, Doc("Tokens of a row.")] = 2048
    batch_size: Annotated[int, Doc("Rows of a batch.")] = 32
    shuffle: Annotated[Literal["auto", "global", "blocks", "none"], Doc("Order of the rows.")] = "auto"
    threads: Annotated[int | None, Doc("Threads that make batches; default: as the loader chooses.")] = None
    cache_dir: Annotated[str | None, Doc("For remote stores: a local directory for their blocks.")] = None
    seconds: Annotated[float, Doc("Seconds to read.")] = 3.0

    def __post_init__(self) -> None:
        for name in ("seq_len", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.batch_size * self.seq_len > _MOST_TOKENS:
            raise ConfigError(
                f"batch_size={self.batch_size} of seq_len={self.seq_len}: expected at most {_MOST_TOKENS:,} tokens a "
                "batch, as several are in memory"
            )
        if self.threads is not None and not 0 <= self.threads <= _MOST_THREADS:
            raise ConfigError(f"threads={self.threads}: expected at least 0 and at most {_MOST_THREADS:,}")
        if not 0 < self.seconds <= _MOST_SECONDS:
            raise ConfigError(
                f"seconds={self.seconds}: expected more than 0 and at most {_MOST_SECONDS:,}, an hour"
            )
