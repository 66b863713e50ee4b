"""Prompts and a model -> predictions.

read/      files, lists, batch lines, conversations -> prompts
request    one sample to be made -> what happened to it
row        one sample while it is made: its tokens, its text, its end
engine     requests -> tokens, rows entering and leaving at every step
decode/    one step's tokens -> logits: headrace's GPT, Hugging Face models, one row in C
sample/    logits -> tokens
text       tokens -> final text
adapt/     other libraries' engines: transformers' continuous batching, vLLM
share/     several workers with an engine each, as one more engine
directory  ids that begin and end a text, as a model's directory says
models     a model's directory -> an engine that is ready
job        prompts + engine + sink -> every sample stored once
run        all of it from a model's directory
"""

from headrace.generation.engine import Engine
from headrace.generation.job import GenerateSummary, run_job
from headrace.generation.read.prompts import Prompt, read_prompts
from headrace.generation.request import Request, Token
from headrace.generation.run import generate
from headrace.generation.sample.sampling import Sampling

__all__ = [
    "Engine",
    "GenerateSummary",
    "Prompt",
    "Request",
    "Sampling",
    "Token",
    "generate",
    "read_prompts",
    "run_job",
]
