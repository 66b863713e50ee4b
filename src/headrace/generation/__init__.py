"""Prompts and a model -> predictions.

options          what users can set
prompts/         files, lists, batch lines, conversations -> prompts
request          one sample to generate -> its tokens and its prediction
prefix_cache/    keys and values of prompts' common prefixes
decoding/        a step's tokens -> logits
sampling/        logits -> tokens
detokenizer      tokens -> text that is final
engines/         requests -> finished rows: native, transformers, vLLM
distributed      several workers with an engine each, as one more engine
model_directory  special token ids, as a model's directory defines them
loading          a model's directory -> an engine that is ready
job              prompts, an engine and a sink -> every sample stored once
in_memory        a model that is in memory and prompts -> predictions
run              the whole job, from the model's directory to the stored predictions

Names that need torch are imported when they are first used: the command line reads the options without it. Importing
this package before torch limits how long OpenMP threads spin, see `headrace.platform.limit_openmp_spinning`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.generation.options import (
    EngineOptions,
    OutputOptions,
    PrefixCacheOptions,
    PromptOptions,
    SamplingOptions,
)
from headrace.platform import limit_openmp_spinning

if TYPE_CHECKING:
    from headrace.generation.engines import EncoderDecoderEngine, NativeEngine
    from headrace.generation.in_memory import predict
    from headrace.generation.job import GenerateSummary, run_job
    from headrace.generation.loading import LoadedEngine, load_engine, load_prompts
    from headrace.generation.prompts import (
        DEFAULT_TOKENS,
        NEUTRAL_FIELDS,
        ChatTemplate,
        Prompt,
        load_chat_template,
        read_prompts,
        survey_prompts,
    )
    from headrace.generation.request import Request, Token
    from headrace.generation.run import generate

limit_openmp_spinning()

_MODULE_OF = {
    "EncoderDecoderEngine": "engines",
    "NativeEngine": "engines",
    "predict": "in_memory",
    "GenerateSummary": "job",
    "run_job": "job",
    "LoadedEngine": "loading",
    "load_engine": "loading",
    "load_prompts": "loading",
    "DEFAULT_TOKENS": "prompts",
    "NEUTRAL_FIELDS": "prompts",
    "ChatTemplate": "prompts",
    "Prompt": "prompts",
    "load_chat_template": "prompts",
    "read_prompts": "prompts",
    "survey_prompts": "prompts",
    "Request": "request",
    "Token": "request",
    "generate": "run",
}

__all__ = [
    "DEFAULT_TOKENS",
    "NEUTRAL_FIELDS",
    "ChatTemplate",
    "EncoderDecoderEngine",
    "EngineOptions",
    "GenerateSummary",
    "LoadedEngine",
    "NativeEngine",
    "OutputOptions",
    "PrefixCacheOptions",
    "Prompt",
    "PromptOptions",
    "Request",
    "SamplingOptions",
    "Token",
    "generate",
    "load_chat_template",
    "load_engine",
    "load_prompts",
    "predict",
    "read_prompts",
    "run_job",
    "survey_prompts",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
