"""Prompts and a model -> predictions.

prompts     files or lists -> prompts
twins       ids -> those that came twice
chat        messages -> a prompt, by the model's own template
sampling    what is asked of each sample
chance      (seed, prompt, sample), index -> a uniform number
sample      logits -> tokens
text        tokens -> final text
attend      one step's tokens -> attention over each row's past
native      headrace's GPT, a step at a time
engine      requests -> tokens, rows entering and leaving at every step
hf_batching transformers' continuous batching, as one more engine
vllm        vLLM, as one more engine
fleet       several workers with an engine each, as one more engine
job         prompts + engine + sink -> every sample stored once
run         all of it from a model's directory
"""

from headrace.generate.engine import Engine
from headrace.generate.job import GenerateSummary, run_job
from headrace.generate.prompts import Prompt, read_prompts
from headrace.generate.request import Request, Token
from headrace.generate.run import generate
from headrace.generate.sampling import Sampling

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
