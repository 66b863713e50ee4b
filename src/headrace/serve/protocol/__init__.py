"""OpenAI's API on the wire: request bodies, errors, JSON and the OpenAPI document.

errors     what a client did wrong -> the error object and its status
schemas    JSON bodies -> checked values
json_io    HTTP request -> body; value -> JSON response
openapi    paths and schemas -> the OpenAPI 3.1 document
"""

from headrace.serve.protocol.errors import APIError, bad_request
from headrace.serve.protocol.json_io import json_response, read_body, read_json_lines
from headrace.serve.protocol.openapi import openapi_document
from headrace.serve.protocol.schemas import (
    BatchBody,
    ChatBody,
    ChatMessage,
    CompletionBody,
    DetokenizeBody,
    TokenizeBody,
    parse_fields,
    sampling_from,
)

__all__ = [
    "APIError",
    "BatchBody",
    "ChatBody",
    "ChatMessage",
    "CompletionBody",
    "DetokenizeBody",
    "TokenizeBody",
    "bad_request",
    "json_response",
    "openapi_document",
    "parse_fields",
    "read_body",
    "read_json_lines",
    "sampling_from",
]
