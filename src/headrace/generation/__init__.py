"""Prompts and a model -> predictions.

options          what users can set
prompts/         files, lists, batch lines, conversations -> prompts
request          one sample to generate -> its tokens and its prediction
decoding/        a step's tokens -> logits
sampling/        logits -> tokens
detokenizer      tokens -> text that is final
engines/         requests -> finished rows: native, transformers, vLLM
share/           several workers with an engine each, as one more engine
model_directory  special token ids, as a model's directory defines them
loading          a model's directory -> an engine that is ready
job              prompts, an engine and a sink -> every sample stored once
run              the whole job, from the model's directory to the stored predictions
"""

from headrace.generation.engines import NativeEngine
from headrace.generation.job import GenerateSummary, run_job
from headrace.generation.loading import LoadedEngine, load_engine
from headrace.generation.options import SamplingOptions
from headrace.generation.prompts import (
    DEFAULT_TOKENS,
    ChatTemplate,
    Prompt,
    load_chat_template,
    read_prompts,
)
from headrace.generation.request import Request, Token
from headrace.generation.run import generate

__all__ = [
    "DEFAULT_TOKENS",
    "ChatTemplate",
    "GenerateSummary",
    "LoadedEngine",
    "NativeEngine",
    "Prompt",
    "Request",
    "SamplingOptions",
    "Token",
    "generate",
    "load_chat_template",
    "load_engine",
    "read_prompts",
    "run_job",
]
