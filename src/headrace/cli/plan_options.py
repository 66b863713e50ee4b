"""Options of `headrace plan` -> frozen values: model, hardware, work, fixed degrees, output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.types import Flag


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanModelOptions:
    """Model."""

    model: Annotated[
        str | None,
        Doc("A name (gpt3-13b, llama3-8b, ...), a run, a Hugging Face directory or a config.json."),
    ] = None
    layers: Annotated[int | None, Doc("Or its shape: layers,")] = None
    width: Annotated[int | None, Doc("hidden size,")] = None
    heads: Annotated[int | None, Doc("attention heads,")] = None
    kv_heads: Annotated[int | None, Doc("key/value heads; default: as many as heads,")] = None
    ffn: Annotated[int | None, Doc("feed-forward width; default 4 x width,")] = None
    gated: Annotated[bool, Doc("with a gate (SwiGLU, GeGLU),")] = False
    vocab: Annotated[int, Doc("ids of the vocabulary.")] = 50304


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareOptions:
    """Hardware."""

    gpu: Annotated[str | None, Doc("A GPU of the table; --list-gpus shows it. Default: h100-80gb.")] = None
    gpus: Annotated[
        int | None,
        Doc("How many, over all nodes. Default: 8; with --here this machine's, a CPU counting as one."),
    ] = None
    gpus_per_node: Annotated[int | None, Doc("Default: the table's.")] = None
    hardware: Annotated[str | None, Doc("TOML file with figures of your own; see docs/plan.md.")] = None
    here: Annotated[
        bool, Doc("This machine, CPUs too: short probes of products, memory, disk and all-reduces, cached.")
    ] = False
    measure_again: Annotated[bool, Doc("With --here: probe although the figures are cached.")] = False
    list_gpus: Annotated[bool, Doc("Print the table of GPUs and end.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOptions:
    """Work."""

    seq_len: Annotated[int, Doc("Tokens of a row.")] = 2048
    batch_size: Annotated[int, Doc("Rows of an optimizer step, over all GPUs.")] = 512
    dtype: Annotated[
        Literal["auto", "bf16", "fp8", "fp4", "float32"],
        Doc("Of matrix products. auto: bf16, or float32 where that is faster."),
    ] = "auto"
    tokens: Annotated[float, Doc("Tokens to train on in all.")] = 300e9
    store: Annotated[
        str | None,
        Doc(
            "The store to train on: its codec, stored bytes of a token and what a core decodes are measured on it, and "
            "its tokens are an epoch."
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse what is no number of tokens.

        Raises:
            ConfigError: says what was given.
        """
        if not 0 < self.tokens < math.inf:
            raise ConfigError(f"plan: tokens is {self.tokens:g}; expected a number above 0, such as 300e9")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutOptions:
    """Degrees that may not vary (default: all are tried)."""

    dp: Annotated[int, Doc("Data-parallel ranks.")] = -1
    tp: Annotated[int, Doc("Tensor-parallel degree.")] = -1
    pp: Annotated[int, Doc("Pipeline stages.")] = -1
    cp: Annotated[int, Doc("Context-parallel degree.")] = 1
    micro_batch: Annotated[int, Doc("Rows that a rank runs at once.")] = -1
    interleave: Annotated[int, Doc("Stages that a pipeline rank holds.")] = -1
    shard: Annotated[Literal["any", "none", "zero2", "zero3"], Doc("What data-parallel ranks share.")] = "any"
    recompute: Annotated[Literal["any", "none", "selective", "full"], Doc("Of activations.")] = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOutputOptions:
    """Output."""

    top: Annotated[int, Doc("Layouts to show.")] = 8
    why: Annotated[str | None, Doc("Explain one layout, e.g. dp=8,tp=2, line by line.")] = None
    calibrate: Annotated[
        str | None, Doc("CSV of measured runs, or the file of plan calibrate --out, to learn from.")
    ] = None
    system: Annotated[str | None, Doc("Use the constants of this calibrated system.")] = None
    page: Annotated[str | None, Doc("Write an HTML page: memory against time of all layouts.")] = None
    as_json: Annotated[bool, Doc("Print everything as JSON on stdout."), Flag("--json")] = False

    def __post_init__(self) -> None:
        """Refuse values without a meaning.

        Raises:
            ConfigError: says which, and what is expected.
        """
        if self.top < 1:
            raise ConfigError(f"plan: top is {self.top}; expected a whole number above 0")
        if self.page is not None and self.why is not None:
            raise ConfigError("plan: --page draws all layouts and --why explains one; give one of them")
