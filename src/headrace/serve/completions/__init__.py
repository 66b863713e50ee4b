"""A request body and a model -> OpenAI's response.

model      model directory -> prompts to ids, ids to text, messages to a prompt
parse      body -> the engine's requests
offsets    tokens -> where each begins in the text
format     tokens -> frames of a stream, or one object
respond    both on the wire; the samples of a client that disconnects are cancelled
"""

from headrace.serve.completions.format import ResponseFormatter
from headrace.serve.completions.model import ServedModel
from headrace.serve.completions.parse import ParsedRequest, parse_request
from headrace.serve.completions.respond import CompletionResponse, collect, submitted

__all__ = [
    "CompletionResponse",
    "ParsedRequest",
    "ResponseFormatter",
    "ServedModel",
    "collect",
    "parse_request",
    "submitted",
]
